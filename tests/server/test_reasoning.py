"""Reasoning kept apart from content, however the model marks it and the text is cut."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.engine.outputs import CompletionOutput
from quire.server.answers import AnswerFormat, ModelFormat, find_format
from quire.server.reasoning_parsers.think import ThinkParser
from quire.server.settings import ServerSettings
from quire.server.tool_parsers import TOOL_PARSERS
from quire.server.tool_parsers.base import Content, Reasoning, Special

from .conftest import events, serve_in_process
from .fake_engine import FakeEngine, byte_tokenizer

HI = [{"role": "user", "content": "hi"}]
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content.split('</think>')[-1] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% elif opened %}<think>\n{% endif %}{% endif %}"
)
HARMONY = (
    "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}<|channel|>"
)
HARMONY_TOKENS = (
    "<|start|>",
    "<|channel|>",
    "<|message|>",
    "<|end|>",
    "<|constrain|>",
    "<|call|>",
    "<|return|>",
)
HARMONY_ANSWER = (
    "<|channel|>analysis<|message|>Say <channel>.<|end|>"
    "<|start|>assistant<|channel|>final<|message|>Hello 🌍!<|end|>"
)


def split(text: str, *, is_open: bool = False, seed: int | None = None) -> tuple[str, str]:
    """Reasoning and the rest, of a text cut at random or not at all."""
    rng, pieces = random.Random(seed), [text]
    if seed is not None:
        cuts = sorted(rng.choices(range(len(text) + 1), k=rng.randint(0, 20)))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    parser = ThinkParser((), show_special_tokens=False, is_open=is_open)
    items = [item for piece in pieces for item in parser.push(piece)] + parser.finish()
    reasoning = "".join(item.text for item in items if isinstance(item, Reasoning))
    return reasoning, "".join(item for item in items if isinstance(item, str))


@pytest.mark.parametrize(
    ("text", "is_open", "expected"),
    [
        ("<think>\na b\n</think>\n\nHello\n", False, ("a b", "Hello\n")),
        ("\n<think>a</think>b<think>c</think>", False, ("a", "b<think>c</think>")),
        ("a\n</think>\nb", True, ("a", "b")),
        ("Hello <think>a</think>", False, ("", "Hello <think>a</think>")),
        (" Hello", False, ("", " Hello")),
        ("<think>a\n\nb", False, ("a\n\nb", "")),
        ("<think>a</thin", False, ("a</thin", "")),
        ("<think></think>b", False, ("", "b")),
        ("<thi", False, ("", "<thi")),
        ("\n\n", False, ("", "\n\n")),
        ("", True, ("", "")),
    ],
)
def test_think(text: str, is_open: bool, expected: tuple[str, str]) -> None:
    assert split(text, is_open=is_open) == expected


@given(
    parts=st.lists(
        st.sampled_from(["<think>", "</think>", "\n", " ", "<", "/think>", "a"]) | st.text(max_size=3)
    ),
    is_open=st.booleans(),
    seed=st.integers(),
)
@settings(max_examples=300, deadline=None)
def test_cuts_change_nothing(parts: list[str], is_open: bool, seed: int) -> None:
    text = "".join(parts)
    assert split(text, is_open=is_open, seed=seed) == split(text, is_open=is_open)


def test_a_tag_that_is_a_special_token_counts_only_as_such() -> None:
    parser = ThinkParser(("<think>", "</think>"), show_special_tokens=False, is_open=False)
    pieces = [Special("<think>"), "a </think> b", Special("</think>"), "c"]
    items = [item for piece in pieces for item in parser.push(piece)] + parser.finish()
    assert items == [Reasoning("a </think> b"), "c"]


async def answer(engine: FakeEngine, **body: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The message and the usage of an answer, which its stream must agree with."""
    async with serve_in_process(engine) as served:
        whole = (await served.chat(messages=HI, **body)).json()
        options = {"include_usage": True}
        *chunks, last, _ = events(
            (await served.chat(messages=HI, **body, stream=True, stream_options=options)).text
        )
    message = whole["choices"][0]["message"]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    for name in ("content", "reasoning", "reasoning_content"):
        assert "".join(delta.get(name, "") for delta in deltas) == (message.get(name) or "")
    assert last["usage"] == whole["usage"]
    return message, whole["usage"]


def thinking(said: str, special_tokens: tuple[str, ...] = ()) -> FakeEngine:
    return FakeEngine(template=TEMPLATE, script=[said], special_tokens=special_tokens)


async def test_answers_think() -> None:
    for special_tokens in ((), ("<think>", "</think>")):
        engine = thinking("<think>\nÄh.\n</think>\n\nHello!", special_tokens)
        message, usage = await answer(engine)
        assert message["content"] == "Hello!"
        assert message["reasoning"] == message["reasoning_content"] == "Äh."
        # Of the first tag the last token counts: until then it is none.
        num_tokens = len("\nÄh.\n".encode()) + (2 if special_tokens else 1 + len("</think>"))
        assert usage["completion_tokens_details"]["reasoning_tokens"] == num_tokens


async def test_the_prompt_may_open_the_reasoning_or_close_it() -> None:
    said = "Hm.</think>Hello!"
    message, _ = await answer(thinking(said), chat_template_kwargs={"opened": True})
    assert (message["reasoning"], message["content"]) == ("Hm.", "Hello!")
    for variables in ({}, {"enable_thinking": False}):
        message, usage = await answer(thinking(said), chat_template_kwargs=variables)
        assert message["content"] == said
        assert "reasoning" not in message
        assert usage["completion_tokens_details"]["reasoning_tokens"] == 0


async def test_a_message_that_is_continued_may_be_thinking() -> None:
    for begun, expected in (("<think>I", ("see", "Hi")), ("<think>I</think>I", (None, "see</think>Hi"))):
        engine = FakeEngine(
            template="{% for m in messages %}{{ m.content }}{% endfor %}{# </think> #}",
            script=["see</think>Hi"],
        )
        async with serve_in_process(engine) as served:
            messages = [*HI, {"role": "assistant", "content": begun}]
            body = {"messages": messages, "continue_final_message": True}
            message = (await served.chat(**body)).json()["choices"][0]["message"]
        assert (message.get("reasoning"), message["content"]) == expected


async def test_reasoning_that_breaks_off() -> None:
    message, usage = await answer(thinking("<think>Long thoughts"), max_tokens=12)
    assert message["content"] is None
    assert message["reasoning"] == "Long"
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 12 - len("<think")


async def test_a_form_is_for_the_answer_and_not_for_the_thoughts() -> None:
    form = {"response_format": {"type": "json_object"}}
    for special_tokens in ((), ("<think>", "</think>")):
        engine = thinking('<think>Hm {</think>{"a": 1}', special_tokens)
        message, _ = await answer(engine, **form)
        assert (message["reasoning"], message["content"]) == ("Hm {", '{"a": 1}')
        (constraint,) = {params.structured_outputs for _, params, _, _ in engine.seen}
        assert constraint.json_object is True
        assert constraint.frame.startswith("start: reasoning formed\nreasoning: (")
    engine = thinking('Hm {</think>{"a": 1}')
    message, _ = await answer(engine, **form, chat_template_kwargs={"opened": True})
    assert (message["reasoning"], message["content"]) == ("Hm {", '{"a": 1}')
    assert "reasoning: thought" in engine.seen[0][1].structured_outputs.frame
    engine = thinking('{"a": 1}')
    await answer(engine, **form, chat_template_kwargs={"enable_thinking": False})
    assert engine.seen[0][1].structured_outputs.frame is None


async def test_a_budget_for_the_thoughts() -> None:
    engine = thinking("<think>Hm.</think>Hello!")
    message, _ = await answer(engine, thinking_token_budget=50)
    assert (message["reasoning"], message["content"]) == ("Hm.", "Hello!")
    assert "max_tokens=50" in engine.seen[0][1].structured_outputs.grammar
    await answer(engine, thinking_token_budget=50, response_format={"type": "json_object"})
    assert "max_tokens=50" in engine.seen[-1][1].structured_outputs.frame
    await answer(engine, thinking_token_budget=10**6, chat_template_kwargs={"enable_thinking": False})
    assert engine.seen[-1][1].structured_outputs is None
    for served_engine, body in (
        (engine, {"thinking_token_budget": 0}),
        (FakeEngine(), {"thinking_token_budget": 5}),
    ):
        async with serve_in_process(served_engine) as served:
            error = (await served.chat(messages=HI, **body)).json()["error"]
            assert error["param"] == "thinking_token_budget"


async def test_a_form_in_harmony() -> None:
    """The form stands in the final channel, and alone where thoughts are content."""
    form = {"response_format": {"type": "json_object"}}
    said = '<|channel|>analysis<|message|>Hm {<|end|><|start|>assistant<|channel|>final<|message|>{"a": 1}'
    for special_tokens in (HARMONY_TOKENS, ()):
        engine = FakeEngine(template=HARMONY, special_tokens=special_tokens, script=[said])
        message, _ = await answer(engine, **form)
        assert (message["reasoning"], message["content"]) == ("Hm {", '{"a": 1}')
        assert engine.seen[0][1].structured_outputs.frame.startswith("start: formed\nformed: thoughts? ")
    engine = FakeEngine(template=HARMONY, script=['{"a": 1}'])
    settings = ServerSettings(reasoning_parser="none")
    async with serve_in_process(engine, settings) as served:
        choice = (await served.chat(messages=HI, **form)).json()["choices"][0]
    assert choice["message"]["content"] == '{"a": 1}'
    assert engine.seen[0][1].structured_outputs.frame is None


async def test_stop_strings_within_and_behind_reasoning() -> None:
    said = "<think>a b c</think>d b e"
    message, usage = await answer(thinking(said), stop="b")
    assert (message["reasoning"], message["content"]) == ("a", None)
    assert usage["completion_tokens_details"]["reasoning_tokens"] == len(">a b")
    message, usage = await answer(thinking(said), stop="e")
    assert (message["reasoning"], message["content"]) == ("a b c", "d b ")
    assert usage["completion_tokens_details"]["reasoning_tokens"] == len(">a b c</think>")


async def test_answers_with_thoughts_can_be_sent_back() -> None:
    async with serve_in_process(thinking("<think>a</think>b")) as served:
        message = (await served.chat(messages=HI)).json()["choices"][0]["message"]
        for turn in (message, message | {"content": None}, {"role": "assistant", "reasoning": "a"}):
            assert (await served.chat(messages=[*HI, turn, *HI])).status_code == 200, turn


async def test_harmony() -> None:
    for special_tokens in (HARMONY_TOKENS, ()):
        engine = FakeEngine(template=HARMONY, special_tokens=special_tokens, script=[HARMONY_ANSWER])
        message, usage = await answer(engine)
        assert message["content"] == "Hello 🌍!"
        assert message["reasoning"] == "Say <channel>."
        num_tokens = len("Say <channel>.") + 2 if special_tokens else len("Say <channel>.<|end|>") + 1
        assert usage["completion_tokens_details"]["reasoning_tokens"] == num_tokens


def test_the_parsers_of_a_model() -> None:
    tokenizer = byte_tokenizer()

    def found(source: str, tool_call_parser: str = "auto", reasoning_parser: str = "auto") -> ModelFormat:
        parsers = ServerSettings(tool_call_parser=tool_call_parser, reasoning_parser=reasoning_parser)
        return find_format(parsers, {"default": source}, tokenizer)

    assert found("plain") == ModelFormat(None, None, True)
    assert found("<tool_call></think>") == ModelFormat(TOOL_PARSERS["hermes"], ThinkParser, True)
    assert found("<tool_call><function=f>").tools is None
    assert found("plain", "mistral", "think") == ModelFormat(TOOL_PARSERS["mistral"], ThinkParser, True)
    assert found("<tool_call></think>", "none", "none") == ModelFormat(None, None, False)
    assert found("plain", reasoning_parser="harmony") == ModelFormat(TOOL_PARSERS["harmony"], None, True)
    assert found("plain", "harmony", "none") == ModelFormat(TOOL_PARSERS["harmony"], None, False)
    in_vocabulary = byte_tokenizer(["[TOOL_CALLS]"])
    assert find_format(ServerSettings(), {"default": "x"}, in_vocabulary).tools is TOOL_PARSERS["mistral"]


@pytest.mark.parametrize(
    ("names", "named"),
    [
        ({"tool_call_parser": "no-such"}, "tool_call_parser"),
        ({"reasoning_parser": "hermes"}, "reasoning_parser"),
        ({"reasoning_parser": "harmony", "tool_call_parser": "hermes"}, "reasoning_parser"),
        ({"reasoning_parser": "think", "tool_call_parser": "harmony"}, "tool_call_parser"),
    ],
)
def test_settings_that_do_not_fit(names: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ServerSettings(**names)


@given(text=st.text(), cuts=st.lists(st.integers(1, 7)), stop=st.integers(0, 30))
@settings(max_examples=100, deadline=None)
def test_text_and_tokens_may_come_apart(text: str, cuts: list[int], stop: int) -> None:
    """Stop strings hold text back and cut it; what is left of it is read all the same."""
    tokenizer = byte_tokenizer(["<|a|>"])
    ids = tokenizer.encode(text + "<|a|>b", add_special_tokens=False)
    shown = tokenizer.decode(ids, skip_special_tokens=False)[: len(text) + stop]
    model = ModelFormat(TOOL_PARSERS["hermes"], None, True)
    reader = AnswerFormat(model=model, functions=["f"], show_special_tokens=True).reader(tokenizer, [])
    said = ""
    for size in cuts:
        part = CompletionOutput(0, "", ids[:size])
        ids = ids[size:]
        if size % 2:
            part.text, shown = shown[:size], shown[size:]
        said += "".join(event.text for event in reader.take(part) if isinstance(event, Content))
    last = CompletionOutput(0, shown, ids, finish_reason="stop")
    said += "".join(event.text for event in reader.take(last) if isinstance(event, Content))
    assert said == (text + "<|a|>b")[: len(text) + stop]
