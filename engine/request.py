"""One request inside the engine: what was asked, and how far it has come."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from .sampling_params import SamplingParams


class RequestStatus(Enum):
    """Where a request is; preemption takes it from RUNNING back to WAITING."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class OutputGrammar(Protocol):
    """Where a constrained output stands: `structured.OutputGrammar`, or a fake."""

    def advance(self, token: int) -> bool:
        """Takes in an appended token; False if it cannot."""
        ...

    def forced(self) -> list[int]:
        """The tokens that must come next."""
        ...


class Request:
    """A single sequence: a prompt, and the tokens generated so far.

    A prompt with n choices is n requests; the later ones name the first as their `leader` and
    wait until its prompt is computed, so that they share its cache blocks.

    Attributes:
        token_ids: Prompt and output; grows by one with each sampled token.
        num_computed_tokens: How many of them have their keys and values in the cache.
        num_pending_tokens: How many at the end are being sampled: placeholders (see `in_flight`).
        block_ids: The block table. Owned by the BlockManager; others only read it.
        block_hashes: Chained hashes of the full blocks, made on demand by the BlockManager.
        arrival: Order of arrival, the tie-breaker between equal priorities.
        tenant: Whose request it is; tenants share the engine as `fair_queue` says.
        weight: The tenant's share of the engine, relative to those of others.
        turn: Order of first admission, from 1; 0 before it.
        max_num_tokens: Prompt and output may not grow past this.
        is_penalized, adjusts_otherwise, adjusts_logits: Whether the parameters ask for penalties; for any
            change of the logits but a grammar's; for any. Derived once: the sampler asks at every step.
        grammar: Which tokens may come next, if the parameters constrain the output; None until it is
            compiled.
        awaits_grammar: Whether it is still being compiled; such a request cannot run.
        seed: Seeds the noise of every token together with its position.
        deadline: When it ends, finished or not, in seconds of the injected clock; None for never.
        num_cached_tokens: Prompt tokens found in the prefix cache at first admission.
        num_scored_tokens: Prompt tokens whose log-probabilities have been given out.
        num_preemptions: How often its blocks were taken away.
        arrival_time, scheduled_time, first_token_time, finished_time: Seconds of the injected
            clock; None until it happens.
    """

    __slots__ = (
        "adjusts_logits",
        "adjusts_otherwise",
        "arrival",
        "arrival_time",
        "awaits_grammar",
        "block_hashes",
        "block_ids",
        "cache_salt",
        "deadline",
        "finished_time",
        "first_token_time",
        "grammar",
        "is_penalized",
        "leader",
        "max_num_tokens",
        "num_cached_tokens",
        "num_computed_tokens",
        "num_pending_tokens",
        "num_preemptions",
        "num_prompt_tokens",
        "num_scored_tokens",
        "params",
        "priority",
        "request_id",
        "scheduled_time",
        "seed",
        "status",
        "stop_token_ids",
        "tenant",
        "token_ids",
        "turn",
        "weight",
    )

    def __init__(
        self,
        request_id: str,
        prompt_token_ids: Iterable[int],
        params: SamplingParams,
        *,
        max_model_len: int,
        eos_token_ids: Iterable[int] = (),
        priority: int = 0,
        cache_salt: str | None = None,
        tenant: str = "",
        weight: float = 1.0,
        leader: Request | None = None,
        seed: int = 0,
        arrival: int = 0,
        arrival_time: float = 0.0,
        deadline: float | None = None,
    ) -> None:
        self.request_id = request_id
        self.token_ids = list(prompt_token_ids)
        self.num_prompt_tokens = len(self.token_ids)
        self.params = params
        self.priority = priority
        self.cache_salt = cache_salt
        self.tenant = tenant
        self.weight = weight
        self.turn = 0
        self.leader = leader
        self.seed = seed if params.seed is None else params.seed
        self.arrival = arrival
        self.arrival_time = arrival_time
        self.deadline = deadline
        limit = max_model_len
        if params.max_tokens is not None:
            limit = min(limit, self.num_prompt_tokens + params.max_tokens)
        self.max_num_tokens = limit
        stops = set(params.stop_token_ids)
        if not params.ignore_eos:
            stops.update(eos_token_ids)
        self.stop_token_ids = frozenset(stops)
        self.is_penalized = (
            params.repetition_penalty != 1.0
            or params.frequency_penalty != 0.0
            or params.presence_penalty != 0.0
        )
        self.adjusts_otherwise = bool(
            self.is_penalized
            or params.logit_bias
            or params.min_tokens
            or params.allowed_token_ids is not None
            or params.bad_words_token_ids
        )
        self.adjusts_logits = self.adjusts_otherwise or params.structured_outputs is not None
        self.grammar: OutputGrammar | None = None
        self.awaits_grammar = params.structured_outputs is not None
        self.status = RequestStatus.WAITING
        self.num_computed_tokens = 0
        self.num_cached_tokens = 0
        self.num_scored_tokens = 0
        self.num_pending_tokens = 0
        self.num_preemptions = 0
        self.block_ids: list[int] = []
        self.block_hashes: list[bytes] = []
        self.scheduled_time: float | None = None
        self.first_token_time: float | None = None
        self.finished_time: float | None = None

    @property
    def num_tokens(self) -> int:
        """Known tokens: the prompt and what has been sampled, or is being sampled."""
        return len(self.token_ids)

    @property
    def num_output_tokens(self) -> int:
        """Tokens sampled so far."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def jumps_ahead(self) -> bool:
        """Whether tokens that its grammar forces are appended without being sampled.

        Not where their log-probabilities are wanted, nor where something else could forbid them.
        """
        params = self.params
        return (
            params.logprobs is None
            and params.allowed_token_ids is None
            and not params.bad_words_token_ids
            and self.num_output_tokens >= params.min_tokens
        )

    def forbidden_tokens(self) -> list[int]:
        """The tokens that would complete one of `params.bad_words_token_ids`, begun in the output."""
        return [
            last
            for *begun, last in self.params.bad_words_token_ids
            if len(begun) <= self.num_output_tokens
            and self.token_ids[len(self.token_ids) - len(begun) :] == begun
        ]

    @property
    def rank(self) -> tuple[int, int]:
        """Who goes first of those that run: lower priority numbers, then earlier admissions."""
        return (self.priority, self.turn)

    @property
    def is_finished(self) -> bool:
        """Whether it has ended, for whatever reason."""
        return self.status is RequestStatus.FINISHED

    def __repr__(self) -> str:
        return (
            f"Request({self.request_id}, {self.status.value}, "
            f"{self.num_computed_tokens}/{self.num_tokens} tokens computed)"
        )


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """The figures of a finished request, for metrics. Times are seconds.

    Attributes:
        queue_time: From arrival to being scheduled first.
        prefill_time: From there to the first token.
        decode_time: From the first token to the last.
        e2e_time: From arrival to the end.
    """

    finish_reason: str
    num_prompt_tokens: int
    num_generation_tokens: int
    queue_time: float
    prefill_time: float
    decode_time: float
    e2e_time: float

    @property
    def inference_time(self) -> float:
        """Prefill and decode together."""
        return self.prefill_time + self.decode_time

    @property
    def time_to_first_token(self) -> float:
        """From arrival to the first token."""
        return self.queue_time + self.prefill_time

    @classmethod
    def of(cls, request: Request, finish_reason: str) -> FinishedRequest:
        """The figures of a request whose times are all set or None where it never got so far."""
        end = request.finished_time or 0.0
        scheduled = end if request.scheduled_time is None else request.scheduled_time
        first = end if request.first_token_time is None else request.first_token_time
        return cls(
            finish_reason=finish_reason,
            num_prompt_tokens=request.num_prompt_tokens,
            num_generation_tokens=request.num_output_tokens,
            queue_time=scheduled - request.arrival_time,
            prefill_time=first - scheduled,
            decode_time=end - first,
            e2e_time=end - request.arrival_time,
        )
