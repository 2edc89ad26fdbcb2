"""From the engine's token deltas to what callers see: text, stop strings, log-probabilities, choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..models.tokenizer import Tokenizer, TokenStream
from .outputs import CompletionOutput, FinishReason, Logprob, RequestOutput, TokenLogprobs
from .sampling_params import SamplingParams
from .step_data import RawLogprobs, TokenDelta
from .stop_strings import StopMatcher


@dataclass(slots=True)
class ChoiceState:
    """One choice of a request while it runs."""

    index: int
    stream: TokenStream
    stops: StopMatcher
    num_tokens: int = 0
    cumulative_logprob: float = 0.0
    finished: bool = False


@dataclass(slots=True)
class RequestState:
    """A caller's request: its prompt, its parameters, its choices."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    params: SamplingParams
    choices: list[ChoiceState]
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    num_cached_tokens: int = 0


@dataclass(slots=True)
class ProcessedStep:
    """What one engine step means to the callers.

    Attributes:
        outputs: Deltas, at most one per request.
        stopped: Choices that a stop string has ended; the engine does not know it yet.
        orphaned: Choices that are still running, but whose request has failed with another choice.
        failures: By request id, the error code of a request that failed.
    """

    outputs: list[RequestOutput] = field(default_factory=list[RequestOutput])
    stopped: list[str] = field(default_factory=list[str])
    orphaned: list[str] = field(default_factory=list[str])
    failures: dict[str, str] = field(default_factory=dict[str, str])


class OutputProcessor:
    """Keeps the state of all running requests on the callers' side of the engine."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._requests: dict[str, RequestState] = {}
        self._choices: dict[str, tuple[RequestState, ChoiceState]] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def add(
        self, request_id: str, prompt_token_ids: list[int], params: SamplingParams, prompt: str | None = None
    ) -> list[str]:
        """Registers a request; returns the ids of its choices, which the engine's requests bear.

        Raises ValueError if the id is in use.
        """
        if request_id in self._requests:
            raise ValueError(f"request id {request_id!r} is in use")
        choices = [
            ChoiceState(
                index,
                self._tokenizer.stream(
                    skip_special_tokens=params.skip_special_tokens, after=prompt_token_ids
                ),
                StopMatcher(params.stop, include=params.include_stop_str_in_output),
            )
            for index in range(params.n)
        ]
        state = RequestState(request_id, prompt, prompt_token_ids, params, choices)
        if params.prompt_logprobs is not None:
            state.prompt_logprobs = [None]
        self._requests[request_id] = state
        ids = [f"{request_id}.{choice.index}" for choice in choices]
        self._choices.update(zip(ids, ((state, choice) for choice in choices), strict=True))
        return ids

    def remove(self, request_id: str) -> list[str]:
        """Forgets a request; returns the ids of its choices that the engine is still working on."""
        state = self._requests.pop(request_id, None)
        if state is None:
            return []
        ids = [f"{request_id}.{choice.index}" for choice in state.choices]
        running = [
            choice_id for choice_id, choice in zip(ids, state.choices, strict=True) if not choice.finished
        ]
        for choice_id in ids:
            del self._choices[choice_id]
        return running

    def request_ids(self) -> list[str]:
        """The requests that are not finished."""
        return list(self._requests)

    def process(self, deltas: Sequence[TokenDelta]) -> ProcessedStep:
        """Takes in one step of the engine."""
        step = ProcessedStep()
        outputs: dict[str, RequestOutput] = {}
        for delta in deltas:
            entry = self._choices.get(delta.request_id)
            if entry is None or entry[1].finished:
                continue  # ended by a stop string or its caller while the step ran
            state, choice = entry
            if delta.error is not None:
                choice.finished = True
                step.failures[state.request_id] = delta.error
                continue
            self._add_prompt_logprobs(state, delta)
            if not delta.token_ids and delta.finish_reason is None:
                continue
            completion = self._complete(state, choice, delta)
            if choice.finished and delta.finish_reason is None:
                step.stopped.append(delta.request_id)
            output = outputs.get(state.request_id)
            if output is None:
                output = outputs[state.request_id] = self._new_output(state, delta)
            output.outputs.append(completion)
            output.pooled = delta.pooled
            output.finished = all(choice.finished for choice in state.choices)
            if output.finished:
                self.remove(state.request_id)
        for request_id in step.failures:
            outputs.pop(request_id, None)
            step.orphaned += self.remove(request_id)
        step.outputs = list(outputs.values())
        return step

    def _new_output(self, state: RequestState, delta: TokenDelta) -> RequestOutput:
        state.num_cached_tokens = max(state.num_cached_tokens, delta.num_cached_tokens)
        output = RequestOutput(
            state.request_id,
            state.prompt,
            state.prompt_token_ids,
            prompt_logprobs=state.prompt_logprobs,
            num_cached_tokens=state.num_cached_tokens,
        )
        state.prompt_logprobs = None  # given out once
        return output

    def _add_prompt_logprobs(self, state: RequestState, delta: TokenDelta) -> None:
        if state.prompt_logprobs is not None:
            state.prompt_logprobs += [self._logprobs(entry) for entry in delta.prompt_logprobs]

    def _complete(self, state: RequestState, choice: ChoiceState, delta: TokenDelta) -> CompletionOutput:
        """Adds a delta's tokens to a choice, up to a stop string."""
        params = state.params
        output = CompletionOutput(choice.index, "", [])
        reason: FinishReason | None = delta.finish_reason
        texts: list[str] = []
        for token in delta.token_ids:
            choice.num_tokens += 1
            output.token_ids.append(token)
            ends = delta.stop_token is not None and len(output.token_ids) == len(delta.token_ids)
            new = "" if ends and not params.include_stop_str_in_output else choice.stream.push([token])
            texts.append(choice.stops.push(new, check=choice.num_tokens > params.min_tokens))
            if choice.stops.matched is not None:
                reason, output.stop_reason = "stop", choice.stops.matched
                break
        if reason is not None:
            choice.finished = True
            output.finish_reason = reason
            if choice.stops.matched is None:
                texts.append(choice.stops.push(choice.stream.flush(), check=False))
                if delta.stop_token in params.stop_token_ids:
                    output.stop_reason = delta.stop_token
        output.text = "".join(texts)
        if delta.logprobs:
            output.logprobs = [self._logprobs(e) for e in delta.logprobs[: len(output.token_ids)]]
            choice.cumulative_logprob += sum(e[0][1] for e in delta.logprobs[: len(output.token_ids)])
            output.cumulative_logprob = choice.cumulative_logprob
        return output

    def _logprobs(self, entry: RawLogprobs) -> TokenLogprobs:
        text = self._tokenizer.token_text
        return {token: Logprob(logprob, rank, text(token)) for token, logprob, rank in entry}


def merge(total: RequestOutput | None, delta: RequestOutput) -> RequestOutput:
    """Adds a delta to what came before it; `total` is None at first, and is changed and returned."""
    if total is None:
        total = RequestOutput(delta.request_id, delta.prompt, delta.prompt_token_ids)
    if delta.prompt_logprobs is not None:
        total.prompt_logprobs = delta.prompt_logprobs
    total.num_cached_tokens = delta.num_cached_tokens
    total.pooled = delta.pooled
    total.finished = delta.finished
    by_index = {choice.index: choice for choice in total.outputs}
    for new in delta.outputs:
        choice = by_index.get(new.index)
        if choice is None:
            choice = CompletionOutput(new.index, "", [])
            total.outputs.append(choice)
            total.outputs.sort(key=lambda output: output.index)
        choice.text += new.text
        choice.token_ids += new.token_ids
        if new.logprobs is not None:
            choice.logprobs = choice.logprobs or []
            choice.logprobs += new.logprobs
            choice.cumulative_logprob = new.cumulative_logprob
        choice.finish_reason, choice.stop_reason = new.finish_reason, new.stop_reason
    return total


def keep_best(output: RequestOutput, params: SamplingParams) -> RequestOutput:
    """Keeps the n best choices of `params.best_of`, best first; earlier choices win ties.

    Args:
        output: A finished output of all choices, generated by `params.with_all_choices()`.
        params: What the caller asked for.
    """
    if not params.ranks:
        return output
    best = sorted(output.outputs, key=_mean_logprob, reverse=True)
    kept = [replace(choice, index=index) for index, choice in enumerate(best[: params.n])]
    if params.logprobs is None:
        kept = [replace(choice, logprobs=None) for choice in kept]
    return replace(output, outputs=kept)


def _mean_logprob(choice: CompletionOutput) -> float:
    """A choice's log-probability per token, by which OpenAI ranks: a sum would favour short choices."""
    return (choice.cumulative_logprob or 0.0) / max(1, len(choice.token_ids))
