"""From a conversation to the text that the model was trained to continue."""

from __future__ import annotations

from ...errors import ContextLengthExceeded, InvalidRequest
from ..context import ServerContext
from ..generation import check_text_length
from .params import or_default
from .protocol import ChatCompletionRequest, Message

RESERVED_VARIABLES = frozenset(
    ("add_generation_prompt", "chat_template", "documents", "messages", "self", "tokenize", "tools")
)

CHARACTERS_PER_MESSAGE = 64  # what rendering an empty message costs, counted as text


async def render_prompt(context: ServerContext, body: ChatCompletionRequest) -> str:
    """The conversation in the model's own form. Raises `InvalidRequest` naming what does not fit it."""
    template = context.engine.chat_template
    if not template:
        raise InvalidRequest(
            f"{context.model_name!r} has no chat template; use /v1/completions", code="no_chat_template"
        )
    if not body.messages:
        raise InvalidRequest("messages must not be empty", param="messages")
    # Every message takes a token at least.
    if len(body.messages) > context.engine.max_model_len:
        raise ContextLengthExceeded(
            f"{len(body.messages)} messages do not fit the context of {context.engine.max_model_len} tokens",
            param="messages",
        )
    messages = [_plain(message) for message in body.messages]
    check_text_length(context, "".join(message["content"] for message in messages), "messages")
    unfinished = body.continue_final_message is True
    add_generation_prompt = or_default(body.add_generation_prompt, not unfinished)
    if unfinished:
        _check_unfinished(messages[-1], add_generation_prompt)
    variables = body.chat_template_kwargs or {}
    if reserved := RESERVED_VARIABLES.intersection(variables):
        raise InvalidRequest(
            f"chat_template_kwargs: {min(reserved)!r} is reserved", param="chat_template_kwargs"
        )

    def render() -> str:
        # A client's text must not become control tokens: only the template makes those.
        defused = context.engine.tokenizer.defuse(messages)
        text = template.render(defused, add_generation_prompt=add_generation_prompt, **variables)
        return _cut_after(text, defused[-1]["content"]) if unfinished else text

    size = sum(len(message["content"]) + CHARACTERS_PER_MESSAGE for message in messages)
    return await context.offload(size, render)


def _plain(message: Message) -> dict[str, str]:
    """A message as templates know it: content is text, and developers are the system."""
    content = message.content
    plain = {
        "role": "system" if message.role == "developer" else message.role,
        "content": content if isinstance(content, str) else "\n".join(part.text for part in content),
    }
    if message.name is not None:
        plain["name"] = message.name
    return plain


def _check_unfinished(last: dict[str, str], add_generation_prompt: bool) -> None:
    name = "continue_final_message"
    if add_generation_prompt:
        raise InvalidRequest(f"{name} and add_generation_prompt exclude each other", param=name)
    if last["role"] != "assistant" or not last["content"].strip():
        raise InvalidRequest(f"{name} needs a last message of the assistant, with text", param=name)


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
