"""Beam search over the engine's own requests: each step asks for one token after each beam.

A beam's tokens are a prompt that the prefix cache knows, so the beams share their blocks. Which beams
live on is decided here, as `generate(num_beams=...)` of transformers does with its default settings.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from typing import Protocol

from ..errors import EngineError, InvalidRequest
from ..models.tokenizer import Tokenizer
from .outputs import CompletionOutput, RequestOutput, TokenLogprobs
from .request_origin import RequestOrigin
from .sampling_params import MAX_LOGPROBS, SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamSearchParams:
    """How to search for the likeliest outputs. Nothing is drawn by chance.

    Attributes:
        beam_width: Beams that are followed, and outputs that are found.
        max_tokens: Tokens to generate at most.
        length_penalty: An output's score is its cumulative log-probability, divided by its number of
            tokens, EOS included, to this power: above 0 favours long outputs.
        early_stopping: Whether to stop once `beam_width` outputs have ended. Otherwise the search goes on
            as long as the best beam, at its present length, scores above the worst of them.
        ignore_eos: Whether EOS is a token like others, and all outputs are `max_tokens` long.
        skip_special_tokens: Whether the texts leave special tokens out.
    """

    beam_width: int
    max_tokens: int = 16
    length_penalty: float = 1.0
    early_stopping: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        for name, high in (("beam_width", MAX_LOGPROBS), ("max_tokens", (1 << 31) - 1)):
            value: object = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= high:
                raise InvalidRequest(f"{name} must be from 1 to {high}, got {value!r:.80}", param=name)
        penalty: object = self.length_penalty
        if (
            isinstance(penalty, bool)
            or not isinstance(penalty, int | float)
            or not -10.0 <= penalty <= 10.0  # NaN is refused too
        ):
            raise InvalidRequest(
                f"length_penalty must be a number from -10 to 10, got {penalty!r:.80}", param="length_penalty"
            )

    def as_sampling_params(self) -> SamplingParams:
        """What `input_check.check_request` must allow for a prompt."""
        return SamplingParams(n=self.beam_width, max_tokens=self.max_tokens)


@dataclass(frozen=True, slots=True)
class Beam:
    """An output, or its beginning: tokens, and the sum of their log-probabilities."""

    token_ids: list[int]
    cumulative_logprob: float


class BeamSearch:
    """The search for one prompt: tells which beams to go on with, and is told what can follow them.

    Args:
        prompt_token_ids: The prompt.
        params: How to search.
        eos_token_ids: Tokens that end an output.

    Raises:
        InvalidRequest: If more log-probabilities are needed than the engine gives.
    """

    def __init__(
        self, prompt_token_ids: list[int], params: BeamSearchParams, eos_token_ids: Iterable[int]
    ) -> None:
        self.prompt_token_ids = prompt_token_ids
        self.params = params
        self.beams = [Beam([], 0.0)]
        self.num_cached_tokens: int | None = None
        self._eos = frozenset(() if params.ignore_eos else eos_token_ids)
        self._ended: list[Beam] = []
        # So many that, whatever ends at EOS, there are enough to go on with.
        self.num_logprobs = params.beam_width + len(self._eos)
        if self.num_logprobs > MAX_LOGPROBS:
            raise InvalidRequest(
                f"beam_width may be at most {MAX_LOGPROBS - len(self._eos)} for this model, which has "
                f"{len(self._eos)} EOS tokens, got {params.beam_width}",
                param="beam_width",
            )

    @property
    def step_params(self) -> SamplingParams:
        """With these, a beam's request tells what can follow it."""
        return SamplingParams(temperature=0.0, max_tokens=1, logprobs=self.num_logprobs, ignore_eos=True)

    def prompts(self) -> list[list[int]]:
        """One prompt per beam; none when the search is over."""
        return [self.prompt_token_ids + beam.token_ids for beam in self.beams]

    def take(self, outputs: Sequence[RequestOutput]) -> None:
        """Takes in the outputs for `prompts()`. Raises `EngineError` if one of them has failed."""
        if self.num_cached_tokens is None:
            self.num_cached_tokens = outputs[0].num_cached_tokens
        following: list[TokenLogprobs] = []
        for output in outputs:
            choice = output.outputs[0]
            if not choice.logprobs:
                raise EngineError(f"a beam's request ended without a token: {choice.finish_reason}")
            following.append(choice.logprobs[0])
        self._advance(following)

    def _advance(self, following: Sequence[TokenLogprobs]) -> None:
        """One step, given what can follow each beam."""
        params, width = self.params, self.params.beam_width
        grown = [
            Beam([*beam.token_ids, token], beam.cumulative_logprob + entry.logprob)
            for beam, entries in zip(self.beams, following, strict=True)
            for token, entry in entries.items()
        ]
        grown.sort(key=lambda beam: -beam.cumulative_logprob)
        length = len(self.beams[0].token_ids) + 1
        # What ends must be among the best, or a bad beam could end merely because it can.
        ended = [beam for beam in grown[:width] if self._ends(beam)]
        self._ended = sorted(self._ended + ended, key=lambda beam: -self._score(beam))[:width]
        self.beams = [beam for beam in grown if not self._ends(beam)][:width]
        if len(self._ended) == width and self.beams:
            best = self.beams[0].cumulative_logprob / length**params.length_penalty
            if params.early_stopping or best <= self._score(self._ended[-1]):
                self.beams = []

    def _ends(self, beam: Beam) -> bool:
        return beam.token_ids[-1] in self._eos or len(beam.token_ids) == self.params.max_tokens

    def _score(self, beam: Beam) -> float:
        return beam.cumulative_logprob / len(beam.token_ids) ** self.params.length_penalty

    def output(self, request_id: str, tokenizer: Tokenizer, prompt: str | None = None) -> RequestOutput:
        """The outputs that were found, the one with the highest score first."""
        choices: list[CompletionOutput] = []
        for index, beam in enumerate(self._ended):
            stops = beam.token_ids[-1] in self._eos
            stream = tokenizer.stream(
                skip_special_tokens=self.params.skip_special_tokens, after=self.prompt_token_ids
            )
            text = stream.push(beam.token_ids[:-1] if stops else beam.token_ids) + stream.flush()
            choices.append(
                CompletionOutput(
                    index,
                    text,
                    beam.token_ids,
                    cumulative_logprob=beam.cumulative_logprob,
                    finish_reason="stop" if stops else "length",
                )
            )
        return RequestOutput(
            request_id,
            prompt,
            self.prompt_token_ids,
            outputs=choices,
            finished=True,
            num_cached_tokens=self.num_cached_tokens or 0,
        )


class Generator(Protocol):
    """What the search needs of `AsyncEngine`."""

    def generate(
        self,
        prompt_token_ids: list[int],
        params: SamplingParams,
        *,
        request_id: str,
        priority: int = 0,
        cache_salt: str | None = None,
        time_limit: float | None = None,
        tenant: str = "",
        weight: float = 1.0,
    ) -> AsyncIterator[RequestOutput]:
        """Yields deltas."""
        ...


async def search_with(
    engine: Generator,
    search: BeamSearch,
    tokenizer: Tokenizer,
    origin: RequestOrigin,
) -> AsyncGenerator[RequestOutput]:
    """Yields the finished output of a search, once. Closing or cancelling it aborts its requests.

    The time limit is that of all steps together.
    """
    begun = time.monotonic()

    def rest() -> RequestOrigin:
        if origin.time_limit is None:
            return origin
        return replace(origin, time_limit=max(1e-3, origin.time_limit - (time.monotonic() - begun)))

    async def step(prompt: list[int]) -> RequestOutput:
        outputs = engine.generate(prompt, search.step_params, **asdict(rest()))
        async with aclosing(outputs):  # type: ignore[type-var]
            return await anext(outputs)

    while prompts := search.prompts():
        tasks = [asyncio.create_task(step(prompt)) for prompt in prompts]
        try:
            search.take(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    yield search.output(origin.request_id, tokenizer)
