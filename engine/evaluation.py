"""Perplexity of a text: how well a model predicts it, in the format in which the model runs."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import EngineError, InvalidRequest
from .sampling_params import SamplingParams

if TYPE_CHECKING:
    from ..models.tokenizer import Tokenizer
    from .llm import LLM
    from .outputs import RequestOutput

STEPS_AT_ONCE = 8
"""Windows are given to the engine some at a time: enough for so many full steps, so that hardly a step
runs half empty, and few enough that the log-probabilities of a long text need no memory to speak of."""


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a text that the model sees at once.

    Attributes:
        token_ids: What it sees.
        first_scored: Index of the first of these tokens that counts; those before it are context only.
    """

    token_ids: list[int]
    first_scored: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well a text was predicted.

    Attributes:
        negative_log_likelihood: Minus the sum of the scored tokens' natural log-probabilities.
        num_tokens: Tokens that were scored, each once.
        num_computed: Tokens that the model computed: those of all windows, context included.
        num_windows: Windows.
        seconds: The time that it took, loading not included.
    """

    negative_log_likelihood: float
    num_tokens: int
    num_computed: int
    num_windows: int
    seconds: float

    @property
    def perplexity(self) -> float:
        """`exp` of the mean negative log-likelihood of a token; infinite if a float cannot hold it."""
        try:
            return math.exp(self.negative_log_likelihood / self.num_tokens)
        except OverflowError:
            return math.inf

    @property
    def tokens_per_second(self) -> float:
        """Computed tokens per second."""
        return self.num_computed / self.seconds


def leading_tokens(tokenizer: Tokenizer) -> list[int]:
    """What a tokenizer puts before every text: usually BOS, or nothing."""
    bare, whole = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start]
    return []


def cut_windows(
    token_ids: Sequence[int], leading: Sequence[int], window: int, stride: int | None = None
) -> list[Window]:
    """Cuts a text into windows, in which each of its tokens is scored once.

    Windows begin `stride` tokens of the text apart. The first one scores all of its tokens, each later
    one those that the one before it did not see, so that a stride shorter than a window gives every
    token a context of at least `window - stride` tokens (Hugging Face's "Perplexity of fixed-length
    models" does the same). The last window may be shorter. Where no leading token stands before it,
    the first token of a window has no context at all, and is not scored.

    Args:
        token_ids: The text, without special tokens.
        leading: The tokens that begin each window, BOS say.
        window: Tokens in a window, the leading ones included.
        stride: At most `window`; by default whole windows, which do not overlap.

    Raises:
        InvalidRequest: The window has no room, the stride is out of range, or there is nothing to score.
    """
    room = window - len(leading)
    if room < 1 or window < 2:
        raise InvalidRequest(f"a window of {window} tokens has no room for text", param="window")
    if stride is not None and not 1 <= stride <= window:
        raise InvalidRequest(f"stride must be between 1 and the window of {window}, got {stride}")
    step = room if stride is None else min(stride, room)
    windows: list[Window] = []
    seen = 0  # tokens of the text that a window has held so far
    for start in range(0, len(token_ids), step):
        stop = min(start + room, len(token_ids))
        tokens = [*leading, *token_ids[start:stop]]
        first_scored = max(1, len(leading) + seen - start)
        if first_scored < len(tokens):
            windows.append(Window(tokens, first_scored))
        seen = stop
        if stop == len(token_ids):
            break
    if not windows:
        raise InvalidRequest(
            f"the text has {len(token_ids)} tokens, of which none has another one before it: nothing to score"
        )
    return windows


def evaluate_windows(
    llm: LLM, windows: Sequence[Window], *, description: str = "Evaluating", progress: bool = False
) -> Evaluation:
    """Sums the log-probabilities of windows, computed by the engine as those of any prompt.

    Args:
        llm: The model.
        windows: None longer than the model's context.
        description: What the progress bar says.
        progress: Whether to show one.

    Raises:
        ContextLengthExceeded: A window is longer than the model's context.
        EngineError: The model computed NaN, or failed.
    """
    from tqdm import tqdm

    params = SamplingParams(max_tokens=0, prompt_logprobs=0, temperature=0.0)
    budget = STEPS_AT_ONCE * llm.engine.scheduler.max_num_batched_tokens
    at_once = max(1, budget // max(len(window.token_ids) for window in windows))
    num_computed = sum(len(window.token_ids) for window in windows)
    logprobs: list[float] = []
    started = time.monotonic()
    with tqdm(total=num_computed, desc=description, unit="tok", unit_scale=True, disable=not progress) as bar:
        for start in range(0, len(windows), at_once):
            batch = windows[start : start + at_once]
            outputs = llm.generate([window.token_ids for window in batch], params, use_tqdm=False)
            for window, output in zip(batch, outputs, strict=True):
                logprobs += _scored_logprobs(window, output)
                bar.update(len(window.token_ids))
    seconds = time.monotonic() - started
    return Evaluation(-math.fsum(logprobs), len(logprobs), num_computed, len(windows), seconds)


def _scored_logprobs(window: Window, output: RequestOutput) -> list[float]:
    """The log-probabilities of the tokens of a window that count."""
    entries = output.prompt_logprobs
    if entries is None:
        raise EngineError("a window could not be evaluated: the engine failed, or the model computed NaN")
    scored: list[float] = []
    for token, entry in zip(
        window.token_ids[window.first_scored :], entries[window.first_scored :], strict=True
    ):
        assert entry is not None, "only the first token of a prompt has no log-probability"
        scored.append(entry[token].logprob)
    return scored
