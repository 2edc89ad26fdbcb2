"""Parsers of calls: what they read, and that it does not depend on how the text is cut."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.server.tool_parsers import TOOL_PARSERS
from quire.server.tool_parsers.base import (
    CallArguments,
    CallStart,
    Content,
    ParserSetting,
    Reasoning,
    Special,
    ToolParser,
)
from quire.server.tool_parsers.json_calls import JsonError, JsonScanner

FUNCTIONS = ("get_weather", "f", "search-it_2")
Call = tuple[str, Any]


@dataclass
class Read:
    """What a parser made of an answer."""

    content: str = ""
    reasoning: str = ""
    calls: list[list[str]] = field(default_factory=list)  # name, arguments
    complete: bool = False

    def parsed(self) -> list[Call]:
        return [(name, json.loads(arguments)) for name, arguments in self.calls]


def read(name: str, pieces: Sequence[str | Special], **setting: Any) -> Read:
    """Reads pieces, and checks that events come in order."""
    parser: ToolParser = TOOL_PARSERS[name](ParserSetting(**{"functions": FUNCTIONS} | setting))
    result = Read()
    ids: set[str] = set()
    events = [event for piece in pieces for event in parser.push(piece)] + parser.finish()
    for event in events:
        match event:
            case Content(text):
                result.content += text
            case Reasoning(text):
                result.reasoning += text
            case CallStart(index, id, function):
                assert index == len(result.calls)
                assert id not in ids
                ids.add(id)
                result.calls.append([function, ""])
            case CallArguments(index, text):
                assert text
                assert index == len(result.calls) - 1
                result.calls[index][1] += text
    result.complete = parser.all_calls_are_complete
    return result


def dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def hermes(calls: Sequence[Call], before: str) -> str:
    tags = [
        f'<tool_call>\n{{"name": {dump(name)}, "arguments": {dump(value)}}}\n</tool_call>'
        for name, value in calls
    ]
    return "\n".join([before, *tags] if before else tags)


def llama3(calls: Sequence[Call], before: str) -> str:
    tag = f"{before}<|python_tag|>" if before else ""
    return tag + "; ".join(f'{{"name": {dump(name)}, "parameters": {dump(value)}}}' for name, value in calls)


def mistral_array(calls: Sequence[Call], before: str) -> str:
    return f"{before}[TOOL_CALLS]" + dump([{"name": name, "arguments": value} for name, value in calls])


def mistral_named(calls: Sequence[Call], before: str) -> str:
    return before + "".join(f"[TOOL_CALLS]{name}[ARGS]{dump(value)}" for name, value in calls)


def harmony(calls: Sequence[Call], before: str) -> str:
    messages = [f"<|channel|>commentary<|message|>{before}<|end|>"] if before else []
    messages += [
        f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{dump(value)}<|call|>"
        for name, value in calls
    ]
    return "<|start|>assistant".join(messages)


WRITERS: dict[str, tuple[str, Callable[[Sequence[Call], str], str]]] = {
    "hermes": ("hermes", hermes),
    "llama3_json": ("llama3_json", llama3),
    "mistral array": ("mistral", mistral_array),
    "mistral named": ("mistral", mistral_named),
    "harmony": ("harmony", harmony),
}
WEATHER = ("get_weather", {"city": 'Bonn "}]</tool_call>', "days": [1, 2.5e3, None, {"a": {}}]})


@pytest.mark.parametrize("style", WRITERS)
def test_calls_are_read(style: str) -> None:
    name, write = WRITERS[style]
    calls = [WEATHER, ("f", {}), ("search-it_2", {"q": "日本 {\\"})]
    for before in ("", "Let me see."):
        result = read(name, [write(calls, before)])
        assert result.parsed() == calls
        assert result.content == before
        assert result.complete


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
keys = st.text() | st.sampled_from(["name", "arguments", "}{", '"'])
objects = st.dictionaries(keys, json_values, max_size=4)
BEFORE = ["", "I'll look that up.", "Ça:\n\n<tool"]
call_lists = st.lists(st.tuples(st.sampled_from(FUNCTIONS), objects), min_size=1, max_size=3)
MARKS = sorted({mark for parser in TOOL_PARSERS.values() for mark in parser.marks})


def cut(text: str, seed: int) -> list[str]:
    """Pieces of random lengths, many of them short."""
    rng, pieces, place = random.Random(seed), [], 0
    while place < len(text):
        size = rng.choice((1, 1, 2, 3, 5, 40))
        pieces.append(text[place : place + size])
        place += size
    return pieces


@pytest.mark.parametrize("style", WRITERS)
@given(calls=call_lists, before=st.sampled_from(BEFORE), seed=st.integers())
@settings(max_examples=60, deadline=None)
def test_calls_survive_every_chunking(style: str, calls: list[Call], before: str, seed: int) -> None:
    name, write = WRITERS[style]
    text = write(calls, before)
    whole = read(name, [text])
    assert whole.parsed() == calls
    assert whole.content == before
    assert read(name, cut(text, seed)) == whole


@pytest.mark.parametrize("style", WRITERS)
@given(data=st.data(), seed=st.integers())
@settings(max_examples=60, deadline=None)
def test_truncated_answers(style: str, data: st.DataObject, seed: int) -> None:
    """Whole calls stay whole; the last one may break off, and then nothing says that all is well."""
    name, write = WRITERS[style]
    calls = data.draw(call_lists)
    text = write(calls, "")
    text = text[: data.draw(st.integers(0, len(text)))]
    result = read(name, cut(text, seed))
    assert result == read(name, [text])
    *whole, last = result.calls or [["f", "{}"]]
    assert [(function, json.loads(arguments)) for function, arguments in whole] == calls[: len(whole)]
    expected = dump(calls[len(whole)][1])
    assert not result.calls or expected.startswith(last[1])
    assert result.complete == (bool(result.calls) and last[1] == expected)


@pytest.mark.parametrize("name", TOOL_PARSERS)
@given(
    parts=st.lists(
        st.sampled_from(
            [*MARKS, "{", "}", '"', "name", '{"name": "f", ', '"arguments": {', "\n", ",", "\\", "[", ":"]
        )
        | st.text(max_size=5),
        max_size=20,
    ),
    seed=st.integers(),
)
@settings(max_examples=150, deadline=None)
def test_noise_is_read_alike_however_it_is_cut(name: str, parts: list[str], seed: int) -> None:
    text = "".join(parts)
    assert read(name, cut(text, seed)) == read(name, [text])


@pytest.mark.parametrize("name", ["hermes", "llama3_json", "mistral"])
@given(text=st.text())
@settings(max_examples=60, deadline=None)
def test_text_without_calls_is_content_to_the_letter(name: str, text: str) -> None:
    result = read(name, [text])
    assert (result.content, result.calls) == (text, [])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", "<tool_call>\nnot JSON\n</tool_call>"),
        ("hermes", '<tool_call>{"name": "f", "arguments": [1]}</tool_call>'),
        ("hermes", '<tool_call>{"name": 5, "arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "", "arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "f", "name": "f", "arguments": {}}</tool_call>'),
        ("hermes", "a </tool_call> b"),
        ("hermes", "<tool_call>"),
        ("llama3_json", '{"name": "unknown", "parameters": {}}'),
        ("llama3_json", '{"name": "f"}'),
        ("llama3_json", '{"name": "f", "age": 3, "parameters": {}}'),
        ("llama3_json", '{"answer": 42}'),
        ("llama3_json", 'Call {"name": "f", "parameters": {}}'),
        ("llama3_json", '<|python_tag|>print("hi")'),
        ("mistral", "[TOOL_CALLS]"),
        ("mistral", "[TOOL_CALLS][]"),
        ("mistral", "[TOOL_CALLS][1]"),
        ("mistral", "[TOOL_CALLS]I will call it!"),
        ("mistral", "[ARGS]{}"),
    ],
)
def test_what_is_no_call_is_content(name: str, text: str) -> None:
    result = read(name, [text])
    assert (result.content, result.calls, result.complete) == (text, [], False)


def test_a_call_that_goes_wrong_keeps_what_was_right() -> None:
    """Its beginning was passed on when it was certain; what follows the mistake is content."""
    result = read("hermes", ['<tool_call>{"name": "f", "arguments": {"a": 1, b}}</tool_call>'])
    assert result.calls == [["f", '{"a": 1, ']]
    assert result.content == "b}}</tool_call>"
    assert not result.complete


def test_habits_of_models() -> None:
    for text in (
        '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>',
        '<tool_call>{"name": "f", "parameters": {"a": 1}}<tool_call>{"name": "f", "arguments": {"a": 1}}',
        '<tool_call>\n{"name": "f", "arguments": {"a": 1}\n</tool_call>',  # a brace is missing
    ):
        assert ("f", {"a": 1}) in read("hermes", [text]).parsed(), text
        assert read("hermes", [text]).complete
    assert read("hermes", ['<tool_call>{"name": "f"}</tool_call>']).parsed() == [("f", {})]
    assert read("hermes", ['<tool_call>{"name": "f", "arguments": null}</tool_call>']).parsed() == [("f", {})]
    lines = read("hermes", ['<tool_call>{"name": "f", "arguments": {"a": "1\n\x012"}}</tool_call>'])
    assert lines.parsed() == [("f", {"a": "1\n\x012"})]
    old = '[TOOL_CALLS] [{"name": "f", "arguments": {}, "id": "q7Hd0fW2x"}]'
    assert read("mistral", [old]).parsed() == [("f", {})]
    assert read("mistral", ['[TOOL_CALLS]f[CALL_ID]q7Hd0fW2x[ARGS]{"a": 1}']).parsed() == [("f", {"a": 1})]
    assert read("mistral", ['[TOOL_CALLS]f{"a": 1}']).parsed() == [("f", {"a": 1})]
    typed = '{"type": "function", "name": "f", "parameters": {}}'
    assert read("llama3_json", [typed]).parsed() == [("f", {})]


def test_harmony_messages() -> None:
    text = (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>Looking.<|end|>"
        '<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{"a": 1}<|call|>'
        "<|start|>assistant<|channel|>final<|message|>Done.<|return|>"
    )
    result = read("harmony", [text])
    assert (result.reasoning, result.content) == (
        "Hm.",
        "Looking.\nDone.",
    ) or result.content == "Looking.Done."
    assert result.parsed() == [("f", {"a": 1})]
    assert read("harmony", [text], separate_reasoning=False).reasoning == ""
    assert read("harmony", ["It"], continues=True).content == "It"
    assert read("harmony", ["no marks at all"]).content == "no marks at all"
    assert read("harmony", [" to=functions.f<|channel|>commentary<|message|><|call|>"]).parsed() == [
        ("f", {})
    ]
    unoffered = " to=functions.f<|channel|>commentary<|message|>{}<|call|>"
    assert read("harmony", [unoffered], functions=()).content == "{}"


@pytest.mark.parametrize("style", WRITERS)
def test_at_most_one_call(style: str) -> None:
    name, write = WRITERS[style]
    result = read(name, [write([WEATHER, ("f", {"a": 1})], "")], max_calls=1)
    assert result.parsed() == [WEATHER]
    assert result.complete
    assert result.content == ""


@pytest.mark.parametrize("style", WRITERS)
def test_marks_that_are_special_tokens_count_only_as_such(style: str) -> None:
    name, write = WRITERS[style]
    special = frozenset(TOOL_PARSERS[name].marks)
    text = write([WEATHER], "Hi")
    assert read(name, [text], special_tokens=special).calls == []
    pieces: list[str | Special] = [text]
    for mark in sorted(special, key=len, reverse=True):
        split: list[str | Special] = []
        for piece in pieces:
            # The first `</tool_call>` is a quotation within the arguments.
            texts = piece.split(mark) if isinstance(piece, str) else [piece]
            for place, part in enumerate(texts):
                split += [Special(mark), part] if place else [part]
        pieces = split
    if name != "hermes":
        assert read(name, pieces, special_tokens=special).parsed() == [WEATHER]


def test_other_special_tokens_are_text_only_if_asked_for() -> None:
    pieces = ["a", Special("<|eot|>"), "b"]
    assert read("hermes", pieces).content == "ab"
    assert read("hermes", pieces, show_special_tokens=True).content == "a<|eot|>b"


def test_ids_fit_the_models_templates() -> None:
    assert TOOL_PARSERS["mistral"].new_call_id().isalnum()
    assert len(TOOL_PARSERS["mistral"].new_call_id()) == 9
    assert TOOL_PARSERS["hermes"].new_call_id().startswith("call_")


@given(value=objects, ascii_only=st.booleans(), indent=st.sampled_from([None, 1]))
@settings(max_examples=100, deadline=None)
def test_the_scanner_takes_all_json(value: dict[str, Any], ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    scanner = JsonScanner()
    assert "".join(map(scanner.push, text)) == text
    assert scanner.finished


@given(st.lists(st.sampled_from(list('{}[]:,"\\ue+-.019tfn a')), max_size=12).map("".join))
@settings(max_examples=300, deadline=None)
def test_the_scanner_takes_only_json(tail: str) -> None:
    text = '{"a":' + tail
    scanner = JsonScanner()
    try:
        shown = "".join(map(scanner.push, text))
    except JsonError:
        with pytest.raises(json.JSONDecodeError):
            json.loads(text)
    else:
        if scanner.finished:
            json.loads(shown)


@pytest.mark.parametrize("text", ["01", "1.", "-", "1e", ".5", "+1", "NaN", "Infinity", "tru", "'a'", "1 2"])
def test_the_scanner_refuses(text: str) -> None:
    with pytest.raises(JsonError):
        list(map(JsonScanner().push, f'{{"a": {text}}}'))
