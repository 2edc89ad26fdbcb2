"""What an answer must look like where a request says so: a grammar in the model's own format.

The grammars are in llguidance's dialect of Lark, where `%json` stands for a text that fits a schema,
`<[7]>` for the token 7, and `@form` for the form that a request asks of the answer:
https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

from .base import Function, Rules, ToolParser

# As models are trained to write JSON. With white space at will, one could fill its context with it.
_STYLE = {"whitespace_flexible": False, "key_separator": ": ", "item_separator": ", "}

ANY_TEXT = "/(?s:.*)/"

# Keywords of JSON schemas: those that put schemas together, that say which properties there may be besides,
# and under which there are other schemas.
_COMBINING = frozenset(("allOf", "if", "dependentSchemas", "unevaluatedProperties", "$dynamicRef"))
_OPEN = frozenset(("additionalProperties", "patternProperties", "anyOf", "oneOf", "$ref"))
_SCHEMAS = frozenset(("properties", "$defs", "definitions"))
_SCHEMA = frozenset(("items",))
_SCHEMA_LISTS = frozenset(("anyOf", "oneOf", "prefixItems"))


class CallGrammar:
    """The parts from which the formats make their rules.

    Args:
        functions: What may be called.
        token_id: The id of a special token by its spelling, or None if it is none.
        eos_token_ids: The tokens that end an answer.
        max_thoughts: The most tokens of thoughts; None for no limit.
    """

    def __init__(
        self,
        functions: Sequence[Function],
        token_id: Callable[[str], int | None],
        eos_token_ids: Collection[int] = (),
        max_thoughts: int | None = None,
    ) -> None:
        self._functions = functions
        self._token_id = token_id
        self._eos_token_ids = eos_token_ids
        self._max_thoughts = max_thoughts

    def mark(self, spelling: str) -> str:
        """The term for a mark: a token or, where the tokenizer has no such special token, a text."""
        token = self._token_id(spelling)
        return quote(spelling) if token is None else f"<[{token}]>"

    def last_mark(self, spelling: str) -> str:
        """The term for a mark at the end of an answer; none if it is the token that ends answers anyhow."""
        return "" if self._token_id(spelling) in self._eos_token_ids else self.mark(spelling)

    @property
    def has_functions(self) -> bool:
        """Whether anything may be called."""
        return bool(self._functions)

    def is_token(self, spelling: str) -> bool:
        """Whether a mark is a special token of the tokenizer."""
        return self._token_id(spelling) is not None

    def until(self, name: str, spelling: str, before: str = "(?s:.*)") -> Rules:
        """The rule `name` for a text up to a mark, the mark included.

        Args:
            name: The rule's name.
            spelling: The mark.
            before: The regular expression of the text; it may match the mark, and then ends before it.
        """
        if self.is_token(spelling):
            return {name: f"/{before}/ {self.mark(spelling)}"}  # no text holds a special token
        pattern = re.escape(spelling).replace("/", r"\/")
        return {f"{name}[lazy]": f"/{before}{pattern}/"}

    def thoughts_until(self, name: str, spelling: str) -> Rules:
        """The rule `name` for thoughts up to a mark, which must come when they are long enough."""
        if self._max_thoughts is None:
            return self.until(name, spelling)
        limit = f"max_tokens={self._max_thoughts}"
        if self.is_token(spelling):
            return {name: f"{name}_words {self.mark(spelling)}", f"{name}_words[{limit}]": ANY_TEXT}
        # The first of two lexemes that run out together is the one that counts. Without the second one, the
        # first would run on over the mark.
        ended = self.until(f"{name}_ended", spelling).popitem()[1]
        return {
            name: f"{name}_cut {self.mark(spelling)} | {name}_ended",
            f"{name}_cut[{limit}]": ANY_TEXT,
            f"{name}_ended[lazy, {limit}]": ended,
        }

    def each(self, before: Callable[[str], str], after: str = "") -> str:
        """Alternatives, one per function: terms made of its name, its arguments, further terms."""
        alternatives: list[str] = []
        for one in self._functions:
            schema = json.dumps({**_closed(one.parameters), "x-guidance": _STYLE})
            alternatives.append(f"{before(one.name)} %json {schema} {after}".strip())
        return f"({' | '.join(alternatives)})"

    def each_object(self, key: str) -> str:
        """`each`, as objects with `name` and the arguments under `key`."""

        def head(name: str) -> str:
            return quote(f'{{"name": {json.dumps(name)}, "{key}": ')

        return self.each(head, quote("}"))


def _closed(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of a function's arguments, in which objects have the properties that it names and no others.

    By the letter, an object may have any others unless `additionalProperties` says no. Few who write tools
    say so, and no function knows what to do with them. Schemas whose parts are taken together, of which
    closing one would exclude the other, stay as they are.
    """
    if _uses_any(parameters, _COMBINING):
        return parameters
    return cast("Mapping[str, Any]", _close(parameters))


def _uses_any(value: object, keys: Collection[str]) -> bool:
    if isinstance(value, Mapping):
        items = cast("Mapping[str, object]", value)
        return any(key in keys or _uses_any(item, keys) for key, item in items.items())
    return isinstance(value, list) and any(_uses_any(item, keys) for item in cast("list[object]", value))


def _close(schema: object) -> object:
    if not isinstance(schema, Mapping):
        return schema
    closed = dict(cast("Mapping[str, Any]", schema))
    if "properties" in closed and not _OPEN.intersection(closed):
        closed["additionalProperties"] = False
    for key in _SCHEMAS.intersection(closed):
        if isinstance(closed[key], Mapping):
            closed[key] = {name: _close(item) for name, item in closed[key].items()}
    for key in _SCHEMA.intersection(closed):
        closed[key] = _close(closed[key])
    for key in _SCHEMA_LISTS.intersection(closed):
        if isinstance(closed[key], list):
            closed[key] = [_close(item) for item in closed[key]]
    return closed


def quote(text: str) -> str:
    """The term for a text."""
    return json.dumps(text, ensure_ascii=False)


def demanded_calls(
    grammar: CallGrammar, parser: type[ToolParser], *, many: bool, reasoning: Rules | None = None
) -> str:
    """The grammar of an answer that is calls alone.

    Args:
        grammar: Has the functions.
        parser: The format.
        many: Whether several calls may follow each other.
        reasoning: If the model may think first, the rule `reasoning` for its thoughts.
    """
    return _grammar("calls", reasoning, parser.call_rules(grammar, many=many))


def strict_calls(
    grammar: CallGrammar, parser: type[ToolParser], *, many: bool, reasoning: Rules | None = None
) -> str:
    """The grammar of an answer in any words, in which a call, if there is one, is as it must be."""
    return _grammar("answer", reasoning, parser.answer_rules(grammar, many=many))


def bounded_thoughts(
    grammar: CallGrammar, parser: type[ToolParser] | None, *, many: bool, reasoning: Rules | None = None
) -> str:
    """The grammar of an answer in which nothing is bound but the thoughts.

    Args:
        grammar: Has the functions, if there are any, and the most tokens of thoughts.
        parser: The format, if calls or thoughts in it are read at all.
        many: Whether several calls may follow each other.
        reasoning: If no such parser reads the thoughts, the rule `reasoning` for them.
    """
    words = {"answer": ANY_TEXT} if parser is None else parser.answer_rules(grammar, many=many)
    return _grammar("answer", reasoning, words)


def framed_form(
    grammar: CallGrammar,
    parser: type[ToolParser] | None,
    *,
    calls: bool = False,
    many: bool = False,
    reasoning: Rules | None = None,
) -> str | None:
    """What stands around the form of an answer, `@form`; None if nothing does.

    Args:
        grammar: Has the functions.
        parser: The format, if the model has one that matters here.
        calls: Whether the model may call functions instead.
        many: Whether several calls may follow each other.
        reasoning: If the model may think first, the rule `reasoning` for its thoughts.
    """
    rules = {"formed": "@form"} if parser is None else parser.form_rules(grammar)
    if not calls:
        is_bare = reasoning is None and rules == {"formed": "@form"}
        return None if is_bare else _grammar("formed", reasoning, rules)
    assert parser is not None
    return _grammar("(calls | formed)", reasoning, rules | parser.call_rules(grammar, many=many))


def _grammar(start: str, reasoning: Rules | None, rules: Rules) -> str:
    everything = {"start": start} | rules
    if reasoning is not None:
        everything = {"start": f"reasoning {start}"} | reasoning | rules
    return "\n".join(f"{name}: {rule}" for name, rule in everything.items())
