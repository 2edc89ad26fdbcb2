"""From Ollama's requests to jobs: conversations in the shape that chat templates are given."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request

from ...errors import InvalidRequest
from ..answers import AnswerFormat, ModelFormat
from ..context import RequestRecord, ServerContext
from ..generation import Job, encode
from ..openai.chat import prepare_chat
from ..openai.message_protocol import FunctionCall, Message, Tool, ToolCall
from ..openai.params import or_default, sampling_params
from ..openai.protocol import ChatCompletionRequest
from .options import Options, check_keep_alive, max_tokens, read_options, sampling_fields, set_thinking
from .protocol import OllamaChatRequest, OllamaFields, OllamaGenerateRequest, OllamaMessage

DEFAULT_TAG = ":latest"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a request asks of the engine, and how the answer is to be read.

    Attributes:
        num_top: How many most likely tokens are shown beside each; None for no log-probabilities.
        keeps_context: Whether the answer ends with its tokens, for the client to go on with.
    """

    job: Job
    format: AnswerFormat
    num_top: int | None
    keeps_context: bool = False


async def serving(context: ServerContext, name: str, record: RequestRecord) -> ServerContext:
    """As `context.serving`, for names that clients also write with a tag."""
    return await context.serving(_untagged(context, name), record)


def find(context: ServerContext, name: str) -> ServerContext:
    """The context of a model that is only looked at. Raises `NotFound`."""
    return context.about(context.language_models.get(_untagged(context, name)))


def _untagged(context: ServerContext, name: str) -> str:
    own = (model.name for model in context.language_models)
    return next((each for each in own if name == tagged(each)), name)


def tagged(name: str) -> str:
    """A model's name as Ollama lists it."""
    return name if ":" in name.rpartition("/")[2] else name + DEFAULT_TAG


async def plan_chat(context: ServerContext, request: Request, body: OllamaChatRequest) -> Plan:
    """The plan for a conversation; a last message of the assistant is continued."""
    options, fields = _read_fields(context, body)
    messages = _messages(body.messages or [])
    last = messages[-1]
    chat = ChatCompletionRequest(messages=messages, **fields)
    if last.role == "assistant" and last.content and not last.tool_calls:
        chat.continue_final_message = True
    if body.tools:  # the official client sends an empty list for none
        chat.tools = [Tool(type="function", function=tool.function) for tool in body.tools]
    return await _plan_chat(context, request, body, options, chat)


async def plan_generate(context: ServerContext, request: Request, body: OllamaGenerateRequest) -> Plan:
    """The plan for a prompt: as the first message of a chat, or as it is."""
    options, fields = _read_fields(context, body)
    prompt = body.prompt or ""
    if body.raw or not context.engine.chat_template:
        return await _plan_raw(context, body, options, ChatCompletionRequest(messages=[], **fields))
    messages = [Message(role="user", content=prompt)]
    if body.system:
        messages.insert(0, Message(role="system", content=body.system))
    chat = ChatCompletionRequest(messages=messages, **fields)
    plan = await _plan_chat(context, request, body, options, chat, before=body.context or [])
    return replace(plan, keeps_context=True)


def _read_fields(context: ServerContext, body: OllamaFields) -> tuple[Options, dict[str, Any]]:
    check_keep_alive(body.keep_alive)
    options = read_options(context, body.options)
    return options, sampling_fields(body, options, context.engine.model_config.generation)


async def _plan_chat(
    context: ServerContext,
    request: Request,
    body: OllamaFields,
    options: Options,
    chat: ChatCompletionRequest,
    *,
    before: Sequence[int] = (),
) -> Plan:
    set_thinking(context, chat, body.think)
    prepared = await prepare_chat(context, request, chat)
    (tokens,), (params,) = prepared.job.prompts, prepared.job.params
    if before:
        bos = context.engine.tokenizer.bos_token_id
        tokens = [*before, *(tokens[1:] if tokens[:1] == [bos] else tokens)]
    params = replace(params, max_tokens=max_tokens(context, options, len(tokens)))
    job = replace(prepared.job, prompts=[tokens], params=[params])
    return Plan(job, prepared.format, _num_top(body))


async def _plan_raw(
    context: ServerContext, body: OllamaGenerateRequest, options: Options, fields: ChatCompletionRequest
) -> Plan:
    """The plan for a text that the model is to continue."""
    for name in ("context", "system", "think"):
        if getattr(body, name):
            why = "raw is set" if body.raw else f"{context.model_name!r} has no chat template"
            raise InvalidRequest(f"{name} has no place in the prompt: {why}", param=name)
    (tokens,) = await encode(context, [body.prompt or ""], add_special_tokens=True)
    num_top = _num_top(body)
    params = sampling_params(
        fields,
        context.engine.model_config.generation,
        n=1,
        max_tokens=max_tokens(context, options, len(tokens)),
        logprobs=num_top,
        prompt_logprobs=None,
    )
    plain = AnswerFormat(model=ModelFormat(None, None, separate_reasoning=False))
    return Plan(Job(prompts=[tokens], params=[params]), plain, num_top)


def _num_top(body: OllamaFields) -> int | None:
    if not body.logprobs:
        if body.top_logprobs:
            raise InvalidRequest("top_logprobs needs logprobs: true", param="top_logprobs")
        return None
    return or_default(body.top_logprobs, 0)


def _messages(messages: Sequence[OllamaMessage]) -> list[Message]:
    """Messages in OpenAI's shape: there, each call has an id, which its answer names."""
    calls: list[tuple[str, str]] = []  # ids and functions of calls without an answer
    num_calls = 0
    result: list[Message] = []
    for place, message in enumerate(messages):
        param = f"messages[{place}]"
        if message.images:
            raise InvalidRequest(f"{param}.images: this model takes text alone", param=f"{param}.images")
        content = message.content
        turn = Message(role=message.role, content=content or "", reasoning=message.thinking or None)
        if message.tool_calls:
            turn.content = content or None
            turn.tool_calls = []
            for call in message.tool_calls:
                num_calls += 1
                # Nine letters and digits, as Mistral's templates demand.
                call_id = call.id or f"call{num_calls:05}"
                calls.append((call_id, call.function.name))
                arguments = json.dumps(call.function.arguments, ensure_ascii=False)
                function = FunctionCall(name=call.function.name, arguments=arguments)
                turn.tool_calls.append(ToolCall(id=call_id, type="function", function=function))
        if message.role == "tool":
            answered = _answered(calls, message, param)
            calls.remove(answered)
            turn.tool_call_id, turn.name = answered
        elif message.tool_name is not None or message.tool_call_id is not None:
            name = "tool_name" if message.tool_name is not None else "tool_call_id"
            raise InvalidRequest(f"{param}.{name}: a message of role {message.role!r} has none", param=name)
        result.append(turn)
    return result


def _answered(calls: Sequence[tuple[str, str]], message: OllamaMessage, param: str) -> tuple[str, str]:
    """The first call that a tool's message can be the answer to."""
    for call_id, name in calls:
        if message.tool_call_id in (None, "", call_id) and message.tool_name in (None, "", name):
            return call_id, name
    raise InvalidRequest(f"{param}: there is no call before it that it could be the answer to", param=param)
