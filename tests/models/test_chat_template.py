"""Chat templates: what transformers renders, quire renders; what a template must not do, it cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from quire.errors import InvalidRequest, ModelError, UntrustedModel
from quire.models.chat_template import ChatTemplate

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather <today> & tomorrow – 'here'",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Where"},
                    "days": {"type": "integer", "description": "How many", "enum": [1, 2]},
                },
                "required": ["city"],
            },
        },
    }
]
CALL = {
    "id": "abcdefghi",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"city": "Bonn"}},
}

CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]] | None]] = {
    "one turn": ([{"role": "user", "content": "Hello!\n  <b>&amp;</b> 'you' "}], None),
    "system": (
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"}],
        None,
    ),
    "many turns": (
        [
            {"role": "user", "content": "1+1?"},
            {"role": "assistant", "content": "<think>easy</think>\n\n2"},
            {"role": "user", "content": "你好 🦙"},
        ],
        None,
    ),
    "wrong order": ([{"role": "assistant", "content": "Hi"}, {"role": "assistant", "content": "Hi"}], None),
    "tools offered": ([{"role": "user", "content": "The weather in Bonn?"}], TOOLS),
    "tools used": (
        [
            {"role": "user", "content": "The weather in Bonn?"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "abcdefghi", "name": "get_weather", "content": "Rain."},
        ],
        TOOLS,
    ),
}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


def template(source: str) -> ChatTemplate:
    return ChatTemplate({"default": source}, SPECIAL)


@pytest.mark.parametrize("prompted", [True, False])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_real_templates_render_as_in_transformers(name: str, prompted: bool, shared_data: Path) -> None:
    messages, tools = CONVERSATIONS[name]
    files = sorted((shared_data / "templates").glob("*.jinja"))
    assert len(files) == 10
    num_rendered = 0
    for file in files:
        source = file.read_text()
        options: dict[str, Any] = {"tools": tools, "add_generation_prompt": prompted}
        try:
            (expected,), _ = render_jinja_template([messages], chat_template=source, **options, **SPECIAL)
        except (TemplateError, TypeError):
            with pytest.raises(InvalidRequest, match="chat template"):
                template(source).render(messages, **options)
        else:
            assert template(source).render(messages, **options) == expected, file.name
            num_rendered += 1
    assert num_rendered >= 3


def test_folders(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "hi"}]
    assert ChatTemplate.from_folder(tiny_model()).render(chat) == "<|user|>hi<|end|><|assistant|>"
    settings = {"bos_token": {"content": "<s>"}, "chat_template": "{{ bos_token }}{{ messages[0].content }}"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert ChatTemplate.from_folder(tmp_path).render(chat) == "<s>hi"
    (tmp_path / "chat_template.jinja").write_text("the file{{ messages | length }}")
    assert ChatTemplate.from_folder(tmp_path).render(chat) == "the file1"


def test_named_templates(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "with tools"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    loaded = ChatTemplate.from_folder(tmp_path)
    assert (loaded.render([]), loaded.render([], tools=TOOLS)) == ("plain", "with tools")


def test_no_template(tmp_path: Path) -> None:
    loaded = ChatTemplate.from_folder(tmp_path)
    assert not loaded
    with pytest.raises(InvalidRequest, match="no chat template"):
        loaded.render([{"role": "user", "content": "hi"}])


@pytest.mark.parametrize("value", [3, ["plain"], [{"name": "default"}], "{% if %}", "{{" * 10])
def test_malformed_templates(value: object, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
    with pytest.raises(ModelError):
        ChatTemplate.from_folder(tmp_path)


def test_helpers() -> None:
    source = (
        "{% for m in messages %}{% if m.content == 'skip' %}{% continue %}{% endif %}"
        "{% generation %}{{ m.content | tojson }}{% endgeneration %}{% endfor %}"
        "{% set ns = namespace(n=1) %}{% set ns.n = 2 %}{{ ns.n }} {{ strftime_now('%Y') | length }}"
    )
    messages = [{"role": "user", "content": text} for text in ("<é>", "skip", "b")]
    assert template(source).render(messages) == '"<é>""b"2 4'


def test_a_refusal_of_the_template_is_the_clients_error() -> None:
    with pytest.raises(InvalidRequest, match="roles must alternate"):
        template("{{ raise_exception('roles must alternate') }}").render([])


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[7].content.text }}",
        "{{ 'a' + 1 }}",
        "{{ 1 // 0 }}",
        "{{ 'a'.join(5) }}",
        "{{ nothing() }}",
    ],
)
def test_a_template_that_fails_is_an_invalid_request(source: str) -> None:
    with pytest.raises(InvalidRequest, match="chat template"):
        template(source).render([])


def test_variables_are_known_or_refused() -> None:
    thinking = template("{{ 'thinks' if enable_thinking else 'does not' }}")
    assert thinking.render([], enable_thinking=True) == "thinks"
    assert thinking.render([]) == "does not"
    for name in ("tokenize", "messages_", "bos_token", "enable_think"):
        with pytest.raises(InvalidRequest, match=name):
            thinking.render([], **{name: 1})


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__['json'] }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ '{0.__class__}'.format(messages) }}",
        "{{ ('{0.__class__}' | format)(1) }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({}) }}",
        "{{ [].extend([1]) }}",
        "{% set ns = namespace(__class__=1) %}",
        "{% set ns = namespace() %}{{ ns.__setitem__('__init__', 1) }}",
        "{{ (messages | attr('__class__')).mro() }}",
        "{{ range(1000000000) | length }}",
        "{% include 'passwd' %}",
        "{% import 'os' as os %}",
    ],
)
def test_attempts_to_escape(source: str) -> None:
    with pytest.raises((UntrustedModel, InvalidRequest)):
        template(source).render([{"role": "user", "content": "hi"}])


class Rich:
    def __repr__(self) -> str:
        raise AssertionError("touched")


def test_templates_see_plain_values_only() -> None:
    with pytest.raises(InvalidRequest, match="Rich is no JSON value"):
        template("{{ messages }}").render([{"role": "user", "content": Rich()}])
