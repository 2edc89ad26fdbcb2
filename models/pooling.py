"""How a model folder wants one vector made of a text's hidden states.

Embedding models come in the folder layout of sentence-transformers: `modules.json` lists the steps, and
the pooling step has a folder with a `config.json` of its own. A model without `modules.json` gets what
decoders are usually trained for: the last token's state, of length 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import InvalidRequest, ModelError
from .config_reader import Fields, read_json, read_json_list

PoolingMode = Literal["last", "mean"]

MODULES = "modules.json"

_MODES: dict[str, PoolingMode] = {"lasttoken": "last", "mean": "mean"}
# The older form has a switch for each mode.
_SWITCHES: dict[str, str] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolingConfig:
    """How to make a vector.

    Attributes:
        mode: The last token's state, or the mean of all.
        normalize: Whether the vector is scaled to length 1.
        hidden_size: The vector's length in full.
        shorter: The lengths to which a vector may be cut, as those of Matryoshka embeddings may
            (Kusupati et al., 2022); None if to none.
    """

    mode: PoolingMode = "last"
    normalize: bool = True
    hidden_size: int
    shorter: tuple[int, ...] | range | None = None

    @classmethod
    def from_folder(cls, path: str | Path) -> PoolingConfig:
        """Reads config.json and, where they are, the files of sentence-transformers.

        Raises:
            ModelError: A file is malformed, or asks for something else than these modes.
        """
        folder = Path(path)
        config = Fields(read_json(folder / "config.json"), "config.json")
        hidden_size = config.integer("hidden_size")
        shorter: tuple[int, ...] | range | None = tuple(config.integers("matryoshka_dimensions")) or None
        if shorter is None and config.boolean("is_matryoshka"):
            shorter = range(1, hidden_size)
        if not (folder / MODULES).exists():
            return cls(hidden_size=hidden_size, shorter=shorter)
        mode: PoolingMode | None = None
        normalize = False
        for entry in (Fields(item, MODULES) for item in read_json_list(folder / MODULES)):
            kind = entry.string("type").rpartition(".")[2]
            if kind == "Pooling":
                mode = _mode(folder, entry.string("path"))
            elif kind == "Normalize":
                normalize = True
            elif kind != "Transformer":
                raise entry.error("type", "Transformer, Pooling or Normalize")
        if mode is None:
            raise ModelError(f"{MODULES} has no Pooling step.")
        return cls(mode=mode, normalize=normalize, hidden_size=hidden_size, shorter=shorter)

    def check_dimensions(self, dimensions: int | None) -> None:
        """Raises `InvalidRequest` unless a vector can be cut to this length; None leaves it in full."""
        if dimensions is None or dimensions == self.hidden_size:
            return
        if self.shorter is None:
            raise InvalidRequest(
                f"dimensions={dimensions}: this model's embeddings have {self.hidden_size} dimensions and "
                "were not trained to be cut",
                param="dimensions",
            )
        if dimensions not in self.shorter:
            known = self.shorter
            shown = f"1 to {known[-1]}" if isinstance(known, range) else ", ".join(map(str, known))
            raise InvalidRequest(
                f"dimensions must be one of {shown} or {self.hidden_size}, got {dimensions}",
                param="dimensions",
            )


def _mode(folder: Path, name: str) -> PoolingMode:
    """What a pooling step's config.json asks for."""
    path = (folder / name / "config.json").resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ModelError(f"{MODULES}: {name!r} lies outside of the model's folder.")
    fields = Fields(read_json(path), f"{name}/config.json")
    chosen = [fields.string("pooling_mode")] if fields.has("pooling_mode") else []
    chosen = chosen or [mode for switch, mode in _SWITCHES.items() if fields.boolean(switch)]
    if len(chosen) != 1 or chosen[0] not in _MODES:
        raise ModelError(
            f"{fields.source}: a decoder's states can be pooled by {' or '.join(_MODES)}, "
            f"and this model asks for {', '.join(chosen) or 'nothing'}."
        )
    if not fields.boolean("include_prompt", True):
        raise fields.error("include_prompt", "true")
    return _MODES[chosen[0]]
