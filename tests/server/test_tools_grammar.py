"""The grammars for answers: they take what the parsers read, and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest

from quire.engine.structured import grammar_of
from quire.engine.structured_params import StructuredOutputsParams
from quire.server.reasoning_parsers.base import ReasoningState
from quire.server.reasoning_parsers.think import ThinkParser
from quire.server.tool_parsers import TOOL_PARSERS
from quire.server.tool_parsers.base import Function
from quire.server.tool_parsers.constraint import (
    CallGrammar,
    bounded_thoughts,
    demanded_calls,
    framed_form,
    strict_calls,
)

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

    def __init__(self, special: Iterable[str]) -> None:
        special = list(special)
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


def accepts(vocabulary: Bytes, constraint: StructuredOutputsParams | str, text: str) -> bool:
    if isinstance(constraint, str):
        constraint = StructuredOutputsParams(grammar=constraint)
    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(vocabulary))
    made = grammar_of(constraint)
    assert llguidance.LLMatcher.validate_grammar(made, tokenizer) == ""
    matcher = llguidance.LLMatcher(tokenizer, made)
    tokens = vocabulary.encode(text)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def vocabulary_for(name: str, *, special: bool) -> Bytes:
    marks = (*TOOL_PARSERS[name].marks, *ThinkParser.marks)
    return Bytes(dict.fromkeys(marks) if special else ())


def grammar_for(vocabulary: Bytes, functions: Sequence[Function] = FUNCTIONS) -> CallGrammar:
    return CallGrammar(functions, vocabulary.ids.get, [vocabulary.eos_token_id])


# What an answer begins with, by where the prompt leaves the reasoning: what is right, what is not.
OPENINGS: dict[ReasoningState | None, tuple[tuple[str, ...], tuple[str, ...]]] = {
    None: (("",), (THOUGHTS,)),
    "over": (("",), (THOUGHTS, f"<think>\n{THOUGHTS}")),
    "open": ((THOUGHTS, "</think>"), ("", "Hm")),
    "possible": (("", f"<think>\n{THOUGHTS}", "<think></think>"), (THOUGHTS, "<think>Hm")),
}


@pytest.mark.parametrize("state", OPENINGS)
@pytest.mark.parametrize("special", [True, False], ids=["tokens", "text"])
@pytest.mark.parametrize("name", TOOL_PARSERS)
def test_demanded_calls(name: str, special: bool, state: ReasoningState | None) -> None:
    parser = TOOL_PARSERS[name]
    if parser.splits_reasoning and state:
        return
    vocabulary = vocabulary_for(name, special=special)
    grammar = grammar_for(vocabulary)
    reasoning = None if state is None else ThinkParser.rules(grammar, state)
    right, wrong = OPENINGS[state]
    for many, opening in itertools.product((False, True), right):
        constraint = demanded_calls(grammar, parser, many=many, reasoning=reasoning)

        def takes(text: str, before: str = opening, constraint: str = constraint) -> bool:
            return accepts(vocabulary, constraint, before + text)

        one, *more = ANSWERS[name, special]
        assert takes(one)
        assert [takes(text) for text in more] == [many] * len(more)
        assert not any(takes(one, before) for before in wrong)
        assert not takes(one.replace("1", '"1"'))
        assert not takes(one.replace('{"a": 1}', "{}"))
        assert not takes(one.replace('f"', 'h"').replace("f <", "h <").replace("f[", "h["))
        assert not takes("I would rather talk.")
        assert not takes(one[:-1]) or one.endswith(">")  # a mark at the end may be left out


@pytest.mark.parametrize(
    ("parameters", "arguments", "taken"),
    [
        ({"properties": {"a": {}}}, '{"a": 1}', True),
        ({"properties": {"a": {}}}, '{"b": 1}', False),
        ({"properties": {"a": {}}, "additionalProperties": True}, '{"b": 1}', True),
        ({"properties": {"a": {}}, "patternProperties": {"^b$": {}}}, '{"b": 1}', True),
        ({}, '{"b": 1}', True),
        ({"properties": {"a": {"properties": {"b": {}}}}}, '{"a": {"b": 1}}', True),
        ({"properties": {"a": {"properties": {"b": {}}}}}, '{"a": {"c": 1}}', False),
        ({"properties": {"a": {"items": {"properties": {"b": {}}}}}}, '{"a": [{"c": 1}]}', False),
        (
            {"properties": {"a": {"enum": [{"properties": {}, "b": 1}]}}},
            '{"a": {"properties": {}, "b": 1}}',
            True,
        ),
        (
            {"properties": {"a": {"$ref": "#/$defs/d"}}, "$defs": {"d": {"properties": {}}}},
            '{"a": {"c": 1}}',
            False,
        ),
        (
            {"allOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"b": {"const": 2}}}]},
            '{"a": 1, "b": 2}',
            True,
        ),
    ],
)
def test_arguments_that_no_parameter_names(parameters: dict, arguments: str, taken: bool) -> None:
    vocabulary = vocabulary_for("hermes", special=True)
    grammar = grammar_for(vocabulary, [Function("f", {"type": "object", **parameters})])
    constraint = demanded_calls(grammar, TOOL_PARSERS["hermes"], many=False)
    call = f'<tool_call>\n{{"name": "f", "arguments": {arguments}}}\n</tool_call>'
    assert accepts(vocabulary, constraint, call) == taken


WORDS = 'The <b> of {"a": 1}, [1] or <tool_cal, <|, [TOOL'
BEFORE = {
    "hermes": WORDS,
    "llama3_json": WORDS + "<|python_tag|>",
    "mistral": WORDS,
    "harmony": "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant",
}


@pytest.mark.parametrize("special", [True, False], ids=["tokens", "text"])
@pytest.mark.parametrize("name", TOOL_PARSERS)
def test_strict_calls_among_words(name: str, special: bool) -> None:
    vocabulary = vocabulary_for(name, special=special)
    grammar = grammar_for(vocabulary)
    parser = TOOL_PARSERS[name]
    said = "The answer is < 4 {}."
    words = [WORDS, "", " "] if name != "harmony" else [f"<|channel|>final<|message|>{said}"]
    for many in (False, True):
        constraint = strict_calls(grammar, parser, many=many)

        def takes(text: str, constraint: str = constraint) -> bool:
            return accepts(vocabulary, constraint, text)

        one, *more = ANSWERS[name, special]
        assert all(map(takes, words))
        for before in ("", BEFORE[name]):
            assert takes(before + one)
            assert [takes(before + text) for text in more] == [many] * len(more)
            assert not takes(before + one.replace("1", '"1"'))
            assert not takes(before + one.replace('{"a": 1}', "{}"))
            assert not takes(before + one.replace('f"', 'h"').replace("f <", "h <").replace("f[", "h["))
            assert not takes(before + one[: one.index("1") + 1])
    if name == "hermes":
        between = f"{one}\n\nAnd now:\n{one}\nThat was it."
        assert accepts(vocabulary, strict_calls(grammar, parser, many=True), between)
        assert not accepts(vocabulary, strict_calls(grammar, parser, many=False), between)


FORM = {"type": "object", "properties": {"x": {"const": 1}}, "required": ["x"], "additionalProperties": False}
FORMS = [
    (StructuredOutputsParams(json=FORM), '{"x": 1}'),
    (StructuredOutputsParams(json_object=True), '{"y": "<|end|"}'),
    (StructuredOutputsParams(regex="a/b{2}"), "a/bb"),
    (StructuredOutputsParams(choice=["yes", "y/e"]), "y/e"),
    (StructuredOutputsParams(grammar='start: form\nform: "a" form | "b"'), "aab"),
    (StructuredOutputsParams(grammar='root ::= "a" root | "b"'), "ab"),
    (
        StructuredOutputsParams(
            structural_tag={
                "structures": [{"begin": "<f>", "schema": FORM, "end": "</f>"}],
                "triggers": ["<f"],
            }
        ),
        'so <f>{"x": 1}</f>',
    ),
]


@pytest.mark.parametrize(("form", "text"), FORMS, ids=[form.kind for form, _ in FORMS])
@pytest.mark.parametrize("special", [True, False], ids=["tokens", "text"])
@pytest.mark.parametrize("state", ["possible", "open"])
def test_a_form_behind_thoughts(
    form: StructuredOutputsParams, text: str, special: bool, state: ReasoningState
) -> None:
    vocabulary = vocabulary_for("hermes", special=special)
    grammar = grammar_for(vocabulary)
    frame = framed_form(grammar, None, reasoning=ThinkParser.rules(grammar, state))
    framed = replace(form, frame=frame)
    right, wrong = OPENINGS[state]
    for opening in right:
        assert accepts(vocabulary, framed, opening + text)
        assert not accepts(vocabulary, framed, opening + text[:-1])
    if form.kind != "structural_tag":  # there, all words are right
        assert not any(accepts(vocabulary, framed, opening + text) for opening in wrong)
        assert not accepts(vocabulary, framed, right[0] + "z" + text)


@pytest.mark.parametrize("special", [True, False], ids=["tokens", "text"])
@pytest.mark.parametrize("name", [name for name, parser in TOOL_PARSERS.items() if parser.marks_calls])
def test_a_form_or_calls(name: str, special: bool) -> None:
    vocabulary = vocabulary_for(name, special=special)
    grammar = grammar_for(vocabulary)
    frame = framed_form(grammar, TOOL_PARSERS[name], calls=True, many=False)
    framed = StructuredOutputsParams(json=FORM, frame=frame)
    head = "<|channel|>final<|message|>" if name == "harmony" else ""
    one = ANSWERS[name, special][0]
    assert accepts(vocabulary, framed, one)
    assert accepts(vocabulary, framed, head + '{"x": 1}')
    assert not accepts(vocabulary, framed, head + '{"x": 2}')
    assert not accepts(vocabulary, framed, head + "words")
    assert not accepts(vocabulary, framed, one.replace("1", '"1"'))


def test_without_thoughts_or_marks_a_form_stands_alone() -> None:
    vocabulary = vocabulary_for("hermes", special=True)
    grammar = grammar_for(vocabulary)
    assert framed_form(grammar, None) is None
    assert framed_form(grammar, None, reasoning=ThinkParser.rules(grammar, "over")) is None


@pytest.mark.parametrize("special", [True, False], ids=["tokens", "text"])
@pytest.mark.parametrize("name", ["hermes", "harmony"])
def test_thoughts_that_go_on_and_on_are_stopped(name: str, special: bool) -> None:
    """What must follow them does, within the tokens that there are."""
    vocabulary = vocabulary_for(name, special=special)
    grammar = CallGrammar(FUNCTIONS, vocabulary.ids.get, [vocabulary.eos_token_id], max_thoughts=40)
    parser = TOOL_PARSERS[name]
    if name == "hermes":
        reasoning = ThinkParser.rules(grammar, "possible")
        begin, end = "<think>", "</think>"
    else:
        reasoning = None
        begin, end = "<|channel|>analysis<|message|>", "<|end|><|start|>assistant"
    constraint = demanded_calls(grammar, parser, many=False, reasoning=reasoning)
    one = ANSWERS[name, special][0]
    for thought in ("", "Hm.", "a" * 40, "a" * 20 + end[:3] + "b" * 17):
        short = thought[: 40 - (0 if special else len(end))]
        assert accepts(vocabulary, constraint, begin + short + end + one), thought
        assert accepts(vocabulary, constraint, begin + thought + end + one), thought
    assert not accepts(vocabulary, constraint, begin + "a" * 41 + end + one)


@pytest.mark.parametrize("special", [True, False], ids=["tokens", "text"])
def test_a_budget_binds_the_thoughts_and_nothing_else(special: bool) -> None:
    vocabulary = vocabulary_for("hermes", special=special)
    grammar = CallGrammar((), vocabulary.ids.get, [vocabulary.eos_token_id], max_thoughts=40)
    thoughts = ThinkParser.rules(grammar, "possible", optional=False)
    constraint = bounded_thoughts(grammar, None, many=True, reasoning=thoughts)
    for text in ("<think></think>", "<think>Hm.</think>" + "Hello!" * 20, f"<think>{'a' * 40}</think>b"):
        assert accepts(vocabulary, constraint, text), text
    assert not accepts(vocabulary, constraint, f"<think>{'a' * 41}</think>")
    assert not accepts(vocabulary, constraint, "Hello!")
    vocabulary = vocabulary_for("harmony", special=special)
    for functions, takes in ((FUNCTIONS, True), ((), False)):
        grammar = CallGrammar(functions, vocabulary.ids.get, [vocabulary.eos_token_id], max_thoughts=40)
        constraint = bounded_thoughts(grammar, TOOL_PARSERS["harmony"], many=True)
        final = "<|channel|>final<|message|>Hello!"
        head = "<|channel|>analysis<|message|>"
        assert accepts(vocabulary, constraint, final)
        assert accepts(vocabulary, constraint, f"{head}Hm.<|end|><|start|>assistant{final}")
        assert not accepts(vocabulary, constraint, f"{head}{'a' * 41}<|end|><|start|>assistant{final}")
        assert accepts(vocabulary, constraint, ANSWERS["harmony", special][0]) == takes


def test_harmony_may_think_first() -> None:
    (call,) = ANSWERS["harmony", True]
    analysis = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    for special in (True, False):
        vocabulary = vocabulary_for("harmony", special=special)
        grammar = grammar_for(vocabulary)
        parser = TOOL_PARSERS["harmony"]
        constraint = demanded_calls(grammar, parser, many=False)
        assert accepts(vocabulary, constraint, analysis + call)
        frame = framed_form(grammar, parser)
        framed = StructuredOutputsParams(json=FORM, frame=frame)
        final = '<|channel|>final<|message|>{"x": 1}'
        for text in (final, analysis + final, final + "<|return|>"):
            assert accepts(vocabulary, framed, text)
        assert not accepts(vocabulary, framed, '{"x": 1}')


def test_a_mark_that_ends_answers_is_left_to_end_them() -> None:
    """The matcher knows one token that ends an output, and an engine lets all of them stand for it."""
    (call,) = ANSWERS["harmony", True]
    vocabulary = vocabulary_for("harmony", special=True)
    ends = [vocabulary.eos_token_id, vocabulary.ids["<|call|>"], vocabulary.ids["<|return|>"]]
    grammar = CallGrammar(FUNCTIONS, vocabulary.ids.get, ends)
    for constraint in (
        demanded_calls(grammar, TOOL_PARSERS["harmony"], many=False),
        strict_calls(grammar, TOOL_PARSERS["harmony"], many=False),
    ):
        assert accepts(vocabulary, constraint, call.removesuffix("<|call|>"))
        assert not accepts(vocabulary, constraint, call)
