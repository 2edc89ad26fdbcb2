"""From a conversation to the text that the model was trained to continue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...engine.input_check import NO_GENERATION
from ...errors import ContextLengthExceeded, InvalidRequest, ModelError
from ...models.chat_template import ChatTemplate
from ...models.conversation import is_ordinary
from ...models.template_style import TemplateStyle, find_style
from ..context import ServerContext
from ..generation import check_text_length
from .messages import plain_messages, template_messages
from .params import or_default
from .protocol import ChatCompletionRequest
from .tools import Tools

RESERVED_VARIABLES = frozenset(
    ("add_generation_prompt", "chat_template", "documents", "messages", "self", "tokenize", "tools")
)

CHARACTERS_PER_MESSAGE = 64  # what rendering an empty message costs, counted as text


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """What the model is to continue.

    Attributes:
        text: The prompt.
        template: The template that made it.
        begun: Of an answer that the prompt has begun: what it holds of it.
    """

    text: str
    template: ChatTemplate
    begun: str | None


async def render_prompt(context: ServerContext, body: ChatCompletionRequest, tools: Tools) -> ChatPrompt:
    """The conversation in the model's own form. Raises `InvalidRequest` naming what does not fit it."""
    if not context.engine.model_config.generates:
        raise InvalidRequest(NO_GENERATION, param="model")
    template = _template(context, body)
    if not body.messages:
        raise InvalidRequest("messages must not be empty", param="messages")
    # Every message takes a token at least.
    if len(body.messages) > context.engine.max_model_len:
        raise ContextLengthExceeded(
            f"{len(body.messages)} messages do not fit the context of {context.engine.max_model_len} tokens",
            param="messages",
        )
    variables = _variables(body, template, tools)
    style = TemplateStyle()
    given = plain_messages(body.messages)
    if not all(map(is_ordinary, given)):
        style = find_style(template, with_tools=tools.offered is not None)
    messages = template_messages(given, style, context.settings)
    contents = [message["content"] or "" for message in messages]
    check_text_length(context, "".join(contents), "messages")
    unfinished = body.continue_final_message is True
    add_generation_prompt = or_default(body.add_generation_prompt, not unfinished)
    if unfinished:
        _check_unfinished(messages[-1], add_generation_prompt)

    def render() -> str:
        # A client's text must not become control tokens: only the template makes those.
        defuse = context.engine.tokenizer.defuse
        defused = defuse(messages)
        text = template.render(
            defused,
            add_generation_prompt=add_generation_prompt,
            tools=defuse(tools.offered),
            **defuse(variables),
        )
        return _cut_after(text, defused[-1]["content"]) if unfinished else text

    size = sum(map(len, contents)) + CHARACTERS_PER_MESSAGE * len(messages) + tools.num_characters
    text = await context.offload(size, render)
    return ChatPrompt(text, template, contents[-1] if unfinished else None)


def _template(context: ServerContext, body: ChatCompletionRequest) -> ChatTemplate:
    """The model's template or, where the server was told to trust it, the request's own."""
    own = context.engine.chat_template
    if body.chat_template is not None:
        if not context.settings.trust_request_chat_template:
            raise InvalidRequest(
                "chat_template: this server takes none from requests; it would with "
                "--trust-request-chat-template",
                param="chat_template",
                code="unsupported_parameter",
            )
        try:
            return own.replaced(body.chat_template)
        except ModelError as error:
            raise InvalidRequest(error.message, param="chat_template") from error
    if not own:
        raise InvalidRequest(
            f"{context.model_name!r} has no chat template; use /v1/completions", code="no_chat_template"
        )
    return own


def _variables(body: ChatCompletionRequest, template: ChatTemplate, tools: Tools) -> dict[str, Any]:
    """What the template is given besides the messages; it must know each of them."""
    variables = dict(body.chat_template_kwargs or {})
    if reserved := RESERVED_VARIABLES.intersection(variables):
        raise InvalidRequest(
            f"chat_template_kwargs: {min(reserved)!r} is reserved", param="chat_template_kwargs"
        )
    known = template.variables(with_tools=tools.offered is not None)
    given = {"documents": body.documents, "reasoning_effort": body.reasoning_effort, "tools": tools.offered}
    for name, value in given.items():
        if value is not None and name not in known:
            raise InvalidRequest(f"{name}: the model's chat template has no place for it", param=name)
    if body.documents is not None:
        variables["documents"] = body.documents
    effort = body.reasoning_effort
    if effort is not None and variables.setdefault("reasoning_effort", effort) != effort:
        raise InvalidRequest(
            "reasoning_effort and chat_template_kwargs.reasoning_effort differ", param="reasoning_effort"
        )
    return variables


def _check_unfinished(last: dict[str, Any], add_generation_prompt: bool) -> None:
    name = "continue_final_message"
    if add_generation_prompt:
        raise InvalidRequest(f"{name} and add_generation_prompt exclude each other", param=name)
    if last["role"] != "assistant" or not (last["content"] or "").strip():
        raise InvalidRequest(f"{name} needs a last message of the assistant, with text", param=name)
    if "tool_calls" in last:
        raise InvalidRequest(f"{name}: a message that calls tools is finished", param=name)


def _cut_after(text: str, final: str) -> str:
    """The prompt up to the end of its last message, without what the template puts behind."""
    for shown in (final, final.strip()):  # some templates strip what they show
        start = text.rfind(shown)
        if start >= 0:
            return text[: start + len(shown)]
    raise InvalidRequest(
        "continue_final_message: the chat template does not show the last message as it is",
        param="continue_final_message",
    )
