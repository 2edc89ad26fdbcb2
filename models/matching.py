"""Which stored tensors fill which parts of a model: names, shapes and dtypes, before anything is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ..errors import ModelError
from .config import ModelConfig
from .quant.config import EMBEDDING, LM_HEAD, QuantScheme
from .quant.layout import TensorSpec, layout_of
from .safetensors_reader import FLOAT_DTYPES, StoredTensor, TensorReader
from .text_model import TextModel

DENSE = "weight"
FOLLOWING = ("rotary_emb.inv_freq", "embeddings.position_ids", "embeddings.token_type_ids")
MAX_NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class StoredModule:
    """A module of the checkpoint that is a matrix, or rows of one.

    Attributes:
        name: Its name, without `.weight`.
        rows: N.
        columns: K.
        scheme: How its integers are stored, or None for a float matrix.
        tensors: The stored tensors by the last part of their names; a float matrix has `weight` alone.
    """

    name: str
    rows: int
    columns: int
    scheme: QuantScheme | None
    tensors: Mapping[str, StoredTensor]


@dataclass(slots=True)
class Sources:
    """Where everything in a model comes from.

    Attributes:
        vectors: The stored tensor of each norm and bias, by the model's name of it.
        modules: Every module of every matrix, by its name.
    """

    vectors: dict[str, StoredTensor] = field(default_factory=dict[str, StoredTensor])
    modules: dict[str, StoredModule] = field(default_factory=dict[str, StoredModule])


def heads_differ(stored: Mapping[str, StoredTensor]) -> bool:
    """Whether input and output embeddings are both stored and are not the same matrix."""
    if any(name.startswith(f"{LM_HEAD}.") and name != f"{LM_HEAD}.{DENSE}" for name in stored):
        return True  # the output projection is stored as integers
    names = (f"{EMBEDDING}.{DENSE}", f"{LM_HEAD}.{DENSE}")
    both = [stored[name] for name in names if name in stored]
    if len(both) < 2 or both[0].shape != both[1].shape:
        return False
    first, second = TensorReader().read(both[0]), TensorReader().read(both[1])
    return not first.equal(second)


def match(skeleton: TextModel, stored: Mapping[str, StoredTensor], config: ModelConfig) -> Sources:
    """Finds what fills each tensor of a model.

    Checkpoints saved without their head lack the prefix `model.` (see `TextModel.body`). Where input and
    output embeddings are tied, either or both may be stored; the input's counts.

    Args:
        skeleton: The model, of which only names and shapes are looked at.
        stored: The checkpoint's tensors.
        config: The checkpoint's configuration.

    Raises:
        ModelError: Naming tensors that are missing or unexpected, or one of a wrong shape or dtype.
    """
    return _Matcher(skeleton, stored, config).match()


class _Matcher:
    def __init__(self, skeleton: TextModel, stored: Mapping[str, StoredTensor], config: ModelConfig) -> None:
        self.skeleton = skeleton
        self.config = config
        named = {_today(name): tensor for name, tensor in stored.items()}
        self.stored = {**{skeleton.body + name: tensor for name, tensor in named.items()}, **named}
        self.sources = Sources()
        self.used: set[StoredTensor] = set()
        self.missing: list[str] = []
        # Old checkpoints store what follows from the configuration.
        self.unused = {t for name, t in stored.items() if not name.endswith(FOLLOWING)}

    def match(self) -> Sources:
        skeleton = self.skeleton
        for matrix in skeleton.matrices():
            for name, rows in matrix.parts.items():
                self._module(name, rows, matrix.owner.weight.in_features)
        for name, tensor in skeleton.vectors():
            self._vector(name, tensor)
        if self.missing:
            raise ModelError(f"The checkpoint lacks {_some(self.missing)}.")
        unexpected = [tensor.name for tensor in self.unused - self.used if not self._may_be_left(tensor)]
        if unexpected:
            raise ModelError(
                "The checkpoint holds tensors that this architecture does not have: "
                f"{_some(sorted(unexpected))}."
            )
        return self.sources

    def _vector(self, name: str, tensor: Tensor) -> None:
        spec = TensorSpec(tuple(tensor.shape), FLOAT_DTYPES)
        found = self._find(name, spec)
        if found is not None:
            self.sources.vectors[name] = found

    def _module(self, name: str, rows: int, columns: int) -> None:
        scheme = self.config.scheme_of(name)
        if scheme is None:
            specs = {DENSE: TensorSpec((rows, columns), FLOAT_DTYPES)}
        else:
            specs = layout_of(scheme).expected(name, scheme, rows, columns)
            self._refuse_dense(name, scheme)
        tensors: dict[str, StoredTensor] = {}
        for suffix, spec in specs.items():
            found = self._find(f"{name}.{suffix}", spec)
            if found is not None:
                tensors[suffix] = found
        self.sources.modules[name] = StoredModule(name, rows, columns, scheme, tensors)

    def _find(self, name: str, spec: TensorSpec) -> StoredTensor | None:
        """The stored tensor of a name, checked; notes that it is missing, unless it need not be there."""
        tensor = self.stored.get(name)
        if tensor is None and name == f"{EMBEDDING}.{DENSE}" and self.config.tie_word_embeddings:
            tensor = self.stored.get(f"{LM_HEAD}.{DENSE}")
        if tensor is None:
            if spec.required:
                self.missing.append(name)
            return None
        self.used.add(tensor)
        if tensor.shape != spec.shape:
            raise ModelError(
                f"{tensor.name} in {tensor.file} has the shape {list(tensor.shape)}; "
                f"config.json asks for {list(spec.shape)}."
            )
        if tensor.dtype not in spec.dtypes:
            expected = "" if spec.dtypes == FLOAT_DTYPES else f"; it must be {' or '.join(spec.dtypes)}"
            what = f"{tensor.name} in {tensor.file} is stored as {tensor.dtype}"
            raise ModelError(f"{what}, which is not supported{expected}.")
        return tensor

    def _refuse_dense(self, name: str, scheme: QuantScheme) -> None:
        """Raises if a matrix that the configuration announces as integers is stored as floats."""
        dense = self.stored.get(f"{name}.{DENSE}")
        if dense is not None:
            raise ModelError(
                f"{dense.name} in {dense.file} is a float matrix ({dense.dtype}); config.json's quantization "
                f"announces {scheme.method} with {scheme.bits} bits for it."
            )

    def _may_be_left(self, tensor: StoredTensor) -> bool:
        """Whether a stored tensor that nothing in the model takes is known to be of no consequence."""
        name = tensor.name
        if self.config.tie_word_embeddings and name == f"{LM_HEAD}.{DENSE}":
            return True
        if name.startswith(self.skeleton.unused) or (self.skeleton.body + name).startswith(
            self.skeleton.unused
        ):
            return True
        module, _, last = name.rpartition(".")
        if last != "bias" or self.config.scheme_of(module) is None:
            return False
        # Old GPTQ files have a bias of zeros for every matrix, whether the architecture has one or not.
        known = self.sources.modules.get(module) or self.sources.modules.get(f"model.{module}")
        if known is None or tensor.shape != (known.rows,) or tensor.dtype not in FLOAT_DTYPES:
            return False
        return not TensorReader().read(tensor).any()


def _today(name: str) -> str:
    """The name of a tensor as it is written today: BERT's norms once had a gamma and a beta."""
    for old, new in (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")):
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _some(names: list[str]) -> str:
    shown = ", ".join(name[:100] for name in names[:MAX_NAMES_SHOWN])
    return shown if len(names) <= MAX_NAMES_SHOWN else f"{shown} and {len(names) - MAX_NAMES_SHOWN} more"
