"""Embeddings of decoders against transformers in fp32, however the prompts are cut into steps."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from quire import LLM, SamplingParams
from quire.engine.embeddings import finish_embedding, pair_up
from quire.engine.step_data import SchedulerOutput
from quire.errors import InvalidRequest

SEED = 20240607
Model = Callable[..., Path]


@cache
def base_model(folder: Path) -> torch.nn.Module:
    return AutoModel.from_pretrained(folder, dtype=torch.float32).eval()


def expected(folder: Path, ids: list[int], mode: str, dimensions: int | None = None) -> list[float]:
    """transformers' vector, of length 1."""
    with torch.inference_mode():
        states = base_model(folder)(torch.tensor([ids])).last_hidden_state[0]
    vector = (states[-1] if mode == "last" else states.mean(dim=0))[:dimensions]
    return torch.nn.functional.normalize(vector, dim=0).tolist()


def prompts(num: int, longest: int = 90) -> list[list[int]]:
    rng = random.Random(SEED)
    print("seed", SEED)
    return [[rng.randrange(256) for _ in range(rng.randrange(1, longest))] for _ in range(num)]


def with_pooling(source: Path, target: Path, mode: str, **config: object) -> Path:
    """A copy of a model with the files of sentence-transformers."""
    shutil.copytree(source, target)
    modules = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    (target / "modules.json").write_text(
        json.dumps([{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in modules])
    )
    (target / "1_Pooling").mkdir()
    (target / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": mode}))
    fields = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(fields | config))
    return target


def llm(folder: Path, **settings: object) -> LLM:
    settings = {"num_blocks": 256, "max_num_batched_tokens": 32} | settings
    return LLM(str(folder), device="cpu", dtype="float32", **settings)


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen3ForCausalLM"])
@pytest.mark.parametrize("mode", ["last", "mean"])
@pytest.mark.parametrize("ahead", [False, True])
def test_embeddings_are_transformers(
    tiny_model: Model, tmp_path: Path, architecture: str, mode: str, ahead: bool
) -> None:
    source = tiny_model(architecture)
    folder = with_pooling(source, tmp_path / "m", mode) if mode == "mean" else source
    model = llm(folder, async_scheduling=ahead)
    given = prompts(12)
    for _ in range(2):  # the second time, prefixes are cached
        for ids, output in zip(given, model.embed(given, use_tqdm=False), strict=True):
            assert output.prompt_token_ids == ids
            torch.testing.assert_close(
                torch.tensor(output.outputs.embedding),
                torch.tensor(expected(source, ids, mode)),
                atol=1e-5,
                rtol=0,
            )


@pytest.mark.parametrize("mode", ["lasttoken", "mean"])
@pytest.mark.parametrize("ahead", [False, True])
def test_preemption_changes_nothing(tiny_model: Model, tmp_path: Path, mode: str, ahead: bool) -> None:
    """Embeddings beside generations in a pool that is too small for all of them."""
    folder = with_pooling(tiny_model(), tmp_path / "m", mode)
    model = llm(
        folder,
        num_blocks=17,
        block_size=16,
        max_model_len=160,
        enable_prefix_caching=False,
        async_scheduling=ahead,
    )
    given = prompts(10)
    generating = SamplingParams(max_tokens=60, temperature=0.0, ignore_eos=True)
    pooling = SamplingParams(max_tokens=0, pooling="mean" if mode == "mean" else "last")
    alone = model.embed(given, use_tqdm=False)
    params = [generating if i % 2 else pooling for i in range(20)]
    mixed = model.generate([given[i // 2] for i in range(20)], params, use_tqdm=False)
    assert model.get_metrics().num_preemptions > 0
    for i, output in enumerate(mixed):
        if i % 2:
            assert output.pooled is None
            continue
        torch.testing.assert_close(
            torch.from_numpy(finish_embedding(model.pooling, output.pooled)),
            torch.tensor(alone[i // 2].outputs.embedding),
            atol=1e-5,
            rtol=0,
        )


def test_a_step_may_be_executed_twice(tiny_model: Model, tmp_path: Path) -> None:
    """The engine does so to find the request at fault in a step that failed."""
    source = tiny_model()
    model = llm(with_pooling(source, tmp_path / "m", "mean"))
    execute = model.engine.runner.execute

    def twice(scheduled: SchedulerOutput) -> object:
        execute(scheduled)
        return execute(SchedulerOutput(scheduled.chunks, scheduled.num_tokens, []))

    model.engine.runner.execute = twice  # type: ignore[method-assign]
    (output,) = model.embed([list(range(100))], use_tqdm=False)
    torch.testing.assert_close(
        torch.tensor(output.outputs.embedding),
        torch.tensor(expected(source, list(range(100)), "mean")),
        atol=1e-5,
        rtol=0,
    )


def test_a_step_that_fails_in_flight_is_taken_back(tiny_model: Model, tmp_path: Path) -> None:
    """Steps behind it are undone, and all of them are executed again."""
    source = tiny_model()
    model = llm(with_pooling(source, tmp_path / "m", "mean"), async_scheduling=True)
    submit = model.engine.runner.submit
    steps = iter(range(100))

    def failing(scheduled: SchedulerOutput) -> object:
        handle = submit(scheduled)
        if next(steps) == 1:
            handle.wait = _fail
        return handle

    model.engine.runner.submit = failing  # type: ignore[method-assign]
    (output,) = model.embed([list(range(120))], use_tqdm=False)
    torch.testing.assert_close(
        torch.tensor(output.outputs.embedding),
        torch.tensor(expected(source, list(range(120)), "mean")),
        atol=1e-5,
        rtol=0,
    )


def _fail() -> None:
    raise RuntimeError("the step failed")


def test_dimensions(tiny_model: Model, tmp_path: Path) -> None:
    source = tiny_model()
    model = llm(with_pooling(source, tmp_path / "m", "mean", matryoshka_dimensions=[16]))
    ids = [1, 2, 3]
    (output,) = model.embed([ids], dimensions=16, use_tqdm=False)
    assert len(output.outputs.embedding) == 16
    torch.testing.assert_close(
        torch.tensor(output.outputs.embedding),
        torch.tensor(expected(source, ids, "mean", 16)),
        atol=1e-5,
        rtol=0,
    )
    with pytest.raises(InvalidRequest, match="dimensions"):
        model.embed([ids], dimensions=17, use_tqdm=False)


def test_encode_gives_the_vector_as_it_was_pooled(tiny_model: Model) -> None:
    folder = tiny_model()
    model = llm(folder)
    ids = [1, 2, 3]
    with torch.inference_mode():
        states = base_model(folder)(torch.tensor([ids])).last_hidden_state[0]
    (raw,) = model.encode([ids], use_activation=False, use_tqdm=False)
    torch.testing.assert_close(torch.tensor(raw.outputs.data), states[-1], atol=1e-5, rtol=1e-5)
    (scaled,), (embedded,) = model.encode([ids], use_tqdm=False), model.embed([ids], use_tqdm=False)
    assert scaled.outputs.data == embedded.outputs.embedding


def test_scores_are_cosines(tiny_model: Model) -> None:
    folder = tiny_model()
    model = llm(folder)
    given = prompts(4)
    vectors = torch.tensor([expected(folder, ids, "last") for ids in given])
    one_with_all = model.score(given[0], given[1:], use_tqdm=False)
    assert [each.outputs.score for each in one_with_all] == pytest.approx(
        (vectors[1:] @ vectors[0]).tolist(), abs=1e-5
    )
    in_pairs = model.score(given[:2], given[2:], use_tqdm=False)
    assert [each.outputs.score for each in in_pairs] == pytest.approx(
        (vectors[:2] * vectors[2:]).sum(dim=1).tolist(), abs=1e-5
    )
    assert in_pairs[0].prompt_token_ids == given[0] + given[2]
    with pytest.raises(InvalidRequest, match="2 and 3"):
        model.score(given[:2], given[:3], use_tqdm=False)


def test_pairs() -> None:
    assert pair_up(1, 3, ("a", "b")) == [(0, 0), (0, 1), (0, 2)]
    assert pair_up(2, 2, ("a", "b")) == [(0, 0), (1, 1)]
    for numbers in ((0, 0), (1, 0), (0, 1), (2, 1), (2, 3)):
        with pytest.raises(InvalidRequest, match="a must have"):
            pair_up(*numbers, ("a", "b"))


@pytest.mark.parametrize("fields", [{"max_tokens": 1}, {"max_tokens": None}, {"max_tokens": 0, "n": 2}])
def test_pooling_samples_nothing(fields: dict) -> None:
    with pytest.raises(InvalidRequest, match="pooling needs"):
        SamplingParams(pooling="mean", **fields)


def test_the_prompt_may_fill_the_context(tiny_model: Model) -> None:
    model = llm(tiny_model(), max_model_len=64)
    (output,) = model.embed([[7] * 64], use_tqdm=False)
    assert len(output.outputs.embedding) == 64
    with pytest.raises(InvalidRequest, match="65 tokens"):
        model.embed([[7] * 65], use_tqdm=False)
