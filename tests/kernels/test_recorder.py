"""Recorded forward passes: the bits of the ops called one by one, in fewer bytes; and what is refused."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kernel_inputs import make_meta, make_tables, random
from quire import LLM, SamplingParams
from quire.kernels import cpu, ops
from quire.kernels.cpu.recorder import Recorder
from quire.kernels.types import AttentionMetadata, LinearWeight, PackedSequences
from quire.models.causal_lm import CausalLM
from quire.models.config import ModelConfig
from quire.models.loader import load_model
from quire.models.quant.options import WeightOptions

pytestmark = pytest.mark.skipif(
    cpu.unavailable() is not None,
    reason="the C++ extension is not built: no compiler when quire was installed",
)

CAPACITY = 48
BLOCK_SIZE = 8
MAX_LENGTH = 256

TABLE = random(320, 8, dtype=torch.float32)
EMBEDDING = LinearWeight.from_dense(TABLE)
NORM = torch.ones(8)

Forward = Callable[[Tensor, list[Tensor], AttentionMetadata], Tensor]


@pytest.fixture(autouse=True)
def _choose_afresh() -> Iterator[None]:
    ops.reset()
    cpu.prepare(EMBEDDING)  # a loader packs all weights before a pass is recorded
    yield
    ops.reset()


def load(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> CausalLM:
    return load_model(
        folder,
        ModelConfig.from_folder(folder),
        device="cpu",
        dtype=dtype,
        options=WeightOptions(**options),
        max_model_len=MAX_LENGTH,
    )


def random_caches(model: CausalLM, num_blocks: int) -> list[Tensor]:
    config = model.config
    shape = (2, num_blocks, config.num_kv_heads, BLOCK_SIZE, config.head_size)
    return [random(*shape, dtype=model.dtype, seed=layer) for layer in range(config.num_layers)]


def random_ids(count: int, seed: int = 0) -> Tensor:
    return torch.randint(320, (count,), generator=torch.Generator().manual_seed(seed))


# Lengths and queries of the step's sequences: decoding, prefilling, both, a full step, an idle sequence.
STEPS: dict[str, tuple[list[int], list[int]]] = {
    "one token": ([1], [1]),
    "decoding one": ([200], [1]),
    "decoding many": ([3, 17, 200, 64, 65, 9, 31], [1] * 7),
    "a whole prompt": ([30], [30]),
    "a chunk": ([90], [20]),
    "mixed": ([5, 80, 200, 33], [1, 7, 1, 30]),
    "an idle sequence": ([5, 80, 33], [1, 0, 30]),
    "full": ([200, CAPACITY], [1, CAPACITY - 1]),
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"architecture": "LlamaForCausalLM"},
    "llama, tied": {"architecture": "LlamaForCausalLM", "tie_word_embeddings": True},
    "mistral": {"architecture": "MistralForCausalLM", "sliding_window": 20},
    "qwen2": {"architecture": "Qwen2ForCausalLM"},
    "qwen3": {"architecture": "Qwen3ForCausalLM"},
}
FORMATS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"dtype": torch.bfloat16},
    "int8": {"dtype": torch.bfloat16, "quantization": "int8"},
    "int4, tied head": {"quantization": "int4", "lm_head": "int4"},
    "int4, float x": {"dtype": torch.bfloat16, "quantization": "int4", "activations": "float"},
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("model", MODELS)
@torch.inference_mode()
def test_replays_give_the_bits_of_the_ops(model: str, format: str, tiny_model: Callable[..., Path]) -> None:
    loaded = load(tiny_model(**MODELS[model]), **FORMATS[format])
    generator = torch.Generator().manual_seed(1)
    steps = {
        name: (lengths, queries, *make_tables(lengths, BLOCK_SIZE, generator))
        for name, (lengths, queries) in STEPS.items()
    }
    kept = random_caches(loaded, max(num_blocks for *_, num_blocks in steps.values()))
    caches = [cache.clone() for cache in kept]
    recorded = cpu.RecordedForward(loaded.forward, caches, BLOCK_SIZE, CAPACITY)
    assert all(torch.equal(a, b) for a, b in zip(caches, kept, strict=True)), "recording computes nothing"
    for name, (lengths, queries, tables, _) in steps.items():
        meta = make_meta(lengths, queries, BLOCK_SIZE, tables)
        ids = random_ids(sum(queries), seed=len(name))
        expected_caches = [cache.clone() for cache in kept]
        expected = loaded.forward(ids, expected_caches, meta)
        for cache, original in zip(caches, kept, strict=True):
            cache.copy_(original)
        for _ in range(2):  # the buffers hold the previous step
            actual = recorded(ids, meta)
            assert actual.dtype == expected.dtype
            assert torch.equal(actual, expected), name
            assert all(torch.equal(a, b) for a, b in zip(caches, expected_caches, strict=True)), name


@pytest.fixture(name="model")
def _model(tiny_model: Callable[..., Path]) -> CausalLM:
    return load(tiny_model())


def decoding(num_seqs: int, length: int = 20) -> tuple[Tensor, AttentionMetadata, int]:
    """A step's tokens and metadata, and how many blocks it needs."""
    tables, num_blocks = make_tables([length] * num_seqs, BLOCK_SIZE, torch.Generator().manual_seed(2))
    meta = make_meta([length] * num_seqs, [1] * num_seqs, BLOCK_SIZE, tables)
    return random_ids(num_seqs), meta, num_blocks


@pytest.mark.parametrize("capacity", [1, 2, 13])
@torch.inference_mode()
def test_any_number_of_tokens_up_to_the_capacity(model: CausalLM, capacity: int) -> None:
    _, _, num_blocks = decoding(capacity + 1)
    caches = random_caches(model, num_blocks)
    recorded = cpu.RecordedForward(model.forward, caches, BLOCK_SIZE, capacity)
    assert recorded.capacity == capacity
    for num_seqs in range(1, capacity + 1):
        ids, meta, _ = decoding(num_seqs)
        assert torch.equal(recorded(ids, meta), model.forward(ids, [c.clone() for c in caches], meta))
    ids, meta, _ = decoding(capacity + 1)
    with pytest.raises(ValueError, match=f"for {capacity} tokens got {capacity + 1}"):
        recorded(ids, meta)


@torch.inference_mode()
def test_a_profile_computes_the_step_and_names_its_ops(model: CausalLM) -> None:
    ids, meta, num_blocks = decoding(5)
    caches = random_caches(model, num_blocks)
    recorded = cpu.RecordedForward(model.forward, caches, BLOCK_SIZE, CAPACITY)
    profile = recorded.profile(ids, meta)
    layer = ["rms_norm", "linear", "rope_and_cache_write", "paged_attention", "linear"]
    layer += ["rms_norm", "linear", "silu_and_mul", "linear"]
    assert [name for name, _ in profile] == ["embedding", *layer * model.config.num_layers, "rms_norm"]
    assert len(profile) == recorded.num_ops
    assert all(seconds >= 0 for _, seconds in profile)
    computed = recorded._hidden[:5].clone()
    assert torch.equal(computed, recorded(ids, meta))


# Buffers.


@torch.inference_mode()
def test_buffers_are_used_again(tiny_model: Callable[..., Path]) -> None:
    """The outputs of all ops would take many times what they take one after the other."""
    model = load(tiny_model(num_hidden_layers=12))
    config = model.config
    recorded = cpu.RecordedForward(model.forward, random_caches(model, 8), BLOCK_SIZE, CAPACITY)
    qkv = (config.num_heads + 2 * config.num_kv_heads) * config.head_size
    heads = 2 * config.num_heads * config.head_size
    widths = qkv + heads + 6 * config.hidden_size + 3 * config.intermediate_size
    assert recorded.num_bytes < 2 * 4 * CAPACITY * widths
    per_layer = 4 * CAPACITY * (qkv + heads + 5 * config.hidden_size + 3 * config.intermediate_size)
    assert recorded.num_bytes < 12 * per_layer / 5


def embedded(ids: Tensor) -> Tensor:
    return ops.embedding(ids, EMBEDDING, torch.float32)


def record(forward: Forward, capacity: int = 4) -> cpu.RecordedForward:
    return cpu.RecordedForward(forward, [], BLOCK_SIZE, capacity)


def plain_step(num_tokens: int) -> tuple[Tensor, AttentionMetadata]:
    ids, meta, _ = decoding(num_tokens)
    return ids, meta


def test_a_buffer_is_not_used_again_while_anything_refers_to_it() -> None:
    one, other = (random(8, dtype=torch.float32, seed=seed) for seed in (1, 2))

    def forward(ids: Tensor, caches: list[Tensor], meta: AttentionMetadata) -> Tensor:
        """All but the last tensors have one size; a buffer that is taken too early changes the result."""
        x = embedded(ids)
        kept = x.view(-1, 2, 4)[:, 1]  # a view of a view keeps the whole buffer
        first = ops.rms_norm(x, one, 1e-6)
        del x
        second = ops.rms_norm(first, other, 1e-6)
        del first
        third, total = ops.add_rms_norm(second, second, one, 1e-6)
        del second
        mixed, _ = ops.add_rms_norm(total, third, other, 1e-6)
        gated = ops.silu_and_mul(mixed)
        return ops.add_rms_norm(gated, kept, one[:4], 1e-6)[1]

    ids, meta = plain_step(3)
    recorded = record(forward)
    assert torch.equal(recorded(ids, meta), forward(ids, [], meta))


def test_buffers_live_as_long_as_tensors_over_them() -> None:
    ids, meta = plain_step(4)
    recorder = Recorder(ids, meta)
    with recorder:
        first = embedded(ids)
        address = first.data_ptr()
        view = first[:, 2:].view(-1, 2, 3)[0]
        del first
        second = embedded(ids)
        assert second.data_ptr() != address
        del view
        third = embedded(ids)
        assert third.data_ptr() == address
        assert recorder.num_bytes == 2 * 4 * 8 * 4
        del second
        ops.embedding(ids, EMBEDDING, torch.bfloat16)  # of another size
        assert recorder.num_bytes == 2 * 4 * 8 * 4 + 4 * 8 * 2


def test_a_recorded_pass_keeps_what_it_points_to() -> None:
    dense, cache = random(5, 8, dtype=torch.float32, seed=1), torch.zeros(3)

    def make_forward() -> tuple[Forward, weakref.ref[Tensor]]:
        weight = LinearWeight.from_dense(dense)
        packed = cpu.prepare(weight).data

        def forward(ids: Tensor, caches: list[Tensor], meta: AttentionMetadata) -> Tensor:
            return ops.linear(embedded(ids), weight)

        return forward, weakref.ref(packed)

    forward, packed = make_forward()
    caches = [cache]
    recorded = cpu.RecordedForward(forward, caches, BLOCK_SIZE, 4)
    kept = weakref.ref(cache)
    del forward, caches, cache
    gc.collect()
    assert packed() is not None
    assert kept() is not None
    ids, meta = plain_step(3)
    assert torch.equal(recorded(ids, meta), cpu.linear(TABLE[ids], LinearWeight.from_dense(dense)))


# What a program could not repeat.


def adds(ids: Tensor, caches: list[Tensor], meta: AttentionMetadata) -> Tensor:
    return embedded(ids) + 1


def shifts_ids(ids: Tensor, caches: list[Tensor], meta: AttentionMetadata) -> Tensor:
    return embedded(ids + 1)


def makes_tensors(ids: Tensor, caches: list[Tensor], meta: AttentionMetadata) -> Tensor:
    return ops.rms_norm(embedded(ids), torch.ones(8), 1e-6)


def copies(ids: Tensor, caches: list[Tensor], meta: AttentionMetadata) -> Tensor:
    return ops.rms_norm(embedded(ids).view(-1, 2, 4).transpose(1, 2), NORM[:2], 1e-6)


def reads_values(ids: Tensor, caches: list[Tensor], meta: AttentionMetadata) -> Tensor:
    return embedded(ids) if ids[0].item() == 0 else embedded(meta.positions)


def takes_some_rows(ids: Tensor, caches: list[Tensor], meta: AttentionMetadata) -> Tensor:
    return ops.rms_norm(embedded(ids)[:2], NORM, 1e-6)


def takes_other_ids(ids: Tensor, caches: list[Tensor], meta: AttentionMetadata) -> Tensor:
    return embedded(OTHER_IDS)


def packs_a_weight(ids: Tensor, caches: list[Tensor], meta: AttentionMetadata) -> Tensor:
    return ops.linear(embedded(ids), LinearWeight.from_dense(TABLE))


def is_half(ids: Tensor, caches: list[Tensor], meta: AttentionMetadata) -> Tensor:
    return ops.embedding(ids, LinearWeight.from_dense(TABLE), torch.float16)


def attends_in_both_directions(ids: Tensor, caches: list[Tensor], meta: AttentionMetadata) -> Tensor:
    q = embedded(ids).view(-1, 2, 4)
    return ops.packed_attention(q, q, q, PackedSequences(meta.query_start, 4), 1.0).view(-1, 8)


def attends_to_other_sequences(ids: Tensor, caches: list[Tensor], meta: AttentionMetadata) -> Tensor:
    q = embedded(ids).view(-1, 2, 4)
    lengths = AttentionMetadata(
        meta.positions,
        meta.slot_mapping,
        meta.query_start,
        OTHER_LENGTHS,
        meta.block_tables,
        BLOCK_SIZE,
        4,
        4,
    )
    return ops.paged_attention(q, CACHE, lengths, 1.0).view(-1, 8)


def records(ids: Tensor, caches: list[Tensor], meta: AttentionMetadata) -> Tensor:
    record(lambda ids, caches, meta: embedded(ids))
    return embedded(ids)


OTHER_IDS = torch.zeros(4, dtype=torch.int64)
OTHER_LENGTHS = torch.full((1,), 4, dtype=torch.int32)
CACHE = torch.zeros(2, 4, 2, BLOCK_SIZE, 4)


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (adds, "torch computes add"),
        (shifts_ids, "torch computes add"),
        (makes_tensors, "torch computes ones"),
        (copies, "torch computes (clone|_unsafe_view|empty_like|reshape)"),
        (reads_values, "torch computes (_local_scalar_dense|item)"),
        (takes_some_rows, "2 rows is no part of a recorded step of 4 tokens"),
        (takes_other_ids, "not the step's own"),
        (packs_a_weight, "torch computes empty"),
        (is_half, "torch computes"),
        (attends_in_both_directions, "no part of a recorded step"),
        (attends_to_other_sequences, "sequences that are not the step's own"),
        (records, "another forward pass is being recorded|torch computes"),
    ],
)
def test_what_cannot_be_repeated_is_refused(forward: Forward, reason: str) -> None:
    with pytest.raises(cpu.NotRecordable, match=reason):
        record(forward)
    # The recorder lets go: the same ops compute again, and the next pass can be recorded.
    ids, meta = plain_step(3)
    assert torch.equal(embedded(ids), TABLE[ids])
    recorded = record(lambda ids, caches, meta: embedded(ids))
    assert torch.equal(recorded(ids, meta), TABLE[ids])


def test_errors_of_the_pass_itself_are_its_own() -> None:
    def forward(ids: Tensor, caches: list[Tensor], meta: AttentionMetadata) -> Tensor:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        record(forward)
    assert torch.equal(embedded(OTHER_IDS), TABLE[OTHER_IDS])


def test_one_pass_at_a_time() -> None:
    ids, meta = plain_step(4)
    with Recorder(ids, meta) as outer:
        with pytest.raises(RuntimeError, match="another forward pass"), Recorder(ids, meta):
            pass
        embedded(ids)  # is still recorded by the outer one
        assert outer.program is not None
        assert outer.program.num_ops == 1


def test_an_embedding_of_positions_gets_the_positions_of_each_step() -> None:
    table = LinearWeight.from_dense(random(300, 8, dtype=torch.float32, seed=3))
    cpu.prepare(table)

    def forward(ids: Tensor, caches: list[Tensor], meta: AttentionMetadata) -> Tensor:
        return ops.add_rms_norm(
            embedded(ids), ops.embedding(meta.positions, table, torch.float32), NORM, 1e-6
        )[1]

    recorded = record(forward)
    ids, meta, _ = decoding(3, length=200)
    assert torch.equal(recorded(ids, meta), TABLE[ids] + table.data[meta.positions])


# The step's inputs.


@torch.inference_mode()
def test_inputs_of_a_replay_are_checked(model: CausalLM) -> None:
    ids, meta, num_blocks = decoding(5)
    caches = random_caches(model, num_blocks)
    recorded = cpu.RecordedForward(model.forward, caches, BLOCK_SIZE, 8)
    expected = recorded(ids, meta).clone()

    def with_change(**changes: Tensor) -> AttentionMetadata:
        fields = {name: getattr(meta, name) for name in AttentionMetadata.__slots__}
        return AttentionMetadata(**fields | changes)

    with pytest.raises(TypeError, match="int64"):
        recorded(ids.int(), meta)
    for name in ("query_start", "seq_lens", "block_tables"):
        with pytest.raises(TypeError, match="int32"):
            recorded(ids, with_change(**{name: getattr(meta, name).long()}))
    with pytest.raises(ValueError, match="as many positions"):
        recorded(ids, with_change(positions=meta.positions[:4]))
    with pytest.raises(ValueError, match="5 sequences need"):
        recorded(ids, with_change(block_tables=meta.block_tables[:4]))
    with pytest.raises(IndexError, match="from 0 to 5 for 4 tokens"):
        recorded(ids[:4], meta)
    # What is not contiguous is copied, as by the ops.
    spread = meta.block_tables.t().contiguous().t()
    wide = torch.stack((meta.positions, meta.positions), 1)[:, 0]
    assert not spread.is_contiguous()
    assert torch.equal(recorded(ids, with_change(block_tables=spread, positions=wide)), expected)


@torch.inference_mode()
def test_an_error_within_a_replay_leaves_the_program_usable(model: CausalLM) -> None:
    ids, meta, num_blocks = decoding(6)
    caches = random_caches(model, num_blocks)
    recorded = cpu.RecordedForward(model.forward, caches, BLOCK_SIZE, CAPACITY)
    expected = recorded(ids, meta).clone()
    after = [cache.clone() for cache in caches]
    bad_ids = ids.clone()
    bad_ids[3] = 320
    for field, value, message in (
        ("slot_mapping", num_blocks * BLOCK_SIZE, "slot"),
        ("slot_mapping", -1, "slot"),
        ("positions", MAX_LENGTH, "position"),
        ("block_tables", num_blocks, "block"),
    ):
        kept = getattr(meta, field).clone()
        getattr(meta, field).view(-1)[0] = value
        for call in (recorded, recorded.profile):
            with pytest.raises(IndexError, match=message):
                call(ids, meta)
            with pytest.raises(IndexError, match="row 320"):
                call(bad_ids, meta)
        getattr(meta, field).copy_(kept)
        assert torch.equal(recorded(ids, meta), expected)
        assert all(torch.equal(a, b) for a, b in zip(caches, after, strict=True))


# The engine.


def answer(llm: LLM) -> list[int]:
    params = SamplingParams(temperature=0.0, max_tokens=16, ignore_eos=True)
    return llm.generate([[5, 6, 7]], params, use_tqdm=False)[0].outputs[0].token_ids


def test_the_engine_records_what_it_can(tiny_model: Callable[..., Path]) -> None:
    llm = LLM(str(tiny_model()), num_blocks=40)
    recorded = llm.engine.runner.recorded  # type: ignore[attr-defined]
    assert isinstance(recorded, cpu.RecordedForward)
    eager = LLM(str(tiny_model()), num_blocks=40, enforce_eager=True)
    assert eager.engine.runner.recorded is None  # type: ignore[attr-defined]
    assert answer(eager) == answer(llm)


@pytest.mark.parametrize(
    ("kernels", "settings", "reason"),
    [
        ("reference", {}, "torch computes"),
        ("rms_norm=reference", {}, "torch computes"),
        ("paged_attention=reference", {}, "torch computes"),
        ("", {"dtype": "float16"}, "torch computes"),
    ],
)
def test_the_engine_runs_op_by_op_where_it_must_and_says_so(
    kernels: str,
    settings: dict[str, Any],
    reason: str,
    tiny_model: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("QUIRE_KERNELS", kernels)
    ops.reset()
    with caplog.at_level(logging.INFO):
        llm = LLM(str(tiny_model()), num_blocks=40, **settings)
    assert llm.engine.runner.recorded is None  # type: ignore[attr-defined]
    lines = [message for message in caplog.messages if message.startswith("steps run op by op")]
    assert len(lines) == 1
    assert reason in lines[0]
    assert len(answer(llm)) == 16
