"""Encoders of Hugging Face Transformers: text in, class scores or embeddings out; safetensors alone."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any, Self

import numpy as np

from ...errors import InvalidRequest, ModelError, UntrustedModel
from ..safetensors_reader import stored_tensors
from .predictor import Array, Arrays, Description, LoadOptions, Predictor, TensorSpec, single_input

PARAMETERS = ("task", "pooling", "normalize")
TASKS = ("classification", "embedding")
POOLINGS = ("mean", "cls")

MAX_MISSING = 8 << 20
"""Weights that a checkpoint may lack: of poolers that no embedding reads, and buffers that are computed."""


class TransformersPredictor(Predictor):
    """Input `text` BYTES [rows], UTF-8; output `scores` [rows, labels] or `embedding` [rows, hidden], FP32.

    `LoadOptions.parameters` must have `task`, "classification" or "embedding". Scores are softmax's, or
    sigmoids where config.json's `problem_type` is "multi_label_classification", or as they are where it is
    "regression" or there is one label. Embeddings have `pooling`, "mean" (the default) or "cls", and
    `normalize` (false).
    """

    def __init__(self, model: Any, tokenizer: Any, parameters: dict[str, Any]) -> None:
        self._model: Any = model
        self._tokenizer: Any = tokenizer
        self._parameters = parameters
        self._limit = int(model.config.max_position_embeddings)
        config = model.config
        if parameters["task"] == "classification":
            output = TensorSpec("scores", "FP32", (-1, config.num_labels))
        else:
            output = TensorSpec("embedding", "FP32", (-1, config.hidden_size))
        self._description = Description((TensorSpec("text", "BYTES", (-1,)),), (output,))

    @classmethod
    def load(cls, path: Path, options: LoadOptions) -> Self:
        """Loads a folder, on the CPU in float32; see `Predictor.load`."""
        parameters = _parameters(options)
        _check_folder(path)
        import torch
        from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()  # a log is no terminal
        torch.set_num_threads(options.num_threads)
        classes = parameters["task"] == "classification"
        auto: Any = AutoModelForSequenceClassification if classes else AutoModel
        try:
            config = _checked_config(path, auto)
            model, info = auto.from_pretrained(
                path,
                config=config,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
            # Poolers that no embedding here reads are often not in checkpoints.
            if missing := sorted(name for name in info["missing_keys"] if classes or "pooler" not in name):
                raise ModelError(f"{path} lacks the weights {missing[:4]}")
            return cls(model.eval(), tokenizer, parameters)
        except ModelError:
            raise
        except Exception as error:
            # Readers of configurations, tokenizers and weights: any kind of error may come.
            raise ModelError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error

    def predict(self, inputs: Arrays) -> dict[str, Array]:
        """Computes texts of equal length together, so that none is padded."""
        import torch

        token_ids = self._tokenize(single_input(inputs))
        rows_by_length: defaultdict[int, list[int]] = defaultdict(list)
        for row, ids in enumerate(token_ids):
            rows_by_length[len(ids)].append(row)
        (spec,) = self._description.outputs
        result = np.empty((len(token_ids), spec.shape[1]), np.float32)
        with torch.inference_mode():
            for rows in rows_by_length.values():
                batch = torch.tensor([token_ids[row] for row in rows])
                result[rows] = self._forward(batch).numpy()
        return {spec.name: result}

    def describe(self) -> Description:
        """One input, one output."""
        return self._description

    def unload(self) -> None:
        """Frees the model."""
        self._model = self._tokenizer = None

    def _tokenize(self, texts: Array) -> list[list[int]]:
        """The tokens of each text, never none and never more than the model has positions for."""
        token_ids: list[list[int]] = []
        for row, item in enumerate(texts.tolist()):
            try:
                text = item.decode()
            except UnicodeDecodeError as error:
                raise InvalidRequest(f"text {row} is not UTF-8: {error}", param="text") from error
            ids = self._tokenizer(text, verbose=False)["input_ids"] or [self._tokenizer.pad_token_id or 0]
            if len(ids) > self._limit:
                raise InvalidRequest(
                    f"text {row} has {len(ids)} tokens; the model takes {self._limit}", param="text"
                )
            token_ids.append(ids)
        return token_ids

    def _forward(self, input_ids: Any) -> Any:
        import torch

        output = self._model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids))
        if self._parameters["task"] == "classification":
            problem = self._model.config.problem_type
            if problem == "multi_label_classification":
                return output.logits.sigmoid()
            is_regression = problem == "regression" or self._model.config.num_labels == 1
            return output.logits if is_regression else output.logits.softmax(-1)
        hidden = output.last_hidden_state
        pooled = hidden[:, 0] if self._parameters["pooling"] == "cls" else hidden.mean(1)
        return torch.nn.functional.normalize(pooled, dim=-1) if self._parameters["normalize"] else pooled


def _checked_config(path: Path, auto: Any) -> Any:
    """The configuration; refuses one that claims a larger model than the folder holds.

    Transformers would take the memory before it misses the weights.
    """
    import torch
    from transformers import AutoConfig

    stored = stored_tensors(path)
    config: Any = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    if (layers := getattr(config, "num_hidden_layers", 0)) > len(stored):
        raise ModelError(f"{path} claims {layers} layers; it holds {len(stored)} tensors")
    with torch.device("meta"):
        model = auto.from_config(config, trust_remote_code=False)
    claimed = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    held = sum(math.prod(tensor.shape) for tensor in stored.values())
    if claimed > held + MAX_MISSING:
        raise ModelError(f"{path} claims {claimed} weights; it holds {held}")
    return config


def _parameters(options: LoadOptions) -> dict[str, Any]:
    """The parameters with their defaults; raises ModelError naming one that is wrong."""
    given = options.parameters
    if strangers := sorted(given.keys() - set(PARAMETERS)):
        raise ModelError(f"there are no parameters {strangers}, only {', '.join(PARAMETERS)}")
    found = {"pooling": "mean", "normalize": False, "task": None, **given}
    if found["task"] not in TASKS:
        raise ModelError(f"the parameter task must be one of {', '.join(TASKS)}, not {found['task']!r}")
    if found["pooling"] not in POOLINGS:
        raise ModelError(
            f"the parameter pooling must be one of {', '.join(POOLINGS)}, not {found['pooling']!r}"
        )
    if not isinstance(found["normalize"], bool):
        raise ModelError(f"the parameter normalize must be true or false, not {found['normalize']!r}")
    if found["task"] == "classification" and given.keys() & {"pooling", "normalize"}:
        raise ModelError("the parameters pooling and normalize are for task embedding")
    return found


def _check_folder(path: Path) -> None:
    """Refuses code and pickles by what the folder says, before anything reads it."""
    for name in ("config.json", "tokenizer_config.json"):
        file = path / name
        if not file.is_file():
            raise ModelError(f"there is no {file}")
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelError(f"{file} is no JSON: {error}") from error
        if not isinstance(content, dict):
            raise ModelError(f"{file} holds no object")
        if "auto_map" in content:
            raise UntrustedModel(
                f"{file} has an auto_map: the model needs code of its own, which is never run"
            )
    if not any(path.glob("*.safetensors")):
        raise UntrustedModel(f"{path} has no safetensors; other formats of weights are not loaded")
