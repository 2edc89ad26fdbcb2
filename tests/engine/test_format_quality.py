"""What integer formats cost in perplexity, on trained models: a mistake in rounding shows here first."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from quire import LLM
from quire.engine.evaluation import cut_windows, evaluate_windows, leading_tokens
from quire.models.embedded.corpus import documents

NUM_TOKENS = 20_000
WINDOW = 512
FORMATS: dict[str, dict[str, Any]] = {
    "float32": {},
    "int8": {"quantization": "int8"},
    "int4": {"quantization": "int4", "quantization_group_size": 32},
}

Ratio = Callable[[str], float]


def ratios(model: str, text: str) -> Ratio:
    """`ratio(format)` is a format's perplexity on a text, divided by fp32's. Activations are int8."""

    @cache
    def perplexity(name: str) -> float:
        llm = LLM(model, dtype="float32", **FORMATS[name])
        token_ids = llm.tokenizer.encode(text, add_special_tokens=False)[:NUM_TOKENS]
        assert len(token_ids) == NUM_TOKENS
        return evaluate_windows(llm, cut_windows(token_ids, leading_tokens(llm.tokenizer), WINDOW)).perplexity

    return lambda name: perplexity(name) / perplexity("float32")


@pytest.fixture(scope="module")
def embedded() -> Ratio:
    """The embedded model on texts of its own kind that it was not trained on."""
    source = documents(seed=987_654)
    return ratios("embedded", "".join(next(source).render() for _ in range(600)))


@pytest.fixture(scope="module")
def stories(shared_data: Path) -> Ratio:
    """A model of 260,032 parameters on stories."""
    text = (shared_data / "text" / "tinystories-train-2MiB.txt").read_text(encoding="utf-8")
    return ratios(str(shared_data / "models" / "stories260K"), text[: 8 * NUM_TOKENS])


def test_int8_costs_next_to_nothing(embedded: Ratio) -> None:
    assert embedded("int8") == pytest.approx(1.0, abs=0.005)


def test_int4_costs_little(embedded: Ratio) -> None:
    assert 1.0 < embedded("int4") < 1.03


def test_int8_costs_next_to_nothing_on_stories(stories: Ratio) -> None:
    assert stories("int8") == pytest.approx(1.0, abs=0.005)


@pytest.mark.xfail(
    reason="16 equal steps per 32 weights are too coarse for this model's matrices of 64 columns: even the "
    "best scale for each group costs more than 10%; what `quire quantize` makes stays within six: see "
    "tests/cli/test_quantize.py"
)
def test_int4_within_six_percent_on_stories(stories: Ratio) -> None:
    assert stories("int4") < 1.06


def test_int4_is_still_usable_on_stories(stories: Ratio) -> None:
    assert 1.0 < stories("int4") < 1.18
