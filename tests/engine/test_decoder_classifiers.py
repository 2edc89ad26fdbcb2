"""Decoders with a score head: the last token's numbers, as transformers has them, however the work is cut."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_encoders
from quire import LLM
from quire.errors import InvalidRequest, ModelError
from quire.kernels import cpu

SEED = 20261129
FAMILIES = ["Llama", "Mistral", "Qwen2", "Qwen3"]


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tiny_model: Callable[..., Path]) -> Path:
    labels = {0: "good", 1: "bad", 2: "neither"}
    architecture = f"{request.param}ForSequenceClassification"
    return tiny_model(architecture, id2label=labels, num_labels=3, tie_word_embeddings=True)


def prompts() -> list[list[int]]:
    print("seed", SEED)
    rng = random.Random(SEED)
    return [[rng.randrange(256) for _ in range(length)] for length in (1, 5, 90, 33, 17)]


def llm(folder: Path, **settings: Any) -> LLM:
    return LLM(str(folder), device="cpu", dtype="float32", num_blocks=64, **settings)


def probabilities(model: LLM, given: list[list[int]]) -> list[list[float]]:
    return [output.outputs.probs for output in model.classify(given, use_tqdm=False)]


def test_labels_equal_transformers(folder: Path) -> None:
    whole = probabilities(llm(folder), prompts())
    for ids, found in zip(prompts(), whole, strict=True):
        expected = tiny_encoders.oracle_logits(folder, ids).softmax(0)
        assert torch.allclose(torch.tensor(found), expected, atol=1e-4)
    cut = llm(folder, max_num_batched_tokens=13)
    for again in (
        probabilities(cut, prompts()),
        probabilities(cut, prompts()),  # from the prefix cache
        [probabilities(cut, [ids])[0] for ids in prompts()],
    ):
        assert torch.allclose(torch.tensor(again), torch.tensor(whole), atol=1e-5)
        assert again == whole or cpu.unavailable()  # only the C++ kernels promise the same bits


def test_a_score_for_a_pair(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model("Qwen2ForSequenceClassification", num_labels=1)
    model = llm(folder)
    (output,) = model.score("the moon", "is a boat", use_tqdm=False)
    logit = tiny_encoders.oracle_logits(folder, output.prompt_token_ids)
    assert output.outputs.score == pytest.approx(float(torch.sigmoid(logit)), abs=1e-4)


def test_it_generates_nothing(folder: Path) -> None:
    model = llm(folder)
    for ask in (lambda: model.generate("x"), lambda: model.embed("x")):
        with pytest.raises(InvalidRequest, match="this model"):
            ask()


def test_settings_without_meaning_are_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="lm_head=int8"):
        llm(folder, lm_head="int8")
    with pytest.raises(ModelError, match="tensor_parallel_size=2"):
        llm(folder, tensor_parallel_size=2)


def test_integer_layers_leave_the_head_as_it_is(folder: Path) -> None:
    model = llm(folder, quantization="int8")
    exact = torch.tensor(probabilities(llm(folder), prompts()))
    assert torch.allclose(torch.tensor(probabilities(model, prompts())), exact, atol=0.1)
    head = model.engine.runner.model.lm_head  # type: ignore[attr-defined]
    assert head.weight.format == "float32"
