"""The protocol's messages over HTTP, with Triton's extensions, as JSON has them.

https://github.com/kserve/open-inference-protocol, and Triton's protocol extensions: binary data, generate,
statistics, model configuration, model repository.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, field

Parameters = dict[str, str | int | float | bool]

LARGEST_HEADER = 1 << 24  # digits that announce more than any body has


class InferFailure(Struct):
    """Every answer that is not a success."""

    error: str


class InputTensor(Struct, forbid_unknown_fields=True):
    """An input. Its values are `data`, flat in row-major order or nested, or stand behind the JSON."""

    name: str
    shape: list[int]
    datatype: str
    data: Raw = field(default_factory=Raw)
    parameters: Parameters | UnsetType = UNSET


class WantedOutput(Struct, forbid_unknown_fields=True):
    """An output that is asked for."""

    name: str
    parameters: Parameters | UnsetType = UNSET


class InferBody(Struct, forbid_unknown_fields=True):
    """The JSON of a request. Without `outputs`, all are given."""

    inputs: list[InputTensor]
    id: str | UnsetType = UNSET
    parameters: Parameters | UnsetType = UNSET
    outputs: list[WantedOutput] | UnsetType = UNSET


class OutputTensor(Struct, omit_defaults=True):
    """An output; with binary data it has `parameters.binary_data_size` in place of `data`."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] | UnsetType = UNSET
    data: list[Any] | UnsetType = UNSET


class InferAnswer(Struct, omit_defaults=True):
    """The JSON of an answer. NaN and infinities, which JSON has not, are null; binary data has them."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str | UnsetType = UNSET


class ServerMetadata(Struct):
    """`GET /v2`."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(Struct):
    """A tensor; -1 is a size that requests choose."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(Struct):
    """`GET /v2/models/{model}`."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ConfigTensor(Struct):
    """A tensor in Triton's words: without the batch dimension, and with TYPE_STRING for BYTES."""

    name: str
    data_type: str
    dims: list[int]


class ModelConfig(Struct, omit_defaults=True):
    """`GET /v2/models/{model}/config`: what a model has of Triton's configuration.

    Attributes:
        max_batch_size: Rows of a batch; 0 for a model whose tensors have no batch dimension.
    """

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[ConfigTensor]
    output: list[ConfigTensor]
    version_policy: dict[str, Any] | UnsetType = UNSET
    instance_group: list[dict[str, Any]] | UnsetType = UNSET
    default_model_filename: str | UnsetType = UNSET
    dynamic_batching: dict[str, Any] | UnsetType = UNSET
    model_transaction_policy: dict[str, Any] | UnsetType = UNSET


class ModelReady(Struct):
    """`GET /v2/models/{model}/ready`."""

    name: str
    ready: bool


class Live(Struct):
    """`GET /v2/health/live`."""

    live: bool


class Ready(Struct):
    """`GET /v2/health/ready`."""

    ready: bool


class Duration(Struct):
    """How often something happened, and how many nanoseconds it took in sum."""

    count: int = 0
    ns: int = 0


class InferStatistics(Struct):
    """Requests; the times of those that succeeded are summed over the requests."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration
    cache_miss: Duration


class BatchSizeStatistics(Struct):
    """Executions with one number of rows."""

    batch_size: int
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class ModelStatistics(Struct):
    """Triton's statistics of a version.

    Attributes:
        last_inference: Milliseconds since the epoch; 0 for never.
        inference_count: Rows that were answered.
        execution_count: Batches that ran.
    """

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferStatistics
    batch_stats: list[BatchSizeStatistics]
    memory_usage: list[dict[str, Any]] = msgspec.field(default_factory=list[dict[str, Any]])
    response_stats: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])


class Statistics(Struct):
    """`GET /v2/models/{model}/stats`."""

    model_stats: list[ModelStatistics]


class IndexBody(Struct, forbid_unknown_fields=True):
    """`POST /v2/repository/index`."""

    ready: bool = False


class IndexEntry(Struct):
    """A version of a model. States are READY, LOADING and UNAVAILABLE."""

    name: str
    version: str
    state: str
    reason: str


class RepositoryDone(Struct):
    """An empty object."""


class RepositoryBody(Struct, forbid_unknown_fields=True):
    """`POST /v2/repository/models/{model}/load` and `/unload`."""

    parameters: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])


class GenerateParameters(Struct, forbid_unknown_fields=True):
    """How a text is continued; what is left out is as the model's makers recommend.

    Attributes:
        exclude_input_in_output: Whether the answer is the new text alone: not by default, but in streams.
        stream: Must fit the route, if it is given.
        stop, stop_words: The same: the text ends before such a string.
    """

    stream: bool | None = None
    exclude_input_in_output: bool | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_words: list[str] | None = None
    bad_words: list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    ignore_eos: bool | None = None


class GenerateBody(GenerateParameters, kw_only=True):
    """`POST /v2/models/{model}/generate`: parameters stand beside the text, or under `parameters`."""

    text_input: str
    id: str | None = None
    parameters: GenerateParameters | None = None


class GenerateAnswer(Struct, omit_defaults=True):
    """A text, or with /generate_stream the next part of one."""

    model_name: str
    model_version: str
    text_output: str
    id: str | None = None
    finish_reason: str | None = None
