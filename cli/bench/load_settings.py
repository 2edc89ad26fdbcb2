"""How a load test loads its server: the options of `quire bench serve` but for the prompts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from ..options import Group

DEFAULT_PROMPTS = 100
RESERVED = frozenset({"model", "messages", "prompt", "max_tokens", "max_completion_tokens", "n", "stream"})
"""What the load test decides itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """When which requests are sent, and what they say besides the prompt.

    Raises ValueError naming the setting and its value if one is out of range, or if two contradict each
    other.

    Attributes:
        endpoint: Of OpenAI's API.
        tokenizer: A model folder, a hub id or "embedded": with it, prompts have exactly the lengths that are
            asked for, and those of `completions` are token ids.
        num_prompts: Requests to send. By default 100, or all of the trace; without limit with `duration`.
        duration: Seconds after which no request is sent any more.
        request_rate: Requests per second in the open loop; "inf" sends all at once.
        burstiness: The shape of the gamma-distributed gaps: 1 for a Poisson process, less for bursts, "inf"
            for even gaps.
        trace: CSV with times and lengths of recorded requests.
        time_scale: Stretches the trace: 0.5 sends its requests in half the time.
        concurrency: Clients in the closed loop; 1 if neither a rate nor a trace is given.
        max_concurrency: Requests at once in the open loop; more wait, and their waiting counts.
        ramp: Seconds in which the rate, or the number of clients, grows.
        num_warmups: Requests before those that are measured.
        timeout: Seconds for a request.
        seed: Of prompts, lengths and times.
        ignore_eos: Ask for outputs of exactly the length that is given. None asks where the server takes
            it.
        token_ids: Ask for `return_token_ids`, with which the tokens of each chunk are known.
        temperature: Of sampling.
        extra_body: A JSON object of further fields.
    """

    endpoint: Literal["chat", "completions"] = "chat"
    tokenizer: str | None = None
    num_prompts: int | None = None
    duration: float | None = None
    request_rate: float | None = None
    burstiness: float = 1.0
    trace: Path | None = None
    time_scale: float = 1.0
    concurrency: int | None = None
    max_concurrency: int | None = None
    ramp: float = 0.0
    num_warmups: int = 0
    timeout: float = 600.0
    seed: int = 0
    ignore_eos: bool | None = None
    token_ids: bool = False
    temperature: float = 0.0
    extra_body: str | None = None

    def __post_init__(self) -> None:
        for name in ("num_prompts", "duration", "request_rate", "burstiness", "time_scale", "timeout"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value!r}")
        for name in ("concurrency", "max_concurrency"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be positive, got {value!r}")
        for name in ("duration", "time_scale", "timeout", "ramp", "temperature"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} must be finite, got {value!r}")
        if self.ramp < 0 or self.temperature < 0 or self.num_warmups < 0:
            raise ValueError("ramp, temperature and num_warmups must not be negative")
        self._check_loop()
        _ = self.extra_fields

    def _check_loop(self) -> None:
        loops = [n for n in ("request_rate", "trace", "concurrency") if getattr(self, n) is not None]
        if len(loops) > 1:
            raise ValueError(f"{' and '.join(loops)} are different ways to send requests; give one")
        if self.request_rate is None and self.burstiness != 1.0:
            raise ValueError(f"burstiness is {self.burstiness:g}, and request_rate is not given")
        if self.trace is None and self.time_scale != 1.0:
            raise ValueError(f"time_scale is {self.time_scale:g}, and there is no trace")
        if self.trace is not None and self.ramp:
            raise ValueError(f"ramp is {self.ramp:g}, and the trace says when requests are sent")
        if not self.is_open and self.max_concurrency is not None:
            raise ValueError("max_concurrency belongs to the open loop; the closed one has concurrency")
        if self.request_rate is not None and math.isinf(self.request_rate):
            if self.duration is not None and self.num_prompts is None:
                raise ValueError("an infinite request_rate needs num_prompts")
            if self.ramp:
                raise ValueError(f"ramp is {self.ramp:g}, and an infinite request_rate has none")

    @property
    def is_open(self) -> bool:
        """Whether requests are sent whatever happens to earlier ones."""
        return self.request_rate is not None or self.trace is not None

    @property
    def limit(self) -> int | None:
        """Requests to send at most."""
        if self.num_prompts is None and self.duration is None and self.trace is None:
            return DEFAULT_PROMPTS
        return self.num_prompts

    @property
    def extra_fields(self) -> dict[str, Any]:
        """The fields of `extra_body`."""
        if self.extra_body is None:
            return {}
        try:
            fields = msgspec.json.decode(self.extra_body.encode(), type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeEncodeError) as error:
            raise ValueError(f"extra_body must be a JSON object, got {self.extra_body!r}: {error}") from error
        if taken := RESERVED & set(fields):
            raise ValueError(f"extra_body may not set {', '.join(sorted(taken))}")
        return fields

    def request_fields(self) -> dict[str, Any]:
        """What every request says besides model, prompt and length."""
        fields: dict[str, Any] = {"temperature": self.temperature, "stream_options": {"include_usage": True}}
        if self.ignore_eos is not False:
            fields["ignore_eos"] = True
        if self.token_ids:
            fields["return_token_ids"] = True
        return fields | self.extra_fields

    def required_fields(self) -> frozenset[str]:
        """The fields without which the user does not want to measure."""
        named = {"ignore_eos": self.ignore_eos is True, "return_token_ids": self.token_ids}
        return frozenset({name for name, wanted in named.items() if wanted} | set(self.extra_fields))


LOAD = Group(
    LoadSettings,
    "Load",
    help={
        "endpoint": "Of OpenAI's API.",
        "tokenizer": "A model whose tokenizer makes prompts of exactly the given lengths; without one, the "
        "server's own counts tell how many words to send.",
        "num_prompts": "Requests to send; by default 100, or all of the trace.",
        "duration": "Seconds after which no request is sent any more.",
        "concurrency": "Closed loop: so many clients, each with one request at a time. By default 1.",
        "request_rate": "Open loop: requests per second, whatever the server does; 'inf' for all at once.",
        "burstiness": "Shape of the gamma-distributed gaps: 1 is Poisson, less has bursts, 'inf' is even.",
        "trace": "Open loop: times and lengths from a CSV, such as Azure's or BurstGPT's.",
        "time_scale": "Stretches the trace; 0.5 sends its requests in half the time.",
        "max_concurrency": "Open loop: requests at once; others wait, and their waiting counts.",
        "ramp": "Seconds in which the rate, or the number of clients, grows to what is given.",
        "num_warmups": "Requests that are sent before, and not measured.",
        "timeout": "Seconds for a request.",
        "seed": "Of prompts, lengths and times.",
        "ignore_eos": "Ask for outputs of exactly the given length; by default where the server takes it.",
        "token_ids": "Ask for token ids with each chunk, so that latencies per token are known.",
        "temperature": "Of sampling.",
        "extra_body": "A JSON object of fields to send with every request.",
    },
    flags={"ignore_eos": "--ignore-eos/--no-ignore-eos", "token_ids": "--token-ids"},
)
