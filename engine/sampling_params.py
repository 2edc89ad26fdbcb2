"""What a request may ask of the sampler. Immutable, and valid by construction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..errors import InvalidRequest
from ..models.pooling import PoolingMode
from .structured_params import StructuredOutputsParams

MAX_CHOICES = 128
MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 1024
MAX_LOGPROBS = 20
MAX_BAD_WORDS = 128
MAX_BAD_WORD_CHARACTERS = 256
SEED_LIMIT = 1 << 63


def _number(name: str, value: object, low: float, high: float, *, open_low: bool = False) -> None:
    """Raises unless value is a finite number in [low, high], or (low, high] if `open_low`."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or (isinstance(value, float) and not math.isfinite(value))
    ):
        raise InvalidRequest(f"{name} must be a finite number, got {_shown(value)}", param=name)
    if value > high or value < low or (open_low and value == low):
        bracket = "(" if open_low else "["
        raise InvalidRequest(
            f"{name} must be in {bracket}{low:g}, {high:g}], got {_shown(value)}", param=name
        )


def _shown(value: object) -> str:
    """A value for an error message, short however long it is."""
    if isinstance(value, int) and abs(value) >= 1 << 256:
        return "a huge integer"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest(f"{name} must be an integer, got {_shown(value)}", param=name)
    if not low <= value <= high:
        raise InvalidRequest(f"{name} must be between {low} and {high}, got {_shown(value)}", param=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the tokens of one request are chosen, and when it ends. Names and defaults are vLLM's.

    Raises `InvalidRequest` naming the field and the value if a field is out of its range.

    Attributes:
        n: Choices per prompt; they share the prompt's cache blocks.
        best_of: Generate so many choices and return the n with the highest log-probability per
            token, best first. None for n. Above n, the answer cannot be streamed.
        max_tokens: Tokens to generate at most, or None for as many as the context holds. 0 only
            scores the prompt, with `prompt_logprobs`.
        min_tokens: Until so many tokens are out, neither EOS nor a stop token can be sampled.
        temperature: 0 is greedy.
        top_k: Sample among the k most likely tokens; 0 or -1 for all.
        top_p: Sample among the most likely tokens that together reach this probability.
        min_p: Drop tokens less likely than this fraction of the most likely one.
        presence_penalty: Subtracted once from the logit of each token that was generated.
        frequency_penalty: Subtracted as often as the token was generated.
        repetition_penalty: Divides positive and multiplies negative logits of tokens that stand
            in the prompt or the output (Keskar et al., 2019).
        logit_bias: Added to the logits of the named token ids.
        allowed_token_ids: If given, only these tokens can be sampled.
        bad_words: Texts whose tokens never come one after the other in the output: as each text is
            written at its beginning, and after a space.
        bad_words_token_ids: Token sequences that never come in the output. Those of `bad_words` are
            added by `input_check.resolve_bad_words`.
        seed: Makes the noise reproducible; None draws a seed. The noise of a token is a function
            of the seed and the token's position alone, so it does not depend on the batch.
        stop: Strings that end the output when they appear in its text.
        stop_token_ids: Tokens that end the output, besides the model's own EOS tokens.
        include_stop_str_in_output: Whether the text keeps the stop string.
        ignore_eos: Whether generation goes on after EOS.
        logprobs: Return the log-probability of each token and of this many most likely ones.
        prompt_logprobs: The same for the tokens of the prompt.
        truncate_prompt_tokens: Keep only so many tokens of a longer prompt, its last ones, behind the
            special tokens that the tokenizer puts in front of a text. -1 for as many as the context holds
            besides `max_tokens` (besides one token if that is None).
        skip_special_tokens: Whether the text leaves special tokens out.
        structured_outputs: A form that the output must have.
        pooling: Make one vector of the prompt's last hidden states, and sample nothing; needs
            `max_tokens=0`.
        classify: Whether the vector goes through the model's head, which gives a number for each label.
        second_text: Where the tokens of a pair's second text begin, for models that tell them apart.
    """

    n: int = 1
    best_of: int | None = None
    max_tokens: int | None = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])
    allowed_token_ids: Sequence[int] | None = None
    bad_words: Sequence[str] = ()
    bad_words_token_ids: Sequence[Sequence[int]] = ()
    seed: int | None = None
    stop: Sequence[str] | str = ()
    stop_token_ids: Sequence[int] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    truncate_prompt_tokens: int | None = None
    skip_special_tokens: bool = True
    structured_outputs: StructuredOutputsParams | None = None
    pooling: PoolingMode | None = None
    classify: bool = False
    second_text: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        if self.top_k == -1:
            object.__setattr__(self, "top_k", 0)
        _integer("n", self.n, 1, MAX_CHOICES)
        if self.best_of is not None:
            _integer("best_of", self.best_of, self.n, MAX_CHOICES)
        _number("temperature", self.temperature, 0.0, 2.0)
        _number("top_p", self.top_p, 0.0, 1.0, open_low=True)
        _number("min_p", self.min_p, 0.0, 1.0)
        _integer("top_k", self.top_k, 0, 1 << 31)
        _number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _number("repetition_penalty", self.repetition_penalty, 0.01, 10.0)
        if self.seed is not None:
            _integer("seed", self.seed, -SEED_LIMIT, SEED_LIMIT - 1)
        self._check_lengths()
        self._check_stops()
        self._check_bad_words()
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                _integer(name, getattr(self, name), 0, MAX_LOGPROBS)
        for token, bias in self.logit_bias.items():
            _integer("logit_bias", token, 0, 1 << 31)
            _number("logit_bias", bias, -100.0, 100.0)
        if self.allowed_token_ids is not None and not self.allowed_token_ids:
            raise InvalidRequest("allowed_token_ids must not be empty", param="allowed_token_ids")
        if self.structured_outputs is not None:
            self._check_structured_outputs()

    def _check_structured_outputs(self) -> None:
        if not isinstance(self.structured_outputs, StructuredOutputsParams):
            raise InvalidRequest(
                f"structured_outputs must be StructuredOutputsParams, got {_shown(self.structured_outputs)}",
                param="structured_outputs",
            )
        if self.ignore_eos:
            raise InvalidRequest(
                "ignore_eos and structured_outputs exclude each other: a complete output is ended by EOS",
                param="ignore_eos",
            )

    def _check_lengths(self) -> None:
        if self.max_tokens is not None:
            _integer("max_tokens", self.max_tokens, 0, (1 << 31) - 1)
        if self.pooling is not None and (self.max_tokens, self.n, self.structured_outputs) != (0, 1, None):
            raise InvalidRequest(
                "pooling needs max_tokens=0 and n=1, and has no structured outputs", param="pooling"
            )
        if self.pooling is None and (self.classify or self.second_text is not None):
            raise InvalidRequest("classify and second_text need pooling", param="pooling")
        if self.max_tokens == 0 and self.prompt_logprobs is None and self.pooling is None:
            raise InvalidRequest("max_tokens must be at least 1, got 0", param="max_tokens")
        if self.truncate_prompt_tokens is not None and self.truncate_prompt_tokens != -1:
            _integer("truncate_prompt_tokens", self.truncate_prompt_tokens, 1, (1 << 31) - 1)
        _integer("min_tokens", self.min_tokens, 0, (1 << 31) - 1)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequest(
                f"min_tokens ({self.min_tokens}) must not exceed max_tokens ({self.max_tokens})",
                param="min_tokens",
            )

    def _check_stops(self) -> None:
        if len(self.stop) > MAX_STOP_STRINGS:
            raise InvalidRequest(
                f"stop takes at most {MAX_STOP_STRINGS} strings, got {len(self.stop)}", param="stop"
            )
        for text in self.stop:
            if not isinstance(text, str) or not text or len(text) > MAX_STOP_CHARACTERS:
                raise InvalidRequest(
                    f"a stop string must have 1 to {MAX_STOP_CHARACTERS} characters, got {_shown(text)}",
                    param="stop",
                )

    def _check_bad_words(self) -> None:
        if isinstance(self.bad_words, str) or len(self.bad_words) > MAX_BAD_WORDS:
            raise InvalidRequest(
                f"bad_words takes a list of at most {MAX_BAD_WORDS} texts, got {_shown(self.bad_words)}",
                param="bad_words",
            )
        for text in self.bad_words:
            if not isinstance(text, str) or not text.strip() or len(text) > MAX_BAD_WORD_CHARACTERS:
                raise InvalidRequest(
                    f"a bad word must have 1 to {MAX_BAD_WORD_CHARACTERS} characters, and not only spaces, "
                    f"got {_shown(text)}",
                    param="bad_words",
                )
        sequences: object = self.bad_words_token_ids
        if not isinstance(sequences, Sequence) or not all(isinstance(s, Sequence) and s for s in sequences):
            raise InvalidRequest(
                f"bad_words_token_ids must be lists of at least one token id, got {_shown(sequences)}",
                param="bad_words_token_ids",
            )

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raises `InvalidRequest` if a token id is not below `vocab_size`."""
        for name, tokens in (
            ("logit_bias", self.logit_bias),
            ("stop_token_ids", self.stop_token_ids),
            ("allowed_token_ids", self.allowed_token_ids or ()),
            *(("bad_words_token_ids", sequence) for sequence in self.bad_words_token_ids),
        ):
            for token in tokens:
                if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab_size:
                    raise InvalidRequest(
                        f"{name} holds {_shown(token)}, no token id: the vocabulary has {vocab_size}",
                        param=name,
                    )

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0.0

    @property
    def ranks(self) -> bool:
        """Whether more choices are generated than are returned."""
        return self.best_of is not None and self.best_of > self.n

    def with_all_choices(self) -> SamplingParams:
        """The parameters by which the engine generates all choices of which the best are kept.

        They have the log-probabilities by which `output_processor.keep_best` ranks them.
        """
        if self.best_of is None:
            return self
        logprobs = 0 if self.ranks and self.logprobs is None else self.logprobs
        return replace(self, n=self.best_of, best_of=None, logprobs=logprobs)

    def for_choice(self, index: int) -> SamplingParams:
        """The parameters of one of the n choices: n = 1, and a seed of its own.

        The first one scores the prompt for all, so that the others can share its blocks.
        """
        if self.n == 1:
            return self
        seed = None if self.seed is None else (self.seed + index + SEED_LIMIT) % (2 * SEED_LIMIT) - SEED_LIMIT
        prompt_logprobs = self.prompt_logprobs if index == 0 or self.max_tokens == 0 else None
        return replace(self, n=1, seed=seed, prompt_logprobs=prompt_logprobs)
