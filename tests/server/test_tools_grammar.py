"""The grammars for demanded calls: they take what the parsers read, and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from quire.server.reasoning_parsers.think import ThinkParser
from quire.server.tool_parsers import TOOL_PARSERS
from quire.server.tool_parsers.base import Function
from quire.server.tool_parsers.constraint import CallGrammar, tool_grammar

llguidance = pytest.importorskip("llguidance")

FUNCTIONS = [
    Function(
        "f",
        {
            "type": "object",
            "properties": {"a": {"$ref": "#/$defs/number"}},
            "required": ["a"],
            "additionalProperties": False,
            "$defs": {"number": {"type": "integer"}},
        },
    ),
    Function("g-2", {"type": "object", "properties": {}, "additionalProperties": False}),
]
THOUGHTS = "Hm </b> <x>\n\n{</think>\n\n"
HEAD = "<|channel|>commentary to=functions."

# By format and by whether its marks are special tokens: one call, and two if it has a form for them.
ANSWERS: dict[tuple[str, bool], tuple[str, ...]] = {
    ("mistral", True): (
        '[TOOL_CALLS]f[ARGS]{"a": 1}',
        '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g-2[ARGS]{}',
    ),
    ("mistral", False): (
        '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]',
        '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}, {"name": "g-2", "arguments": {}}]',
    ),
}
for special in (True, False):
    ANSWERS["hermes", special] = (
        '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>',
        (
            '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n'
            '<tool_call>\n{"name": "g-2", "arguments": {}}\n</tool_call>'
        ),
    )
    ANSWERS["llama3_json", special] = (
        '{"name": "f", "parameters": {"a": 1}}',
        '{"name": "f", "parameters": {"a": 1}}; {"name": "g-2", "parameters": {}}',
    )
    ANSWERS["harmony", special] = (f'{HEAD}f <|constrain|>json<|message|>{{"a": 1}}<|call|>',)


class Bytes:
    """A vocabulary of bytes and special tokens, as llguidance wants one."""

    bos_token_id = None
    eos_token_id = 256

    def __init__(self, special: Sequence[str]) -> None:
        self.tokens = [bytes([byte]) for byte in range(256)] + [text.encode() for text in ("<eos>", *special)]
        self.special_token_ids = list(range(256, len(self.tokens)))
        self.ids = {text: token for token, text in enumerate(special, 257)}

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())

    def encode(self, text: str) -> list[int]:
        """With special tokens where they are spelled out."""
        for spelling in self.ids:
            if spelling in text:
                before, after = text.split(spelling, 1)
                return [*self.encode(before), self.ids[spelling], *self.encode(after)]
        return self(text)


def accepts(vocabulary: Bytes, grammar: str, text: str) -> bool:
    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(vocabulary))
    made: Any = llguidance.grammar_from("lark", grammar)
    assert llguidance.LLMatcher.validate_grammar(made, tokenizer) == ""
    matcher = llguidance.LLMatcher(tokenizer, made)
    tokens = vocabulary.encode(text)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


@pytest.mark.parametrize("name", TOOL_PARSERS)
@pytest.mark.parametrize("special", [True, False], ids=["tokens", "text"])
def test_grammars(name: str, special: bool) -> None:
    parser = TOOL_PARSERS[name]
    marks = (*parser.marks, *ThinkParser.marks) if special else ()
    vocabulary = Bytes(marks)
    for many, thinking in itertools.product((False, True), (None, "in the prompt", "in the answer")):
        if parser.splits_reasoning and thinking:
            continue
        rule, thoughts = "", ""
        if thinking:
            mark = CallGrammar(FUNCTIONS, vocabulary.ids.get).mark
            rule = ThinkParser.rule(mark, is_open=thinking == "in the prompt")
            thoughts = THOUGHTS if thinking == "in the prompt" else f"<think>\n{THOUGHTS}"
            if special:
                thoughts = thoughts.replace("</b>", "")
        grammar = tool_grammar(FUNCTIONS, parser, vocabulary.ids.get, many=many, reasoning=rule)

        def takes(text: str, before: str = thoughts, grammar: str = grammar) -> bool:
            return accepts(vocabulary, grammar, before + text)

        one, *more = ANSWERS[name, special]
        assert takes(one)
        assert [takes(text) for text in more] == [many] * len(more)
        assert not takes(one.replace("1", '"1"'))
        assert not takes(one.replace('{"a": 1}', "{}"))
        assert not takes(one.replace('f"', 'h"').replace("f <", "h <").replace("f[", "h["))
        assert not takes("I would rather talk.")
        assert not takes(one[:-1])


def test_harmony_may_think_first() -> None:
    (call,) = ANSWERS["harmony", True]
    analysis = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    for marks in (TOOL_PARSERS["harmony"].marks, ()):
        vocabulary = Bytes(marks)
        grammar = tool_grammar(FUNCTIONS, TOOL_PARSERS["harmony"], vocabulary.ids.get, many=False)
        assert accepts(vocabulary, grammar, analysis + call)
