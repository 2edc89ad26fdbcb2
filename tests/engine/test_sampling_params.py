"""Parameters are valid or refused, with the field and the value in the message."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import pytest

from quire.engine.input_check import check_request, truncate_prompt
from quire.engine.sampling_params import SamplingParams
from quire.errors import ContextLengthExceeded, InvalidRequest
from quire.models.tokenizer import Tokenizer

BAD: list[tuple[str, Any]] = [
    ("n", 0),
    ("n", 10**9),
    ("n", True),
    ("best_of", 0),
    ("best_of", 10**9),
    ("best_of", 1.5),
    ("temperature", -0.1),
    ("temperature", 2.1),
    ("temperature", float("nan")),
    ("temperature", float("inf")),
    ("temperature", "1"),
    ("temperature", 10**400),
    ("top_p", 0.0),
    ("top_p", 1.1),
    ("min_p", -0.1),
    ("top_k", -2),
    ("top_k", 1.5),
    ("presence_penalty", 2.1),
    ("frequency_penalty", -2.1),
    ("repetition_penalty", 0.0),
    ("repetition_penalty", 1e-40),
    ("seed", 1 << 63),
    ("max_tokens", -1),
    ("max_tokens", 0),
    ("max_tokens", 1 << 63),
    ("min_tokens", -1),
    ("min_tokens", 17),
    ("stop", ["x"] * 10_000),
    ("stop", [""]),
    ("stop", ["x" * 100_000]),
    ("logprobs", -1),
    ("logprobs", 10**6),
    ("prompt_logprobs", 21),
    ("logit_bias", {1: 101.0}),
    ("logit_bias", {-1: 1.0}),
    ("logit_bias", {1: float("nan")}),
    ("allowed_token_ids", []),
    ("bad_words", "text"),
    ("truncate_prompt_tokens", 0),
    ("truncate_prompt_tokens", -2),
    ("truncate_prompt_tokens", True),
    ("bad_words", [""]),
    ("bad_words", [" "]),
    ("bad_words", ["x"] * 10_000),
    ("bad_words", ["x" * 10_000]),
    ("bad_words_token_ids", [[]]),
    ("bad_words_token_ids", [5]),
    ("bad_words_token_ids", 5),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_out_of_range_values_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        SamplingParams(**{name: value})
    assert caught.value.param == name
    assert caught.value.status == 400
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("name", ["logit_bias", "stop_token_ids", "allowed_token_ids"])
def test_tokens_outside_of_the_vocabulary_are_refused(name: str) -> None:
    for token in (100, 1 << 30):
        params = SamplingParams(**{name: {token: 1.0} if name == "logit_bias" else [token]})
        with pytest.raises(InvalidRequest, match=str(token)) as caught:
            check_request([1], params, vocab_size=100, max_model_len=50)
        assert caught.value.param == name


@pytest.mark.parametrize("token", [-1, 100, 1 << 63])
def test_prompt_ids_outside_of_the_vocabulary_are_refused(token: int) -> None:
    with pytest.raises(InvalidRequest, match=str(token)):
        check_request([1, token], SamplingParams(), vocab_size=100, max_model_len=50)


def test_the_context_limit() -> None:
    def check(num_prompt: int, max_tokens: int | None, **extra: Any) -> None:
        params = SamplingParams(max_tokens=max_tokens, **extra)
        check_request([1] * num_prompt, params, vocab_size=100, max_model_len=50)

    check(49, 1)
    check(49, None)
    check(50, 0, prompt_logprobs=0)
    for num_prompt, max_tokens in ((50, None), (40, 11), (10**6, 1)):
        with pytest.raises(ContextLengthExceeded) as caught:
            check(num_prompt, max_tokens)
        assert caught.value.code == "context_length_exceeded"
    with pytest.raises(InvalidRequest, match="empty"):
        check(0, 1)


def test_parameters_that_leave_no_token_are_refused() -> None:
    for params in (
        SamplingParams(allowed_token_ids=[2, 2, 2], min_tokens=1),
        SamplingParams(stop_token_ids=[token for token in range(100) if token != 2], min_tokens=1),
    ):
        with pytest.raises(InvalidRequest, match="min_tokens=1"):
            check_request([1], params, vocab_size=100, max_model_len=50, eos_token_ids=[2])


def test_parameters_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SamplingParams().n = 2  # type: ignore[misc]


def test_choices_have_seeds_of_their_own() -> None:
    params = SamplingParams(n=3, seed=(1 << 63) - 1)
    seeds = [params.for_choice(i).seed for i in range(3)]
    assert len(set(seeds)) == 3
    assert seeds[0] == params.seed
    assert SamplingParams(n=2).for_choice(1).seed is None


@pytest.mark.parametrize(
    ("limit", "max_tokens", "kept"),
    [
        (None, 1, [1, 5, 6, 7, 8, 9]),
        (6, 1, [1, 5, 6, 7, 8, 9]),
        (5, 1, [1, 6, 7, 8, 9]),
        (2, 1, [1, 9]),
        (1, 1, [9]),
        (-1, 3, [1, 6, 7, 8, 9]),
        (-1, None, [1, 5, 6, 7, 8, 9]),
        (-1, 100, [9]),
    ],
)
def test_truncation_keeps_the_end_of_a_prompt_and_what_stands_before_every_text(
    limit: int | None, max_tokens: int | None, kept: list[int]
) -> None:
    class Beginning:
        def encode(self, text: str) -> list[int]:
            return [1]

    params = SamplingParams(truncate_prompt_tokens=limit, max_tokens=max_tokens)
    tokenizer = cast("Tokenizer", Beginning())
    assert truncate_prompt([1, 5, 6, 7, 8, 9], params, tokenizer, 8) == kept
    assert truncate_prompt(kept, params, tokenizer, 8) == kept
    without = truncate_prompt([4, 5, 6, 7, 8, 9], params, tokenizer, 8)
    assert without == [4, 5, 6, 7, 8, 9][-len(kept) :]


def test_truncation_to_more_than_the_context_is_refused() -> None:
    params = SamplingParams(truncate_prompt_tokens=9)
    with pytest.raises(InvalidRequest, match=r"truncate_prompt_tokens \(9\)"):
        truncate_prompt([1], params, cast("Tokenizer", None), 8)
