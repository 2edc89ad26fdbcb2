"""Beam search against transformers: the same tokens and scores, in the same order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_models
from quire import LLM, BeamSearchParams, RequestOutput
from quire.errors import InvalidRequest

PROMPTS = [[5], [7, 9, 11, 250, 3], list(range(30, 53))]


@pytest.fixture(scope="module")
def folder(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("LlamaForCausalLM")


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return LLM(str(folder), block_size=4, seed=0)


def oracle(folder: Path, prompt: list[int], eos: list[int], params: BeamSearchParams) -> list[Any]:
    """Tokens, without what fills them up, and score of each output."""
    with torch.inference_mode():
        inputs = torch.tensor([prompt])
        found = tiny_models.oracle(folder).generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            num_beams=params.beam_width,
            num_return_sequences=params.beam_width,
            max_new_tokens=params.max_tokens,
            length_penalty=params.length_penalty,
            early_stopping=params.early_stopping,
            do_sample=False,
            eos_token_id=eos or None,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
        )
    result = []
    for row, score in zip(found.sequences[:, len(prompt) :].tolist(), found.sequences_scores, strict=True):
        end = next((i + 1 for i, token in enumerate(row) if token in eos), params.max_tokens)
        result.append((row[:end], float(score)))
    return result


def scored(output: RequestOutput, params: BeamSearchParams) -> list[Any]:
    return [
        (
            choice.token_ids,
            pytest.approx(
                (choice.cumulative_logprob or 0.0) / len(choice.token_ids) ** params.length_penalty, abs=1e-4
            ),
        )
        for choice in output.outputs
    ]


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0, -1.0])
@pytest.mark.parametrize("width", [2, 4])
def test_equals_transformers(
    llm: LLM, folder: Path, width: int, length_penalty: float, early_stopping: bool, monkeypatch: Any
) -> None:
    params = BeamSearchParams(
        beam_width=width, max_tokens=12, length_penalty=length_penalty, early_stopping=early_stopping
    )
    # With tokens that the model likes as EOS, outputs end early, and at different lengths.
    liked = [
        choice.token_ids[place]
        for choice, place in zip(
            llm.beam_search(PROMPTS[1], BeamSearchParams(beam_width=2, max_tokens=6)).pop().outputs,
            (2, 4),
            strict=True,
        )
    ]
    ends = set()
    for eos in ([liked[0]], sorted(set(liked)), [1]):
        monkeypatch.setattr(llm, "model_config", replaced(llm.model_config, tuple(eos)))
        outputs = llm.beam_search(PROMPTS, params)
        for prompt, output in zip(PROMPTS, outputs, strict=True):
            assert oracle(folder, prompt, eos, params) == scored(output, params)
            ends |= {choice.finish_reason for choice in output.outputs}
            for choice in output.outputs:
                assert (choice.finish_reason == "stop") == (choice.token_ids[-1] in eos)
    assert "stop" in ends or length_penalty > 1.0  # which lets long outputs win
    llm.engine.scheduler.check_integrity()
    assert llm.get_metrics().num_running == 0


def replaced(config: Any, eos_token_ids: tuple[int, ...]) -> Any:
    import dataclasses

    return dataclasses.replace(config, eos_token_ids=eos_token_ids)


def test_one_beam_is_greedy_and_blocks_are_shared(llm: LLM, folder: Path) -> None:
    params = BeamSearchParams(beam_width=1, max_tokens=20, ignore_eos=True)
    llm.reset_prefix_cache()
    before = llm.get_metrics().prefix_cache_hits
    prompt = PROMPTS[2]
    (output,) = llm.beam_search(prompt, params)
    assert output.outputs[0].token_ids == tiny_models.oracle_greedy(folder, prompt, 20)
    assert output.outputs[0].text == llm.tokenizer.decode(output.outputs[0].token_ids)
    # Every step but the first finds all full blocks before the last token.
    hits = llm.get_metrics().prefix_cache_hits - before
    assert hits >= sum((len(prompt) + i - 1) // 4 * 4 for i in range(1, 20)) - 20 * 4


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"beam_width": 0}, "beam_width"),
        ({"beam_width": 21}, "beam_width"),
        ({"beam_width": True}, "beam_width"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"length_penalty": float("nan")}, "length_penalty"),
        ({"length_penalty": "1"}, "length_penalty"),
    ],
)
def test_out_of_range_values_are_refused_by_name(settings: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        BeamSearchParams(**{"beam_width": 2, **settings})
    assert caught.value.param == param


def test_what_does_not_fit_the_model_is_refused(llm: LLM) -> None:
    with pytest.raises(InvalidRequest, match="max_tokens=100000 exceed"):
        llm.beam_search("x", BeamSearchParams(beam_width=2, max_tokens=100_000))
    with pytest.raises(InvalidRequest, match="beam_width may be at most 19"):
        llm.beam_search("x", BeamSearchParams(beam_width=20))
