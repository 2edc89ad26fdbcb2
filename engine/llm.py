"""Offline use: the engine in this process, behind one class."""

from __future__ import annotations

import itertools
import logging
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar, cast

from ..errors import InvalidRequest, ModelError, QuireError, request_failure
from ..models.chat_template import ChatTemplate
from ..models.conversation import Message, render_conversation
from ..models.tokenizer import Tokenizer
from .beam_search import BeamSearch, BeamSearchParams
from .build import build_engine
from .config import EngineConfig
from .engine import split_choices
from .input_check import NO_GENERATION, check_request, resolve_bad_words, truncate_prompt
from .output_processor import OutputProcessor, keep_best, merge
from .outputs import CompletionOutput, RequestOutput
from .pooling_methods import PoolingMethods
from .prompts import Prompt, as_list
from .sampling_params import SamplingParams
from .stats import EngineStats

logger = logging.getLogger(__name__)

T = TypeVar("T")


class LLM(PoolingMethods):
    """A model that generates text, in this process. For one thread at a time.

    On a CPU the C++ kernels take all threads, and torch is set to one for the whole process.

    Args:
        model: A folder, a hub id, or "embedded".
        settings: Fields of `EngineConfig`.

    Raises:
        ModelError: If the model cannot be loaded.
        ValueError: If a setting is out of range.
        TypeError: If a setting is not known.

    Example:
        >>> llm = LLM("embedded")
        >>> llm.generate("Once upon a time", SamplingParams(max_tokens=20))[0].outputs[0].text
    """

    def __init__(self, model: str, **settings: Any) -> None:
        # The queue limit protects a server; offline, whatever is asked for is queued.
        settings.setdefault("max_num_waiting", 1 << 31)
        self.config = EngineConfig(model=model, **settings)
        self.engine, choice, self.memory_plan = build_engine(self.config, progress=sys.stderr.isatty())
        self.model_config = choice.config
        self._folder = choice.folder
        self.max_model_len = choice.max_model_len
        self.tokenizer = Tokenizer.from_folder(choice.folder)
        self.chat_template = ChatTemplate.from_folder(choice.folder)
        self._processor = OutputProcessor(self.tokenizer)
        self._ids = itertools.count()
        self._inboxes: dict[str, list[RequestOutput | QuireError]] = {}

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        priority: Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """Generates for all prompts at once; the results are in the order of the prompts.

        Args:
            prompts: One prompt or several.
            sampling_params: For all prompts, or one for each; by default the model's own, see
                `get_default_sampling_params`.
            use_tqdm: Whether to show a progress bar.
            priority: One number per prompt; lower ones run first.

        Raises:
            InvalidRequest: If a prompt or a parameter does not fit; then nothing is generated.
        """
        prompt_list = as_list(prompts)
        default = self.get_default_sampling_params()
        params_list = _one_each("sampling_params", sampling_params or default, len(prompt_list))
        priorities = _one_each("priority", 0 if priority is None else priority, len(prompt_list))
        checked = [
            self._check(prompt, params.with_all_choices())
            for prompt, params in zip(prompt_list, params_list, strict=True)
        ]
        requests: dict[str, RequestOutput] = {}
        for (token_ids, text, params), rank in zip(checked, priorities, strict=True):
            request_id = self._add(token_ids, params, text, rank)
            requests[request_id] = RequestOutput(request_id, text, token_ids)
        try:
            outputs = self._run(requests, use_tqdm)
        finally:
            for request_id in requests:
                self._abort(request_id)
        return [keep_best(output, params) for output, params in zip(outputs, params_list, strict=True)]

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answers one conversation or several, through the model's chat template.

        The prompt is the one that a server makes of the same messages. An answer is the model's text as it
        comes, calls and thoughts in it; where their marks are special tokens, `skip_special_tokens=False`
        shows them.

        Args:
            messages: As in OpenAI's API: roles system, developer, user, assistant and tool; content is text
                or text parts; calls of an assistant's turn, and the results that answer them.
            sampling_params: For all conversations, or one for each.
            use_tqdm: Whether to show a progress bar.
            tools: Functions that the model is offered, in OpenAI's form.
            chat_template: A Jinja template to use instead of the model's.
            add_generation_prompt: Whether to end with the mark that begins an assistant's turn.
            chat_template_kwargs: Further variables of the template.

        Raises:
            InvalidRequest: If there is no chat template, or it is malformed, refuses the messages, or has
                no place for tools.
        """
        prompts = [
            self.encode_chat(
                conversation,
                add_generation_prompt,
                chat_template_kwargs,
                tools=tools,
                chat_template=chat_template,
            )
            for conversation in _conversations(messages)
        ]
        return self.generate(prompts, sampling_params, use_tqdm=use_tqdm)

    def beam_search(
        self, prompts: Prompt | Sequence[Prompt], params: BeamSearchParams
    ) -> list[RequestOutput]:
        """Searches for the likeliest outputs of all prompts at once; those of a prompt come best first.

        Raises:
            InvalidRequest: If a prompt or a parameter does not fit; then nothing is generated.
            EngineError: If the engine fails on a beam.
        """
        checked = [self._check(prompt, params.as_sampling_params()) for prompt in as_list(prompts)]
        eos = self.model_config.eos_token_ids
        searches = [BeamSearch(token_ids, params, eos) for token_ids, _, _ in checked]
        while running := [search for search in searches if search.beams]:
            step = running[0].step_params
            beams = [prompt for search in running for prompt in search.prompts()]
            outputs = iter(self.generate(beams, step, use_tqdm=False))
            for search in running:
                search.take(list(itertools.islice(outputs, len(search.beams))))
        return [
            search.output(str(next(self._ids)), self.tokenizer, text)
            for search, (_, text, _) in zip(searches, checked, strict=True)
        ]

    def stream(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None
    ) -> Generator[RequestOutput]:
        """Generates for one prompt, yielding deltas as they come. Closing the iterator aborts."""
        token_ids, text, params = self._check(prompt, sampling_params or self.get_default_sampling_params())
        request_id = self._add(token_ids, params, text, 0)
        try:
            finished = False
            while not finished:
                for output in self._receive(request_id):
                    finished = output.finished
                    yield output
        finally:
            self._abort(request_id)

    def encode_chat(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
    ) -> list[int]:
        """The tokens of a conversation, as the chat template writes it; see `chat`.

        Special tokens that are spelled out in a message are mere text: only the template makes them.

        Raises `InvalidRequest` if the model has no template, as those have none that generate no text.
        """
        if not self.model_config.generates:
            raise InvalidRequest(NO_GENERATION, param="model")
        text = render_conversation(
            self.chat_template if chat_template is None else self._own_template(chat_template),
            self.tokenizer,
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            variables=chat_template_kwargs or {},
        )
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _own_template(self, source: str) -> ChatTemplate:
        try:
            return self.chat_template.replaced(source)
        except ModelError as error:
            raise InvalidRequest(error.message, param="chat_template") from error

    def get_default_sampling_params(self) -> SamplingParams:
        """`SamplingParams()` with what the model's generation_config.json recommends."""
        hints = asdict(self.model_config.generation)
        return SamplingParams(**{name: value for name, value in hints.items() if value is not None})

    def get_tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self.tokenizer

    def get_metrics(self) -> EngineStats:
        """A copy of the engine's figures."""
        return replace(self.engine.stats())

    def reset_prefix_cache(self) -> None:
        """Forgets all cached prefixes that no running request uses."""
        self.engine.reset_prefix_cache()

    def _check(self, prompt: Prompt, params: SamplingParams) -> tuple[list[int], str | None, SamplingParams]:
        text: str | None = None
        if isinstance(prompt, str):
            text, token_ids = prompt, self.tokenizer.encode(prompt)
        elif isinstance(prompt, Mapping):
            if set(prompt) != {"prompt_token_ids"}:
                raise InvalidRequest(f"a prompt mapping has the key prompt_token_ids, got {sorted(prompt)}")
            token_ids = list(prompt["prompt_token_ids"])
        else:
            token_ids = list(prompt)
        params = resolve_bad_words(params, self.tokenizer)
        token_ids = truncate_prompt(token_ids, params, self.tokenizer, self.max_model_len)
        check_request(
            token_ids,
            params,
            vocab_size=self.model_config.vocab_size,
            max_model_len=self.max_model_len,
            eos_token_ids=self.model_config.eos_token_ids,
            generates=self.model_config.generates,
        )
        if params.structured_outputs is not None and self.engine.grammars is not None:
            self.engine.grammars.compile(params.structured_outputs)
        return token_ids, text, params

    def _add(self, token_ids: list[int], params: SamplingParams, text: str | None, priority: int) -> str:
        request_id = str(next(self._ids))
        ids = self._processor.add(request_id, token_ids, params, text)
        now = time.monotonic()
        for request in split_choices(ids, token_ids, params, priority=priority, arrival_time=now):
            self.engine.add_request(request)
        self._inboxes[request_id] = []
        return request_id

    def _abort(self, request_id: str) -> None:
        """Ends a request, if it has not ended, and forgets what it produced."""
        del self._inboxes[request_id]
        for choice_id in self._processor.remove(request_id):
            self.engine.abort(choice_id)

    def _receive(self, request_id: str) -> list[RequestOutput]:
        """What a request has produced; steps the engine if that is nothing yet.

        Raises:
            QuireError: If the engine failed on the request, or its time was up.
        """
        inbox = self._inboxes[request_id]
        if not inbox:
            self._step()
        received = inbox.copy()
        inbox.clear()
        for item in received:
            if isinstance(item, QuireError):
                raise item
        return [item for item in received if isinstance(item, RequestOutput)]

    def _step(self) -> None:
        """One step of the engine, for whoever asks; every request finds its outputs in its inbox."""
        step = self._processor.process(self.engine.step())
        for choice_id in step.stopped:
            self.engine.abort(choice_id, "stop")
        for choice_id in step.orphaned:
            self.engine.abort(choice_id)
        self.engine.take_finished()  # figures for a server's metrics; nobody reads them here
        for output in step.outputs:
            self._inboxes[output.request_id].append(output)
        for request_id, code in step.failures.items():
            self._inboxes[request_id].append(request_failure(code))

    def _run(self, requests: dict[str, RequestOutput], use_tqdm: bool) -> list[RequestOutput]:
        """Fills these outputs, by request id, until all are finished."""
        from tqdm import tqdm

        remaining = dict(requests)
        num_tokens, started = 0, time.monotonic()
        with tqdm(total=len(requests), desc="Generating", unit="req", disable=not use_tqdm) as bar:
            while remaining:
                if not any(self._inboxes[request_id] for request_id in remaining):
                    self._step()
                for request_id in [name for name in remaining if self._inboxes[name]]:
                    total = requests[request_id]
                    try:
                        for output in self._receive(request_id):
                            merge(total, output)
                            num_tokens += sum(len(choice.token_ids) for choice in output.outputs)
                    except QuireError as error:
                        logger.error("request %s failed: %s: %s", request_id, error.code, error)
                        _mark_failed(total)
                    if total.finished:
                        del remaining[request_id]
                        rate = num_tokens / (time.monotonic() - started)
                        bar.set_postfix_str(f"{rate:.1f} tok/s", refresh=False)
                        bar.update()
        return list(requests.values())


def _mark_failed(output: RequestOutput) -> None:
    output.outputs = output.outputs or [CompletionOutput(0, "", [])]
    for choice in output.outputs:
        choice.finish_reason = choice.finish_reason or "error"
    output.finished = True


def _conversations(messages: Sequence[Message] | Sequence[Sequence[Message]]) -> list[Sequence[Message]]:
    """One conversation as a list of one."""
    if messages and isinstance(messages[0], Mapping):
        return [cast("Sequence[Message]", messages)]
    return list(cast("Sequence[Sequence[Message]]", messages))


def _one_each(name: str, value: T | Sequence[T], num: int) -> list[T]:
    """A value for each of `num` prompts."""
    if not isinstance(value, Sequence):
        return [value] * num
    if len(value) != num:
        raise InvalidRequest(f"{name} has {len(value)} entries for {num} prompts", param=name)
    return list(value)
