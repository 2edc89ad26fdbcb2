"""Filling a model from safetensors, one tensor at a time, or with random weights for measuring.

All names, shapes and dtypes are compared with the model's before any memory is taken for it. Each
tensor is then copied from the mapped file straight to its place, converted on the way, so that
loading needs little more memory than the model.
"""

from __future__ import annotations

import logging
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Literal, NoReturn

import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import ModelError
from .causal_lm import CausalLM
from .config import ModelConfig
from .layers import Linear
from .registry import model_class
from .safetensors_reader import FLOAT_DTYPES, StoredTensor, read_tensors, stored_tensors

logger = logging.getLogger(__name__)

EMBEDDING = "model.embed_tokens.weight"
LM_HEAD = "lm_head.weight"
MAX_NAMES_SHOWN = 5


def load_model(
    folder: Path,
    config: ModelConfig,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    load_format: Literal["auto", "dummy"] = "auto",
    seed: int = 0,
    progress: bool = False,
    max_model_len: int | None = None,
) -> CausalLM:
    """Builds a model and fills it.

    Args:
        folder: A checkpoint in Hugging Face format; not looked at for "dummy".
        config: The checkpoint's configuration.
        device: Where the model shall live.
        dtype: What its weights and activations shall be, whatever the checkpoint's are.
        load_format: "auto" reads safetensors, "dummy" fills in random numbers.
        seed: Of the random numbers.
        progress: Whether to draw a bar.
        max_model_len: The longest sequence, `config.context_length` by default. The rotary table
            is as long, and dynamic scaling depends on it.

    Raises:
        UntrustedModel: The weights are pickles.
        ModelError: A file is malformed, or a tensor is missing, unexpected or misshapen.
    """
    architecture = model_class(config.architecture)
    max_len = max_model_len or config.context_length
    sources: dict[str, StoredTensor] = {}
    if load_format == "auto":
        stored = stored_tensors(folder)
        if config.tie_word_embeddings and _heads_differ(stored):
            logger.warning("config.json ties lm_head to the embeddings, but they differ: not tied")
            config = replace(config, tie_word_embeddings=False)
        skeleton = _build(architecture, config, "meta", dtype, 1)
        shapes = {name: tuple(tensor.shape) for name, tensor in skeleton.tensors()}
        sources = match_tensors(stored, shapes, config.tie_word_embeddings)
    model = _build(architecture, config, device, dtype, max_len)
    _fill(model, sources, seed, progress)
    finalize_weights(model)
    return model


def _heads_differ(stored: dict[str, StoredTensor]) -> bool:
    """Whether input and output embeddings are both stored and are not the same matrix."""
    both = [stored[name] for name in (EMBEDDING, LM_HEAD) if name in stored]
    if len(both) < 2 or both[0].shape != both[1].shape:
        return False
    first, second = (values for _, values in read_tensors(both))
    return not torch.equal(first, second)


def _build(
    architecture: type[CausalLM],
    config: ModelConfig,
    device: torch.device | str,
    dtype: torch.dtype,
    max_len: int,
) -> CausalLM:
    with torch.device(device):
        return architecture(config, dtype, max_len)


def match_tensors(
    stored: dict[str, StoredTensor], shapes: dict[str, tuple[int, ...]], tied: bool
) -> dict[str, StoredTensor]:
    """Finds for each tensor of the model the stored one that fills it.

    Checkpoints saved without their head lack the prefix `model.`. Where input and output
    embeddings are tied, either or both may be stored; the input's counts.

    Args:
        stored: The checkpoint's tensors.
        shapes: The model's tensors.
        tied: Whether the output projection is the embedding.

    Raises:
        ModelError: Naming tensors that are missing or unexpected, or one of a wrong shape or dtype.
    """
    sources: dict[str, StoredTensor] = {}
    unexpected: list[str] = []
    for name, tensor in stored.items():
        if name in shapes:
            sources[name] = tensor
        elif f"model.{name}" in shapes:
            sources.setdefault(f"model.{name}", tensor)
        # Old checkpoints store the rotary frequencies, which follow from the configuration.
        elif not (tied and name == LM_HEAD) and not name.endswith("rotary_emb.inv_freq"):
            unexpected.append(name)
    if tied and EMBEDDING not in sources and LM_HEAD in stored:
        sources[EMBEDDING] = stored[LM_HEAD]
    missing = [name for name in shapes if name not in sources]
    if missing:
        raise ModelError(f"The checkpoint lacks {_some(missing)}.")
    if unexpected:
        raise ModelError(
            f"The checkpoint holds tensors that this architecture does not have: {_some(unexpected)}."
        )
    for name, shape in shapes.items():
        source = sources[name]
        if source.shape != shape:
            raise ModelError(
                f"{source.name} in {source.file} has the shape {list(source.shape)}; "
                f"config.json asks for {list(shape)}."
            )
        if source.dtype not in FLOAT_DTYPES:
            raise ModelError(
                f"{source.name} in {source.file} is stored as {source.dtype}, which is not supported."
            )
    return sources


def _some(names: list[str]) -> str:
    shown = ", ".join(name[:100] for name in names[:MAX_NAMES_SHOWN])
    return shown if len(names) <= MAX_NAMES_SHOWN else f"{shown} and {len(names) - MAX_NAMES_SHOWN} more"


def _fill(model: CausalLM, sources: dict[str, StoredTensor], seed: int, progress: bool) -> None:
    """Fills every tensor from its source, or with noise where there are no sources."""
    tensors = dict(model.tensors())
    head = {name: tensors.pop(name) for name in (EMBEDDING, LM_HEAD) if name in tensors}
    bar = tqdm(total=len(head) + len(tensors), desc="Loading weights", unit=" tensors", disable=not progress)
    with bar, torch.no_grad():
        # The largest matrices come first: what repacking them takes is free again for the others.
        for part in (head, tensors):
            if sources:
                _copy({sources[name]: tensor for name, tensor in part.items()}, bar)
            else:
                _add_noise(part, seed, bar)
            if part is head:
                head.clear()  # so that nothing keeps the original once it is repacked
                model.lm_head.finalize()


def _copy(places: dict[StoredTensor, Tensor], bar: tqdm[NoReturn]) -> None:
    for source, values in read_tensors(list(places)):
        places[source].copy_(values)
        bar.update()


def _add_noise(tensors: dict[str, Tensor], seed: int, bar: tqdm[NoReturn]) -> None:
    """Fills weights with seeded uniform noise of standard deviation 0.02, and norms with ones."""
    spread = 0.02 * 3**0.5
    for name, tensor in tensors.items():
        if name.endswith("norm.weight"):
            tensor.fill_(1.0)
        else:
            # A generator per tensor, seeded by its name, so that the order does not matter.
            generator = torch.Generator(tensor.device).manual_seed(seed + zlib.crc32(name.encode()))
            tensor.uniform_(-spread, spread, generator=generator)
        bar.update()


def finalize_weights(model: CausalLM) -> None:
    """Does what is done once all weights are in place: kernels repack them for their own needs."""
    with torch.no_grad():
        for layer in model.descendants():
            if isinstance(layer, Linear):
                layer.finalize()
