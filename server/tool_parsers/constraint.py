"""What an answer must look like where a request says so: a grammar in the model's own format.

The grammars are in llguidance's dialect of Lark, where `%json` stands for a text that fits a schema,
`<[7]>` for the token 7, and `@form` for the form that a request asks of the answer:
https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence

from .base import Function, Rules, ToolParser

# As models are trained to write JSON. With white space at will, one could fill its context with it.
_STYLE = {"whitespace_flexible": False, "key_separator": ": ", "item_separator": ", "}

ANY_TEXT = "/(?s:.*)/"


class CallGrammar:
    """The parts from which the formats make their rules.

    Args:
        functions: What may be called.
        token_id: The id of a special token by its spelling, or None if it is none.
        eos_token_ids: The tokens that end an answer.
    """

    def __init__(
        self,
        functions: Sequence[Function],
        token_id: Callable[[str], int | None],
        eos_token_ids: Collection[int] = (),
    ) -> None:
        self._functions = functions
        self._token_id = token_id
        self._eos_token_ids = eos_token_ids

    def mark(self, spelling: str) -> str:
        """The term for a mark: a token or, where the tokenizer has no such special token, a text."""
        token = self._token_id(spelling)
        return quote(spelling) if token is None else f"<[{token}]>"

    def last_mark(self, spelling: str) -> str:
        """The term for a mark at the end of an answer; none if it is the token that ends answers anyhow."""
        return "" if self._token_id(spelling) in self._eos_token_ids else self.mark(spelling)

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
