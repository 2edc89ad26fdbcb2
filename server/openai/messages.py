"""From a request's messages to those that chat templates know."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import msgspec

from ...models import conversation
from ...models.template_style import TemplateStyle
from ..settings import ServerSettings
from ..strict_json import parse
from .message_protocol import Message


def plain_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as objects, with what they leave out as null."""
    return cast("list[dict[str, Any]]", msgspec.to_builtins(messages))


def template_messages(
    messages: Sequence[dict[str, Any]], style: TemplateStyle, settings: ServerSettings
) -> list[dict[str, Any]]:
    """Messages as a template of this style expects them; see `models.conversation`.

    Raises `InvalidRequest` naming the field that a message lacks or cannot have.
    """
    read = partial(parse, max_depth=settings.max_json_depth, max_values=settings.max_json_values)
    return conversation.template_messages(messages, style, lambda text: read(text.encode()))
