"""Encoders through the whole engine: vectors, labels and scores as transformers has them, under any load."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_encoders
from quire import LLM
from quire.engine.build_encoder import check_encoder_settings
from quire.engine.config import EngineConfig
from quire.engine.model_choice import choose
from quire.errors import ContextLengthExceeded, InvalidRequest, ModelError
from quire.kernels import cpu
from quire.models.pooling import PoolingConfig

SEED = 20261129
Make = Callable[..., Path]
WORDS = ["the", "moon", "is", "a", "boat", "that", "sails", "over", "sea", "night", "and", "comes", "home"]


def texts(num: int, longest: int = 60) -> list[str]:
    print("seed", SEED)
    rng = random.Random(SEED)
    return [" ".join(rng.choices(WORDS, k=rng.randrange(longest))) for _ in range(num)]


def llm(folder: Path, **settings: Any) -> LLM:
    return LLM(str(folder), device="cpu", dtype="float32", **settings)


def embeddings(model: LLM, prompts: list[str], **options: Any) -> list[list[float]]:
    return [out.outputs.embedding for out in model.embed(prompts, use_tqdm=False, **options)]


@pytest.fixture(scope="module")
def bert(tiny_encoder: Make) -> Path:
    return tiny_encoder("BertModel")


@pytest.fixture(scope="module")
def cross_encoder(tiny_encoder: Make) -> Path:
    return tiny_encoder("BertForSequenceClassification", num_labels=1)


@pytest.fixture(scope="module")
def classifier(tiny_encoder: Make) -> Path:
    labels = {0: "good", 1: "bad", 2: "neither"}
    return tiny_encoder("RobertaForSequenceClassification", id2label=labels, num_labels=3)


@pytest.mark.parametrize("mode", ["cls_token", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens"])
@pytest.mark.parametrize("normalize", [True, False])
def test_pooling_as_the_folder_says(bert: Path, tmp_path: Path, mode: str, normalize: bool) -> None:
    folder = tmp_path / "model"
    shutil.copytree(bert, folder)
    tiny_encoders.write_pooling(folder, mode, normalize=normalize)
    model = llm(folder)
    (text,) = texts(1)
    states = tiny_encoders.oracle_states(bert, model.tokenizer.encode(text))
    weights = torch.arange(1, len(states) + 1)[:, None]
    expected = {
        "cls_token": states[0],
        "max_tokens": states.amax(0),
        "mean_sqrt_len_tokens": states.sum(0) / len(states) ** 0.5,
        "weightedmean_tokens": (states * weights).sum(0) / weights.sum(),
    }[mode]
    if normalize:
        expected = torch.nn.functional.normalize(expected, dim=0)
    (found,) = embeddings(model, [text])
    assert torch.allclose(torch.tensor(found), expected, atol=1e-4)


def test_without_files_the_mean_of_length_one(bert: Path) -> None:
    model = llm(bert)
    for text, found in zip(texts(5), embeddings(model, texts(5)), strict=True):
        mean = tiny_encoders.oracle_states(bert, model.tokenizer.encode(text)).mean(0)
        assert torch.allclose(torch.tensor(found), torch.nn.functional.normalize(mean, dim=0), atol=1e-4)


@pytest.mark.skipif(
    cpu.unavailable() is not None, reason="only the C++ kernels promise the same bits in any company"
)
@pytest.mark.parametrize("settings", [{}, {"max_num_batched_tokens": 400}, {"async_scheduling": True}])
def test_load_changes_no_bit(bert: Path, settings: dict[str, Any]) -> None:
    model, prompts = llm(bert, **settings), texts(40)
    together = embeddings(model, prompts)
    model.engine.scheduler.check_integrity()
    assert together[:5] == [embeddings(model, [prompt])[0] for prompt in prompts[:5]]
    assert embeddings(model, prompts[::-1])[::-1] == together


def test_a_step_holds_whole_texts(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = llm(bert, max_num_batched_tokens=400)
    steps: list[list[tuple[int, int]]] = []
    execute = model.engine.runner.execute

    def watched(scheduled: Any) -> Any:
        steps.append([(chunk.start, chunk.end) for chunk in scheduled.chunks])
        return execute(scheduled)

    monkeypatch.setattr(model.engine.runner, "execute", watched)
    prompts = ["a" * 200, "b" * 300, "c" * 100, "d" * 398]
    outputs = model.embed(prompts, use_tqdm=False)
    assert [len(output.prompt_token_ids) for output in outputs] == [202, 302, 102, 400]
    assert steps == [[(0, 202)], [(0, 302)], [(0, 102)], [(0, 400)]]


def test_labels(classifier: Path) -> None:
    model, prompts = llm(classifier), texts(7)
    for text, output in zip(prompts, model.classify(prompts, use_tqdm=False), strict=True):
        logits = tiny_encoders.oracle_logits(classifier, model.tokenizer.encode(text))
        assert torch.allclose(torch.tensor(output.outputs.probs), logits.softmax(0), atol=1e-4)
        assert output.outputs.num_classes == 3
        (raw,) = model.encode(text, use_activation=False, use_tqdm=False)
        assert torch.allclose(torch.tensor(raw.outputs.data), logits, atol=1e-4)
    assert model.pooling.classifier is not None
    assert model.pooling.classifier.labels == ("good", "bad", "neither")


def test_a_cross_encoder_scores_pairs(cross_encoder: Path) -> None:
    model, (question, *answers) = llm(cross_encoder), texts(6)
    outputs = model.score(question, answers, use_tqdm=False)
    for answer, output in zip(answers, outputs, strict=True):
        first, second = model.tokenizer.encode(question), model.tokenizer.encode(answer)[1:]
        assert output.prompt_token_ids == first + second
        types = [0] * len(first) + [1] * len(second)
        logit = tiny_encoders.oracle_logits(cross_encoder, first + second, types)
        assert output.outputs.score == pytest.approx(float(torch.sigmoid(logit)), abs=1e-4)


def test_long_texts(bert: Path, cross_encoder: Path) -> None:
    model = llm(bert, max_model_len=50)
    with pytest.raises(ContextLengthExceeded, match="52 tokens"):
        model.embed("a" * 50)
    (cut,) = model.embed("ab" * 200, truncate_prompt_tokens=-1, use_tqdm=False)
    assert cut.prompt_token_ids == model.tokenizer.encode("ab" * 24)
    (cut,) = model.embed("ab" * 200, truncate_prompt_tokens=4, use_tqdm=False)
    assert cut.prompt_token_ids == model.tokenizer.encode("ab")
    with pytest.raises(InvalidRequest, match="truncate_prompt_tokens"):
        model.embed("a", truncate_prompt_tokens=51)
    model = llm(cross_encoder, max_model_len=50)
    with pytest.raises(ContextLengthExceeded):
        model.score("a" * 10, "b" * 60)
    (cut_pair,) = model.score("a" * 10, "b" * 60, truncate_prompt_tokens=-1, use_tqdm=False)
    assert cut_pair.prompt_token_ids == model.tokenizer.encode_pairs([("a" * 10, "b" * 37)])[0][0]
    with pytest.raises(InvalidRequest, match="too few"):
        model.score("a", "b", truncate_prompt_tokens=3)


def test_the_usual_length_is_the_default(bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(bert, folder)
    tiny_encoders.write_pooling(folder, max_seq_length=30)
    assert llm(folder).max_model_len == 30
    assert llm(folder, max_model_len=400).max_model_len == 400


@pytest.mark.parametrize(
    ("name", "ask"),
    [
        ("bert", lambda model: model.generate("x")),
        ("bert", lambda model: model.chat([{"role": "user", "content": "x"}])),
        ("bert", lambda model: model.classify("x")),
        ("classifier", lambda model: model.generate("x")),
        ("classifier", lambda model: model.embed("x")),
        ("classifier", lambda model: model.score("x", "y")),
        ("cross_encoder", lambda model: model.score([1], [2])),
    ],
)
def test_what_a_model_cannot_do_is_refused(
    name: str, ask: Callable[[LLM], object], request: pytest.FixtureRequest
) -> None:
    with pytest.raises(InvalidRequest, match=r"this model|cross-encoder"):
        ask(llm(request.getfixturevalue(name)))


@pytest.mark.parametrize(
    "settings",
    [
        {"num_blocks": 9},
        {"memory_fraction": 0.3},
        {"kv_cache_dtype": "int8"},
        {"max_num_batched_tokens": 399},
    ],
)
def test_settings_that_mean_nothing_are_refused(bert: Path, settings: dict[str, Any]) -> None:
    config = EngineConfig(model=str(bert), **settings)
    with pytest.raises(ValueError, match=next(iter(settings))):
        check_encoder_settings(config, choose(config))


def test_ranks_cannot_share_an_encoder(bert: Path) -> None:
    with pytest.raises(ModelError, match="tensor_parallel_size=2"):
        choose(EngineConfig(model=str(bert), tensor_parallel_size=2))


def test_integer_weights(bert: Path) -> None:
    exact, rounded = (
        torch.tensor(embeddings(llm(bert, quantization=kind), texts(5))) for kind in (None, "int8")
    )
    assert not torch.equal(exact, rounded)
    assert torch.allclose(exact, rounded, atol=0.05)


def test_a_text_at_fault_fails_alone(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = llm(bert)
    forward = model.engine.runner.model.forward  # type: ignore[attr-defined]

    def failing(batch: Any) -> Any:
        if (batch.input_ids == 7).any():
            raise RuntimeError("this text is at fault")
        states = forward(batch)
        states[batch.input_ids == 9] = float("nan")
        return states

    monkeypatch.setattr(model.engine.runner.model, "forward", failing)  # type: ignore[attr-defined]
    prompts = [[1, 2, 3], [4, 7, 5], [6, 8], [9, 10]]
    outputs = model.generate(prompts, _params(model.pooling), use_tqdm=False)
    assert [output.outputs[0].finish_reason for output in outputs] == ["stop", "error", "stop", "error"]
    monkeypatch.undo()
    for prompt, output in zip(prompts[::2], outputs[::2], strict=True):
        (alone,) = model.generate([prompt], _params(model.pooling), use_tqdm=False)
        assert alone.pooled == output.pooled or cpu.unavailable()


def _params(pooling: PoolingConfig) -> Any:
    from quire.engine.embeddings import pooling_params

    return pooling_params(pooling)
