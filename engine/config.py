"""The engine's settings, checked once when they are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..models.quant.options import HeadFormat, IntFormat, WeightOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Everything that decides how an engine runs; the same for `LLM` and the server.

    Raises ValueError naming the setting and its value if one is out of range.

    Attributes:
        model: A folder in Hugging Face format, a hub id (`owner/name`), or "embedded".
        revision: Branch, tag or commit of a hub model.
        served_model_name: The name that clients use; the `model` string by default.
        device: "auto" takes a GPU if there is one.
        tensor_parallel_size: Processes that share the model, each with a GPU or a share of the threads.
        dtype: "auto" takes the checkpoint's, except float16 on CPUs, which becomes float32.
        kv_cache_dtype: Of the KV cache. "auto" takes that of the activations; "int8" takes half the memory
            of bfloat16, rounding each head of each token with a scale of its own. "fp8" (e4m3, without
            scales, so that values beyond 448 become 448) takes half of it too; on GPUs only.
        load_format: "dummy" fills the model with seeded random weights (for measuring).
        quantization: Rounds the matrices of a float checkpoint to int8 or int4 while they are loaded.
        quantization_group_size: Columns that share a scale: 32, 64 or 128. By default 32 for int4, and
            whole rows for int8.
        activations: How integer matrices, those of AWQ and GPTQ checkpoints too, take their inputs:
            rounded to int8 row by row, or as they are. "auto" rounds them on CPUs, where that is faster.
        lm_head: The output projection's format. "auto" is int8 where `quantization` is set, else what
            the checkpoint has.
        weight_cache: Keep the weights that CPU kernels repack on disk, so that the next start maps them;
            those of whole models only, not the parts of several ranks.
        max_model_len: Context length; by default the model's own, or what the memory holds.
        block_size: Tokens per KV-cache block.
        num_blocks: Blocks in the pool; by default sized from the memory that is available.
        memory_fraction: On a CPU, the share that the pool takes of the RAM that is free when the
            weights are loaded. On a GPU, the share of its memory for weights, activations and pool.
        max_num_seqs: Requests running at once.
        max_num_batched_tokens: Tokens per step; long prompts are computed in chunks of it.
        max_num_prefill_tokens: Tokens of prompts in a step in which other requests decode; more where more
            than half as many do, and twice as many for an API key of whose requests none decodes. By
            default 64 on CPUs, so that streams flow evenly, and no limit on GPUs.
        max_num_waiting: Requests waiting at most; more are refused with 429.
        enable_prefix_caching: Reuse the blocks of equal prompt prefixes.
        num_threads: CPU threads for the model, all ranks together; by default all cores that this process
            may use.
        seed: Seeds the seeds of requests that bring none.
        async_scheduling: Schedule the next step while one runs; by default on a GPU only.
        enforce_eager: Call a step's kernels one by one, not as one recorded pass or graph (for comparing);
            several ranks always do.
    """

    model: str
    revision: str | None = None
    served_model_name: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    tensor_parallel_size: int = 1
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    kv_cache_dtype: Literal["auto", "float32", "bfloat16", "int8", "fp8"] = "auto"
    load_format: Literal["auto", "dummy"] = "auto"
    quantization: IntFormat | None = None
    quantization_group_size: int | None = None
    activations: Literal["auto", "int8", "float"] = "auto"
    lm_head: HeadFormat = "auto"
    weight_cache: bool = True
    max_model_len: int | None = None
    block_size: int = 16
    num_blocks: int | None = None
    memory_fraction: float | None = None
    max_num_seqs: int = 256
    max_num_batched_tokens: int | None = None
    max_num_prefill_tokens: int | None = None
    max_num_waiting: int = 1024
    enable_prefix_caching: bool = True
    num_threads: int | None = None
    seed: int | None = None
    async_scheduling: bool | None = None
    enforce_eager: bool = False

    def __post_init__(self) -> None:
        for name in (
            "max_model_len",
            "block_size",
            "num_blocks",
            "max_num_seqs",
            "max_num_batched_tokens",
            "max_num_prefill_tokens",
            "max_num_waiting",
            "num_threads",
            "tensor_parallel_size",
        ):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if self.memory_fraction is not None and not 0.0 < self.memory_fraction <= 1.0:
            raise ValueError(f"memory_fraction must be in (0, 1], got {self.memory_fraction!r}")
        for name, choices in (
            ("device", ("auto", "cpu", "cuda")),
            ("dtype", ("auto", "float32", "bfloat16", "float16")),
            ("kv_cache_dtype", ("auto", "float32", "bfloat16", "int8", "fp8")),
            ("load_format", ("auto", "dummy")),
            ("quantization", (None, "int8", "int4")),
            ("activations", ("auto", "int8", "float")),
            ("lm_head", ("auto", "float", "int8", "int4")),
        ):
            if getattr(self, name) not in choices:
                shown = ", ".join(map(str, choices))
                raise ValueError(f"{name} must be one of {shown}, got {getattr(self, name)!r}")
        _ = self.weight_options

    @property
    def model_name(self) -> str:
        """The name that clients use."""
        return self.served_model_name or self.model

    @property
    def weight_options(self) -> WeightOptions:
        """The settings that are about the format of matrices."""
        return WeightOptions(
            quantization=self.quantization,
            group_size=self.quantization_group_size,
            activations=self.activations,
            lm_head=self.lm_head,
        )
