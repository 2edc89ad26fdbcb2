"""What a checkpoint's `quantization_config` says about its integer weights, checked.

Three dialects are read. AutoAWQ's and GPTQModel's (and AutoGPTQ's) describe one scheme for all matrices
of the decoder layers, with exceptions; compressed-tensors' has groups of matrices, each with a scheme.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, cast

from ...errors import ModelError
from ..config_reader import Fields
from .patterns import MAX_PATTERNS, compile_pattern

QuantMethod = Literal["awq", "gptq", "compressed-tensors"]

LAYOUTS: dict[QuantMethod, str] = {
    "awq": "awq",
    "gptq": "gptq",
    "compressed-tensors": "compressed_tensors",
}
"""quant_method -> the module of this package that reads its tensors."""

GROUP_SIZES = (16, 32, 64, 128, 256, 512, 1024)
EMBEDDING = "model.embed_tokens"
LM_HEAD = "lm_head"
SCORE = "score"  # the head of a classifier
LAYERS = "layers."


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantScheme:
    """How the integer values of a matrix are stored.

    Attributes:
        method: Whose layout.
        bits: Of a value: 4 or 8.
        group_size: Columns that share a scale; 0 for one scale per row.
        symmetric: Whether all zero points are the middle of the range, as the configuration says.
        activation_order: Whether columns belong to groups in an order of their own (`g_idx`).
        zero_offset: What was subtracted from the zero points that are stored: 1 in GPTQ's first format.
    """

    method: QuantMethod
    bits: int
    group_size: int
    symmetric: bool
    activation_order: bool = False
    zero_offset: int = 0


Rule = tuple[Callable[[str], bool], "QuantScheme | None"]
"""Whether a rule is about a module, by its name, and the module's scheme; None for a float matrix."""


@dataclass(frozen=True, slots=True)
class QuantizationConfig:
    """Which modules are stored as integers, and how.

    Attributes:
        method: As config.json names it.
        rules: The first that is about a module decides; without one it is a float matrix.
        summary: All that the rules were made from, as one text.
    """

    method: QuantMethod
    rules: tuple[Rule, ...] = field(compare=False, repr=False)
    summary: str

    def scheme(self, module: str) -> QuantScheme | None:
        """The scheme of a module, by its name without `.weight`; None if it is a float matrix."""
        for applies, scheme in self.rules:
            if applies(module):
                return scheme
        return None


def read_quantization(config: Fields) -> QuantizationConfig | None:
    """Reads config.json's `quantization_config` or `compression_config`; None if it has neither.

    Raises:
        ModelError: A method, format or value in it is not supported, or malformed; names it.
    """
    fields = config.object("quantization_config") or config.object("compression_config")
    if fields is None:
        return None
    method = fields.string("quant_method", "compressed-tensors" if fields.has("config_groups") else "unknown")
    method = method.lower()
    if method == "awq":
        rules = _awq(fields)
    elif method == "gptq":
        rules = _gptq(fields)
    elif method == "compressed-tensors":
        rules = _compressed_tensors(fields)
    else:
        raise ModelError(
            f"{fields.source}: quant_method {method[:80]!r} is not supported; quire reads "
            f"{', '.join(LAYOUTS)}, and rounds float checkpoints itself (quantization=int8 or int4)."
        )
    return QuantizationConfig(method, tuple(rules), repr(fields.values))


def _in_decoder_layer(module: str) -> bool:
    return LAYERS in module


def _anything(_module: str) -> bool:
    return True


def _contains(part: str) -> Callable[[str], bool]:
    return lambda module: part in module


def _ends_with(part: str) -> Callable[[str], bool]:
    return lambda module: module == part or module.endswith(f".{part}")


def _matches(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda module: pattern.match(module) is not None


def _awq(fields: Fields) -> list[Rule]:
    """AutoAWQ: `bits`, `group_size`, `zero_point`, `version`, `modules_to_not_convert` (parts of names)."""
    version = fields.string("version", "gemm").lower()
    if version != "gemm":
        raise fields.error("version", "gemm, the one AWQ layout that quire reads")
    # Older files have the names of AutoAWQ's own options.
    bits_name = "w_bit" if fields.has("w_bit") else "bits"
    if fields.integer(bits_name, 4, high=64) != 4:
        raise fields.error(bits_name, "4")
    size_name = "q_group_size" if fields.has("q_group_size") else "group_size"
    scheme = QuantScheme(
        method="awq",
        bits=4,
        group_size=_group_size(fields, 128, size_name),
        symmetric=not fields.boolean("zero_point", True),
    )
    skipped = _few(fields.strings("modules_to_not_convert"), fields, "modules_to_not_convert")
    return [*((_contains(name), None) for name in skipped if name), (_in_decoder_layer, scheme)]


def _gptq(fields: Fields) -> list[Rule]:
    """GPTQModel and AutoGPTQ.

    `bits`, `group_size` (-1 for whole rows), `sym`, `desc_act`, `checkpoint_format` ("gptq", whose zero
    points are stored less one, or "gptq_v2"), `lm_head`, and `dynamic`: exceptions by regular
    expression, `-:` for float matrices and `+:` or nothing for other values of these fields. AutoGPTQ's
    `modules_in_block_to_quantize` names the only modules of a layer that are integers.
    """
    name = "checkpoint_format" if fields.has("checkpoint_format") else "format"
    format_ = fields.string(name, "gptq").lower()
    if format_ not in ("gptq", "gptq_v2"):
        raise fields.error(name, "gptq or gptq_v2")
    if fields.boolean("is_marlin_format"):
        raise fields.error("is_marlin_format", "false")
    if fields.string("pack_dtype", "int32") != "int32":
        raise fields.error("pack_dtype", "int32")
    scheme = _gptq_scheme(fields, 0 if format_ == "gptq_v2" else 1)
    has_head = fields.boolean("lm_head")
    only = [_ends_with(name) for name in _flattened(fields, "modules_in_block_to_quantize")]

    def is_float(module: str) -> bool:
        if not _in_decoder_layer(module):
            return not (has_head and module == LM_HEAD)
        return bool(only) and not any(applies(module) for applies in only)

    rules: list[Rule] = [(is_float, None)]
    dynamic = fields.object("dynamic") or Fields({}, fields.source)
    for pattern in _few(list(dynamic.values), dynamic, "dynamic"):
        applies = _matches(compile_pattern(pattern.removeprefix("-:").removeprefix("+:"), dynamic.source))
        if pattern.startswith("-:"):
            rules.append((applies, None))
        else:
            changes = dynamic.object(pattern) or Fields({}, dynamic.source)
            merged = Fields({**fields.values, **changes.values}, changes.source)
            rules.append((applies, _gptq_scheme(merged, scheme.zero_offset)))
    return [*rules, (_anything, scheme)]


def _gptq_scheme(fields: Fields, zero_offset: int) -> QuantScheme:
    return QuantScheme(
        method="gptq",
        bits=_bits(fields, "bits"),
        group_size=_group_size(fields, 128),
        symmetric=fields.boolean("sym", True),
        activation_order=fields.boolean("desc_act"),
        zero_offset=zero_offset,
    )


def _compressed_tensors(fields: Fields) -> list[Rule]:
    """compressed-tensors, the format "pack-quantized" of integers without rounded activations.

    `config_groups` maps arbitrary names to groups: `targets`, which are module names, `re:` and a
    regular expression, or the class "Linear", and `weights`: `num_bits`, `type`, `symmetric`, `strategy`
    ("group" with `group_size`, or "channel"), `actorder`. `ignore` names modules as targets do.
    """
    _check_format(fields, "pack-quantized")
    for name in ("kv_cache_scheme", "transform_config"):
        if fields.values.get(name):
            raise fields.error(name, "null")
    sparsity = fields.object("sparsity_config")
    if sparsity is not None and sparsity.string("format", "dense") != "dense":
        raise sparsity.error("format", "dense")
    ignored = [_target(name, fields) for name in _few(fields.strings("ignore"), fields, "ignore")]
    rules: list[Rule] = [(lambda module: any(applies(module) for applies in ignored), None)]
    groups = fields.object("config_groups")
    if groups is None or not groups.values:
        raise fields.error("config_groups", "an object with at least one group")
    by_class: list[Rule] = []
    for name in _few(list(groups.values), groups, "config_groups"):
        group = groups.object(name)
        if group is None:
            raise groups.error(name, "an object")
        scheme = _compressed_scheme(group)
        for target in _few(group.strings("targets"), group, "targets"):
            # A module's own name or an expression goes before its class.
            (by_class if target == "Linear" else rules).append((_target(target, group), scheme))
    return rules + by_class


def _compressed_scheme(group: Fields) -> QuantScheme:
    _check_format(group, "pack-quantized")
    for name in ("input_activations", "output_activations"):
        if group.values.get(name):
            raise group.error(name, "null, as only weights are stored as integers")
    weights = group.object("weights")
    if weights is None:
        raise group.error("weights", "an object")
    if weights.string("type", "int").lower() != "int":
        raise weights.error("type", "int")
    if weights.values.get("dynamic"):
        raise weights.error("dynamic", "false")
    default = "group" if weights.has("group_size") and weights.values["group_size"] != -1 else "channel"
    strategy = weights.string("strategy", default).lower()
    if strategy not in ("group", "channel"):
        raise weights.error("strategy", "group or channel")
    order = "" if weights.values.get("actorder") in (None, False) else weights.string("actorder").lower()
    if order not in ("", "weight", "static", "group", "dynamic"):
        raise weights.error("actorder", "group, weight, static, dynamic or null")
    return QuantScheme(
        method="compressed-tensors",
        bits=_bits(weights, "num_bits"),
        group_size=_group_size(weights) if strategy == "group" else 0,
        symmetric=weights.boolean("symmetric", True),
        # "weight" orders the columns while they are rounded, which leaves no trace in what is stored.
        activation_order=order in ("group", "dynamic"),
    )


def _check_format(fields: Fields, format_: str) -> None:
    if fields.string("format", format_) != format_:
        raise fields.error("format", format_)


def _target(name: str, fields: Fields) -> Callable[[str], bool]:
    """A target of compressed-tensors: "Linear" for every matrix but the embedding, a name, or `re:...`."""
    if name == "Linear":
        return lambda module: _in_decoder_layer(module) or module == LM_HEAD
    if name.startswith("re:"):
        return _matches(compile_pattern(name.removeprefix("re:"), fields.source))
    return lambda module: module == name


def _bits(fields: Fields, name: str) -> int:
    bits = fields.integer(name, high=64)
    if bits not in (4, 8):
        raise fields.error(name, "4 or 8")
    return bits


def _group_size(fields: Fields, default: int | None = None, name: str = "group_size") -> int:
    """A size that quire has, or 0 for -1, which means whole rows."""
    size = fields.integer(name, default, low=-1)
    if size != -1 and size not in GROUP_SIZES:
        raise fields.error(name, f"-1 or one of {', '.join(map(str, GROUP_SIZES))}")
    return 0 if size == -1 else size


def _flattened(fields: Fields, name: str) -> list[str]:
    """A list of names, or of lists of names."""
    value: object = fields.values.get(name)
    names: list[str] = []
    for item in cast("list[object]", value) if isinstance(value, list) else [] if value is None else [value]:
        inner = Fields({name: item if isinstance(item, list) else [item]}, fields.source)
        names += inner.strings(name)
    return _few(names, fields, name)


def _few(names: list[str], fields: Fields, name: str) -> list[str]:
    """The names, unless there are more than any model has modules."""
    if len(names) > MAX_PATTERNS:
        raise ModelError(f"{fields.source}: {name} has {len(names)} entries; {MAX_PATTERNS} are allowed.")
    return names
