"""How a model folder wants one vector made of a text's hidden states, and what the vector is for.

Embedding models come in the folder layout of sentence-transformers: `modules.json` lists the steps, and
the pooling step has a folder with a `config.json` of its own. A model without `modules.json` gets what its
kind is usually trained for: a decoder the last token's state, an encoder the mean of all, of length 1. A
classifier's head takes the state that it was trained on, the last token's of a decoder and the first one's of
an encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..errors import InvalidRequest, ModelError
from .config_reader import Fields, read_json, read_json_list
from .encoder_config import ClassifierConfig, read_classifier
from .registry import is_classifier, is_encoder, known_architectures

PoolingMode = Literal["cls", "last", "max", "mean", "mean_sqrt_len", "weightedmean"]

DECODER_MODES: tuple[PoolingMode, ...] = ("last", "mean")
"""What the states of a prompt that comes in chunks can be pooled by; an encoder's, by all modes."""

MODULES = "modules.json"

_MODES: dict[str, PoolingMode] = {
    "cls": "cls",
    "lasttoken": "last",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weightedmean",
}
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
        mode: The first token's state, the last one's; each channel's largest value; the sum of all states
            divided by their number, or its root; or the mean in which the n-th token counts n times.
        normalize: Whether the vector is scaled to length 1.
        hidden_size: The vector's length in full.
        shorter: The lengths to which a vector may be cut, as those of Matryoshka embeddings may
            (Kusupati et al., 2022); None if to none.
        classifier: The head that the vector goes to, in a classifier, which makes no embeddings.
        prompts: What stands in front of a text for a purpose, such as "query", by its name.
    """

    mode: PoolingMode = "last"
    normalize: bool = True
    hidden_size: int
    shorter: tuple[int, ...] | range | None = None
    classifier: ClassifierConfig | None = None
    prompts: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def from_folder(cls, path: str | Path) -> PoolingConfig:
        """Reads config.json and, where they are, the files of sentence-transformers.

        Raises:
            ModelError: A file is malformed, or asks for something else than these modes.
        """
        folder = Path(path)
        config = Fields(read_json(folder / "config.json"), "config.json")
        hidden_size = config.integer(next(filter(config.has, ("dim", "n_embd")), "hidden_size"))
        architecture = next(filter(known_architectures().__contains__, config.strings("architectures")), "")
        from_encoder = is_encoder(architecture)
        if is_classifier(architecture):
            head_mode: PoolingMode = "cls" if from_encoder else "last"
            if config.string("classifier_pooling", "cls") == "mean":  # a choice that only ModernBERT has
                head_mode = "mean"
            return cls(
                mode=head_mode, normalize=False, hidden_size=hidden_size, classifier=read_classifier(config)
            )
        shorter: tuple[int, ...] | range | None = tuple(config.integers("matryoshka_dimensions")) or None
        if shorter is None and config.boolean("is_matryoshka"):
            shorter = range(1, hidden_size)
        prompts = _prompts(folder)
        if not (folder / MODULES).exists():
            mode = "mean" if from_encoder else "last"
            return cls(mode=mode, hidden_size=hidden_size, shorter=shorter, prompts=prompts)
        found: PoolingMode | None = None
        normalize = False
        for entry in (Fields(item, MODULES) for item in read_json_list(folder / MODULES)):
            kind = entry.string("type").rpartition(".")[2]
            if kind == "Pooling":
                found = _mode(folder, entry.string("path"), from_encoder)
            elif kind == "Normalize":
                normalize = True
            elif kind != "Transformer":
                raise entry.error("type", "Transformer, Pooling or Normalize")
        if found is None:
            raise ModelError(f"{MODULES} has no Pooling step.")
        return cls(mode=found, normalize=normalize, hidden_size=hidden_size, shorter=shorter, prompts=prompts)

    def prompt(self, name: str | None) -> str:
        """What stands in front of a text for a purpose. Raises `InvalidRequest` if the model has no such."""
        if name is None:
            return ""
        if name not in self.prompts:
            known = ", ".join(map(repr, self.prompts)) or "none"
            raise InvalidRequest(
                f"prompt_name {name!r:.80} is not one of this model's prompts: {known}", param="prompt_name"
            )
        return self.prompts[name]

    @property
    def tasks(self) -> tuple[str, ...]:
        """What the vectors are for: "embed" and "score", or "classify" and, with one label, "score"."""
        if self.classifier is None:
            return ("embed", "score")
        return ("classify", "score") if self.classifier.num_labels == 1 else ("classify",)

    def check_task(self, task: Literal["embed", "classify", "score"]) -> None:
        """Raises `InvalidRequest`, saying what the model does, unless it does this."""
        if task in self.tasks:
            return
        if self.classifier is None:
            raise InvalidRequest(
                "this model embeds texts; it has no head that classifies them", param="model"
            )
        labels = self.classifier.num_labels
        what = "makes no embeddings" if task == "embed" else "has no single score for a pair of texts"
        raise InvalidRequest(
            f"this model classifies texts, by {labels} label{'s' * (labels > 1)}; it {what}", param="model"
        )

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


def _prompts(folder: Path) -> dict[str, str]:
    """The prompts that config_sentence_transformers.json names."""
    path = folder / "config_sentence_transformers.json"
    prompts = Fields(read_json(path), path.name).object("prompts") if path.exists() else None
    return {} if prompts is None else {name: prompts.string(name) for name in prompts.values}


def _mode(folder: Path, name: str, from_encoder: bool) -> PoolingMode:
    """What a pooling step's config.json asks for."""
    path = (folder / name / "config.json").resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ModelError(f"{MODULES}: {name!r} lies outside of the model's folder.")
    fields = Fields(read_json(path), f"{name}/config.json")
    chosen = [fields.string("pooling_mode")] if fields.has("pooling_mode") else []
    chosen = chosen or [mode for switch, mode in _SWITCHES.items() if fields.boolean(switch)]
    kinds = [kind for kind, mode in _MODES.items() if from_encoder or mode in DECODER_MODES]
    if len(chosen) != 1 or chosen[0] not in kinds:
        whose = "an encoder's" if from_encoder else "a decoder's"
        raise ModelError(
            f"{fields.source}: {whose} states can be pooled by {' or '.join(kinds)}, "
            f"and this model asks for {', '.join(chosen) or 'nothing'}."
        )
    if not fields.boolean("include_prompt", True):
        raise fields.error("include_prompt", "true")
    return _MODES[chosen[0]]
