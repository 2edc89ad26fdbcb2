"""The functions that a request offers, and what it demands of the model about them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from ...errors import InvalidRequest
from ...models.conversation import template_tool
from ..tool_parsers.base import Function
from .message_protocol import FunctionDefinition, NamedToolChoice
from .protocol import ChatCompletionRequest

MAX_TOOLS = 128

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Tools:
    """What a request says about tools.

    Attributes:
        choice: Whether the model may, must or must not call; "named" if it must call one function.
        functions: The functions that it may call.
        offered: What the chat template is given, None for nothing.
        many: Whether it may call several at once.
    """

    choice: Literal["none", "auto", "required", "named"] = "none"
    functions: Sequence[Function] = ()
    offered: Sequence[Mapping[str, Any]] | None = None
    many: bool = True

    @property
    def num_characters(self) -> int:
        """About how long what the template is given becomes."""
        return len(json.dumps(self.offered)) if self.offered else 0


def read_tools(body: ChatCompletionRequest) -> Tools:
    """Checks tools, `tool_choice` and `parallel_tool_calls`. Raises `InvalidRequest` naming the field."""
    if body.tools is None:
        for name in ("tool_choice", "parallel_tool_calls"):
            if getattr(body, name) is not None:
                raise InvalidRequest(f"{name} needs tools", param=name)
        return Tools()
    if not 1 <= len(body.tools) <= MAX_TOOLS:
        raise InvalidRequest(f"tools takes 1 to {MAX_TOOLS} tools, got {len(body.tools)}", param="tools")
    functions: dict[str, Function] = {}
    offered: list[dict[str, Any]] = []
    for place, tool in enumerate(body.tools):
        param = f"tools[{place}].function"
        function = _read_function(tool.function, param)
        if function.name in functions:
            raise InvalidRequest(f"{param}.name: there are two {function.name!r}", param=f"{param}.name")
        functions[function.name] = function
        offered.append(template_tool(function.name, tool.function.description, function.parameters))
    choice = body.tool_choice
    many = body.parallel_tool_calls is not False
    if choice == "none":
        return Tools()
    if isinstance(choice, NamedToolChoice):
        named = functions.get(choice.function.name)
        if named is None:
            raise InvalidRequest(
                f"tool_choice names {choice.function.name[:80]!r}, which is not among the tools",
                param="tool_choice",
            )
        return Tools("named", [named], offered, many=False)
    return Tools(choice or "auto", list(functions.values()), offered, many)


def _read_function(function: FunctionDefinition, param: str) -> Function:
    if _NAME.fullmatch(function.name) is None:
        raise InvalidRequest(
            f"{param}.name must be 1 to 64 letters, digits, _ and -, got {function.name[:80]!r}",
            param=f"{param}.name",
        )
    strict = function.strict is True
    schema = function.parameters
    if not schema:
        return Function(function.name, {"type": "object", "properties": {}}, strict)
    _check_schema(schema, f"{param}.parameters")
    return Function(function.name, schema, strict)


def _check_schema(schema: Mapping[str, Any], param: str) -> None:
    """Checks the outermost level of a JSON schema: it must describe an object."""

    def refuse(name: str, expected: str) -> InvalidRequest:
        return InvalidRequest(f"{param}.{name} must be {expected}", param=f"{param}.{name}")

    if schema.get("type", "object") != "object":
        raise refuse("type", f"'object', got {schema['type']!r:.80}")
    properties: object = schema.get("properties", {})
    if not isinstance(properties, dict):
        raise refuse("properties", "an object")
    for name, value in cast("dict[str, object]", properties).items():
        if not isinstance(value, dict | bool):
            raise refuse(f"properties.{name[:80]}", "a schema")
    required: object = schema.get("required", [])
    if not isinstance(required, list) or not all(
        isinstance(name, str) for name in cast("list[object]", required)
    ):
        raise refuse("required", "a list of names")
