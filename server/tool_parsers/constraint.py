"""What an answer must look like when the request demands calls: a grammar in the model's own format.

The grammars are in llguidance's dialect of Lark, where `%json` stands for a text that fits a schema
and `<[7]>` for the token 7: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from ...engine.structured_params import StructuredOutputsParams
from .base import Function, ToolParser

# As models are trained to write JSON. With white space at will, one could fill its context with it.
_STYLE = {"whitespace_flexible": False, "key_separator": ": ", "item_separator": ", "}


class CallGrammar:
    """The parts from which the formats make their rules.

    Args:
        functions: What may be called; at least one.
        token_id: The id of a special token by its spelling, or None if it is none.
    """

    def __init__(self, functions: Sequence[Function], token_id: Callable[[str], int | None]) -> None:
        self._functions = functions
        self._token_id = token_id

    def mark(self, spelling: str) -> str:
        """The term for a mark: a token or, where the tokenizer has no such special token, a text."""
        token = self._token_id(spelling)
        return quote(spelling) if token is None else f"<[{token}]>"

    def is_token(self, spelling: str) -> bool:
        """Whether a mark is a special token of the tokenizer."""
        return self._token_id(spelling) is not None

    def each(self, before: Callable[[str], str], after: str = "") -> str:
        """Alternatives, one per function: terms made of its name, its arguments, further terms."""
        alternatives = (
            f"{before(one.name)} %json {json.dumps({**one.parameters, 'x-guidance': _STYLE})} {after}".strip()
            for one in self._functions
        )
        return f"({' | '.join(alternatives)})"

    def each_object(self, key: str) -> str:
        """`each`, as objects with `name` and the arguments under `key`."""

        def head(name: str) -> str:
            return quote(f'{{"name": {json.dumps(name)}, "{key}": ')

        return self.each(head, quote("}"))


def quote(text: str) -> str:
    """The term for a text."""
    return json.dumps(text, ensure_ascii=False)


def rule_until(name: str, spelling: str, term: str) -> str:
    """A rule for any text up to a mark, the mark included; `term` is that of the mark."""
    if term.startswith("<["):
        return f"{name}: /(?s:.*)/ {term}"  # no text holds a special token
    pattern = re.escape(spelling).replace("/", r"\/")
    return f"{name}[lazy]: /(?s:.*){pattern}/"


def tool_grammar(
    functions: Sequence[Function],
    parser: type[ToolParser],
    token_id: Callable[[str], int | None],
    *,
    many: bool,
    reasoning: str = "",
) -> str:
    """The grammar of an answer that calls functions.

    Args:
        functions: What may be called.
        parser: The format.
        token_id: The id of a special token by its spelling, or None if it is none.
        many: Whether several calls may follow each other.
        reasoning: If the model thinks first, the rule `reasoning` for its thoughts.
    """
    rules = parser.call_rules(CallGrammar(functions, token_id), many=many)
    start = "start: reasoning calls" if reasoning else "start: calls"
    return "\n".join(part for part in (start, reasoning, rules) if part)


def tool_constraint(
    functions: Sequence[Function],
    choice: str,
    parser: type[ToolParser],
    token_id: Callable[[str], int | None],
    *,
    many: bool,
    reasoning: str = "",
) -> StructuredOutputsParams | None:
    """What the sampler must keep to for a `tool_choice` of none, auto, required or named."""
    if choice in ("none", "auto"):
        return None
    return StructuredOutputsParams(
        grammar=tool_grammar(functions, parser, token_id, many=many, reasoning=reasoning)
    )
