"""Perplexity: the windows of a text, and the same figure as transformers gives."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_models
from quire import LLM
from quire.engine.evaluation import (
    Evaluation,
    Window,
    cut_windows,
    evaluate_windows,
    leading_tokens,
)
from quire.errors import ContextLengthExceeded, EngineError, InvalidRequest
from quire.models.tokenizer import Tokenizer

BOS = 256
NUM_TOKENS = 150
CUTS = [  # window, stride
    (64, None),
    (64, 20),
    (64, 1),
    (64, 64),
    (150, None),
    (151, None),
    (256, 100),
    (2, None),
]


def random_text(seed: int = 3) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(256) for _ in range(NUM_TOKENS)]


def parts(windows: Sequence[Window], leading: Sequence[int]) -> tuple[list[list[int]], list[list[int]]]:
    """The text of each window, and the part of it that is scored."""
    for window in windows:
        assert window.token_ids[: len(leading)] == list(leading)
    return (
        [window.token_ids[len(leading) :] for window in windows],
        [window.token_ids[window.first_scored :] for window in windows],
    )


def test_windows_that_do_not_overlap() -> None:
    texts, scored = parts(cut_windows(range(10), [BOS], 5), [BOS])
    assert texts == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert scored == texts


def test_windows_that_overlap_score_what_is_new() -> None:
    texts, scored = parts(cut_windows(range(10), [BOS], 5, 3), [BOS])
    assert texts == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert scored == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_without_bos_the_first_token_has_no_context() -> None:
    texts, scored = parts(cut_windows(range(9), [], 4), [])
    assert texts == [[0, 1, 2, 3], [4, 5, 6, 7]]  # the last token would be alone
    assert scored == [[1, 2, 3], [5, 6, 7]]
    texts, scored = parts(cut_windows(range(9), [], 4, 2), [])
    assert texts == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7], [6, 7, 8]]
    assert scored == [[1, 2, 3], [4, 5], [6, 7], [8]]


def test_every_token_is_scored_once_with_enough_context() -> None:
    for window, stride in CUTS:
        windows = cut_windows(range(NUM_TOKENS), [BOS], window, stride)
        _, scored = parts(windows, [BOS])
        assert [token for part in scored for token in part] == list(range(NUM_TOKENS))
        assert all(len(w.token_ids) <= window for w in windows)
        assert all(w.first_scored >= window - (stride or window) for w in windows[1:])


@pytest.mark.parametrize(
    ("num_tokens", "leading", "window", "stride", "named"),
    [
        (10, [BOS], 1, None, "window of 1"),
        (10, [], 1, None, "window of 1"),
        (10, [BOS], 5, 6, "stride"),
        (10, [BOS], 5, 0, "stride"),
        (0, [BOS], 5, None, "nothing to score"),
        (1, [], 5, None, "nothing to score"),
    ],
)
def test_what_cannot_be_cut(
    num_tokens: int, leading: list[int], window: int, stride: int | None, named: str
) -> None:
    with pytest.raises(InvalidRequest, match=named):
        cut_windows(range(num_tokens), leading, window, stride)


def test_leading_tokens_are_those_that_the_tokenizer_adds(
    tiny_model: Callable[..., Path], shared_data: Path
) -> None:
    assert leading_tokens(Tokenizer.from_folder(tiny_model())) == [BOS]
    assert leading_tokens(Tokenizer.from_folder(shared_data / "models" / "stories260K")) == [1]
    assert leading_tokens(Tokenizer.from_folder(shared_data / "tokenizers" / "gpt2")) == []


def transformers_perplexity(
    folder: Path, token_ids: list[int], leading: list[int], window: int, stride: int | None
) -> float:
    """As the guide "Perplexity of fixed-length models" computes it: labels of -100 are not scored."""
    room = window - len(leading)
    step = min(stride or room, room)
    total, num_scored, previous_end = 0.0, 0, 0
    for begin in range(0, len(token_ids), step):
        end = min(begin + room, len(token_ids))
        ids = torch.tensor([[*leading, *token_ids[begin:end]]])
        labels = ids.clone()
        labels[:, : len(leading) + previous_end - begin] = -100
        num = int((labels[:, 1:] != -100).sum())
        if num:
            with torch.inference_mode():
                loss = tiny_models.oracle(folder)(ids, labels=labels).loss
            total, num_scored = total + float(loss) * num, num_scored + num
        previous_end = end
        if end == len(token_ids):
            break
    return math.exp(total / num_scored)


@pytest.mark.parametrize("leading", [[BOS], []], ids=["bos", "no bos"])
@pytest.mark.parametrize(("window", "stride"), CUTS)
def test_perplexity_equals_transformers(
    tiny_model: Callable[..., Path], leading: list[int], window: int, stride: int | None
) -> None:
    folder, text = tiny_model(), random_text()
    llm = LLM(str(folder), max_num_batched_tokens=40)  # windows are cut into chunks, and share steps
    windows = cut_windows(text, leading, window, stride)
    evaluation = evaluate_windows(llm, windows)
    assert evaluation.num_tokens == sum(len(w.token_ids) - w.first_scored for w in windows)
    assert evaluation.num_windows == len(windows)
    expected = transformers_perplexity(folder, text, leading, window, stride)
    assert evaluation.perplexity == pytest.approx(expected, rel=1e-4)


def test_the_figures_do_not_depend_on_how_many_windows_run_at_once(tiny_model: Callable[..., Path]) -> None:
    windows = cut_windows(random_text(), [BOS], 20, 7)
    figures = [
        evaluate_windows(LLM(str(tiny_model()), **settings), windows).perplexity
        for settings in ({"max_num_batched_tokens": 1024}, {"max_num_batched_tokens": 3})
    ]
    assert figures[0] == pytest.approx(figures[1], rel=1e-6)


def test_a_window_longer_than_the_context(tiny_model: Callable[..., Path]) -> None:
    llm = LLM(str(tiny_model()), max_model_len=32)
    assert evaluate_windows(llm, cut_windows(random_text(), [BOS], 32)).num_tokens == NUM_TOKENS
    with pytest.raises(ContextLengthExceeded):
        evaluate_windows(llm, cut_windows(random_text(), [BOS], 33))


def test_a_model_that_computes_nan_is_an_error(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = LLM(str(tiny_model()))
    runner: Any = llm.engine.runner
    compute = runner.model.compute_logits
    monkeypatch.setattr(runner.model, "compute_logits", lambda hidden: compute(hidden) * math.nan)
    with pytest.raises(EngineError, match="NaN"):
        evaluate_windows(llm, cut_windows(random_text(), [BOS], 64))


def test_an_absurd_likelihood_is_an_infinite_perplexity() -> None:
    assert Evaluation(1e6, 10, 11, 1, 1.0).perplexity == math.inf
    assert Evaluation(20.0, 10, 11, 1, 2.0).perplexity == pytest.approx(math.e**2)
    assert Evaluation(20.0, 10, 11, 1, 2.0).tokens_per_second == 5.5
