"""An engine without a model, in this process: what the server needs, with real text handling.

Its tokenizer has one token per byte. Its "model" repeats the prompt, starting at the choice's index,
and ends after `answer_tokens` tokens; or it says what `script` holds, a text for each choice. A prompt's
vector says how many of its tokens are 0, 1, ..., 7 modulo 8, each plus one.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import struct
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

import quire
from quire.engine.async_engine import StatsListener
from quire.engine.block_map import BlockMap
from quire.engine.config import EngineConfig
from quire.engine.grammar_checker import GrammarChecker
from quire.engine.input_check import check_request, resolve_bad_words, truncate_prompt
from quire.engine.output_processor import OutputProcessor
from quire.engine.outputs import RequestOutput
from quire.engine.request import FinishedRequest
from quire.engine.sampling_params import SamplingParams
from quire.engine.stats import EngineStats
from quire.engine.step_data import RawLogprobs, TokenDelta
from quire.errors import EngineDied, EngineError, QuireError, Unavailable
from quire.models.chat_template import ChatTemplate
from quire.models.config import GenerationDefaults
from quire.models.pooling import PoolingConfig
from quire.models.tokenizer import Tokenizer

EOS = 256
EMBEDDED = Path(quire.__file__).parent / "models" / "embedded" / "weights"
"""A tokenizer on disk, for the process that tries grammars; which one makes no difference to it."""
BLOCK_SIZE = 16
TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}{% if message.name %} {{ message.name }}{% endif %}]"
    "{{ message.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    "{% if mood %}({{ mood }}){% endif %}"
)


def byte_tokenizer(special_tokens: Sequence[str] = ()) -> Tokenizer:
    """One token per byte, `<eos>` behind them, and further special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(
        models.BPE(vocab={character: index for index, character in enumerate(alphabet)}, merges=[])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True) for text in ("<eos>", *special_tokens)])
    return Tokenizer(backend, None, (EOS,))


class FakeEngine:
    """The methods of `AsyncEngine` that the server uses, and switches for what tests want to see."""

    def __init__(
        self,
        *,
        max_model_len: int = 512,
        answer_tokens: int = 12,
        template: str = TEMPLATE,
        special_tokens: Sequence[str] = (),
        script: Sequence[str] = (),
        name: str = "fake",
    ) -> None:
        self.config = EngineConfig(model=name, max_model_len=max_model_len)
        self.max_model_len = max_model_len
        self.answer_tokens = answer_tokens
        self.tokenizer = byte_tokenizer(special_tokens)
        self.script = list(script)
        self.pooling = PoolingConfig(hidden_size=8, shorter=(4,))
        self.model_config = SimpleNamespace(
            vocab_size=self.tokenizer.vocab_size,
            eos_token_ids=(EOS,),
            generation=GenerationDefaults(),
            generates=True,
        )
        self._grammars = GrammarChecker(EMBEDDED, self.tokenizer, self.model_config)
        self.chat_template = ChatTemplate({"default": template}, {})
        self.is_ready = True
        self.memory_bytes = 1000
        self.is_alive = True
        self.stats = EngineStats(pid=os.getpid(), num_blocks=100, num_free_blocks=100)
        self.watching: list[bool] = []  # what the block map's watchers asked for
        self.block_map = BlockMap(self._watch)
        self.num_cached_tokens = 0
        self.refuse_with: QuireError | Exception | None = None
        self.fail_after: tuple[int, Exception] | None = None  # after so many steps
        self.going = asyncio.Event()  # cleared, it stops all requests where they are
        self.going.set()
        self.step_seconds = 0.0
        self.running: set[str] = set()
        self.seen: list[tuple[list[int], SamplingParams, int, str | None]] = []
        self.num_resets = 0
        self.timeouts: list[float | None] = []
        self.tenants: list[tuple[str, float]] = []
        self._ids = itertools.count()
        self._listeners: list[StatsListener] = []
        self.is_closed = False

    def add_stats_listener(self, listener: StatsListener) -> None:
        self._listeners.append(listener)

    def _watch(self, wanted: bool) -> None:
        self.watching.append(wanted)
        if wanted:
            self.block_map.update([(0, b"f" * self.stats.num_blocks)], is_whole=True)

    async def shutdown(self) -> None:
        self.is_closed = True
        self.going.set()
        await self.close_grammars()

    async def reset_prefix_cache(self) -> None:
        self.num_resets += 1

    async def close_grammars(self) -> None:
        await self._grammars.close()

    async def generate(
        self,
        prompt_token_ids: list[int],
        params: SamplingParams,
        *,
        request_id: str,
        priority: int = 0,
        cache_salt: str | None = None,
        tenant: str = "",
        weight: float = 1.0,
        time_limit: float | None = None,
    ) -> AsyncIterator[RequestOutput]:
        params = resolve_bad_words(params, self.tokenizer)
        prompt_token_ids = truncate_prompt(prompt_token_ids, params, self.tokenizer, self.max_model_len)
        check_request(
            prompt_token_ids,
            params,
            vocab_size=self.tokenizer.vocab_size,
            max_model_len=self.max_model_len,
            eos_token_ids=(EOS,),
            generates=self.model_config.generates,
        )
        if params.structured_outputs is not None:
            await self._grammars.check(params.structured_outputs)
        self.tenants.append((tenant, weight))
        self.timeouts.append(time_limit)
        self.seen.append((prompt_token_ids, params, priority, cache_salt))
        if self.refuse_with is not None:
            raise self.refuse_with
        if not self.is_ready:
            raise Unavailable("the engine is starting; try again soon")
        processor = OutputProcessor(self.tokenizer)
        internal_id = str(next(self._ids))
        ids = processor.add(internal_id, prompt_token_ids, params)
        self.running.add(internal_id)
        self._count(len(prompt_token_ids))
        try:
            for step in itertools.count():
                if self.fail_after is not None and step >= self.fail_after[0]:
                    raise self.fail_after[1]
                await asyncio.sleep(self.step_seconds)
                await self.going.wait()
                if self.is_closed:
                    raise EngineDied("the server is shutting down")
                deltas = [
                    self._delta(name, choice, step, prompt_token_ids, params)
                    for choice, name in enumerate(ids)
                ]
                processed = processor.process(deltas)
                finished = [
                    FinishedRequest(delta.finish_reason, len(prompt_token_ids), step + 1, 0.1, 0.2, 0.3, 0.6)
                    for delta in deltas
                    if delta.finish_reason is not None
                ]
                self._report(deltas, finished)
                for output in processed.outputs:
                    output.request_id = request_id
                    yield output
                    if output.finished:
                        return
        finally:
            self.running.discard(internal_id)
            self._count(0)

    def _delta(
        self, choice_id: str, choice: int, step: int, prompt: list[int], params: SamplingParams
    ) -> TokenDelta:
        if params.pooling is not None:
            counts = [1 + sum(token % 8 == place for token in prompt) for place in range(8)]
            pooled = struct.pack("<8f", *counts)
            return TokenDelta(choice_id, [], self.num_cached_tokens, finish_reason="stop", pooled=pooled)
        limit = params.max_tokens
        if limit is None:
            limit = self.max_model_len - len(prompt)
        ends = step == self.answer_tokens and not params.ignore_eos
        token = EOS if ends else prompt[(step + choice) % len(prompt)]
        if self.script:
            said = self.tokenizer.encode(self.script[choice % len(self.script)], add_special_tokens=False)
            ends = step >= len(said)
            token = EOS if ends else said[step]
        delta = TokenDelta(
            choice_id,
            [] if limit == 0 else [token],
            self.num_cached_tokens,
        )
        if step == 0 and choice == 0 and params.prompt_logprobs is not None:
            delta.prompt_logprobs = [_logprobs(each, params.prompt_logprobs, choice) for each in prompt[1:]]
        if params.logprobs is not None and delta.token_ids:
            delta.logprobs = [_logprobs(token, params.logprobs, choice)]
        if ends or token in params.stop_token_ids:
            delta.finish_reason, delta.stop_token = "stop", token
        elif step + 1 >= limit:
            delta.finish_reason = "length"
        return delta

    def _report(self, deltas: Sequence[TokenDelta], finished: Sequence[FinishedRequest]) -> None:
        self.stats.num_steps += 1
        self.stats.step_tokens = len(deltas)
        self.stats.generation_tokens += sum(len(delta.token_ids) for delta in deltas)
        for listener in self._listeners:
            listener(self.stats, finished)

    def _count(self, num_prompt_tokens: int) -> None:
        self.stats.prompt_tokens += num_prompt_tokens
        self.stats.num_running = len(self.running)
        self.stats.num_free_blocks = self.stats.num_blocks - len(self.running)


def _logprobs(token: int, num_top: int, choice: int) -> RawLogprobs:
    """The token itself is the second most likely one, and the more likely the higher its choice."""
    best = [
        (other, -0.1 * rank, rank) for rank, other in enumerate((65, 66, 67, 68, 69), 1) if other != token
    ]
    return [(token, -1.0 / (choice + 1), 2), *best[:num_top]]


def engine_died() -> EngineError:
    return EngineDied("the engine process ended; it is being restarted")
