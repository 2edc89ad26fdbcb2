"""Real chat templates: a conversation as clients send it becomes the prompt that transformers makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from quire.models.chat_template import ChatTemplate
from quire.models.template_style import TemplateStyle, find_style
from quire.server.answers import find_format
from quire.server.openai.message_protocol import Message
from quire.server.openai.messages import plain_messages, template_messages
from quire.server.reasoning_parsers.think import ThinkParser
from quire.server.settings import ServerSettings
from quire.server.tool_parsers import TOOL_PARSERS

from .fake_engine import byte_tokenizer

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
ID = "abcdefgh1"
ARGUMENTS = {"city": 'Bonn "am" Rhein', "days": 2}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Rain or shine",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Where"},
                    "days": {"type": "integer", "description": "How many"},
                },
                "required": ["city"],
            },
        },
    }
]
CONVERSATION: list[dict[str, Any]] = [
    {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
    {"role": "user", "content": "The weather in Bonn?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": ID,
                "type": "function",
                "function": {"name": "get_weather", "arguments": json.dumps(ARGUMENTS)},
            }
        ],
    },
    {"role": "tool", "tool_call_id": ID, "content": "Rain."},
    {"role": "assistant", "content": "Take an umbrella."},
    {"role": "user", "content": "And tomorrow?"},
]
STYLES = {
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": TemplateStyle(True),
    "Qwen-Qwen2.5-7B-Instruct": TemplateStyle(True),
    "Qwen-Qwen3-0.6B": TemplateStyle(True, reasoning_keys=("reasoning_content",)),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": TemplateStyle(True, True, None),
    "google-gemma-2-2b-it": TemplateStyle(False),
    "meta-llama-Llama-3.1-8B-Instruct": TemplateStyle(True),
    "meta-llama-Llama-3.2-3B-Instruct": TemplateStyle(True),
    "microsoft-Phi-3.5-mini-instruct": TemplateStyle(False),
    "mistralai-Mistral-Nemo-Instruct-2407": TemplateStyle(True),
    "openai-gpt-oss-120b": TemplateStyle(True, reasoning_keys=("thinking",), is_harmony=True),
}
PARSERS = {
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": ("hermes", None),
    "Qwen-Qwen2.5-7B-Instruct": ("hermes", None),
    "Qwen-Qwen3-0.6B": ("hermes", ThinkParser),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": (None, ThinkParser),
    "google-gemma-2-2b-it": (None, None),
    "meta-llama-Llama-3.1-8B-Instruct": ("llama3_json", None),
    "meta-llama-Llama-3.2-3B-Instruct": ("llama3_json", None),
    "microsoft-Phi-3.5-mini-instruct": (None, None),
    "mistralai-Mistral-Nemo-Instruct-2407": ("mistral", None),
    "openai-gpt-oss-120b": ("harmony", None),
}


def load(shared_data: Path, name: str) -> ChatTemplate:
    file = shared_data / "templates" / f"{name}.jinja"
    if not file.exists():
        pytest.skip(f"{name} is not among the shared templates")
    return ChatTemplate({"default": file.read_text()}, SPECIAL)


def as_transformers_has_it(style: TemplateStyle) -> list[dict[str, Any]]:
    """The conversation as one would write it by hand for `apply_chat_template`."""
    arguments = json.dumps(ARGUMENTS) if style.arguments_are_text else ARGUMENTS
    call = {"id": ID, "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    return [
        {"role": "system", "content": "Be brief."},
        CONVERSATION[1],
        {"role": "assistant", "content": style.no_content, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": ID, "name": "get_weather", "content": "Rain."},
        *CONVERSATION[4:],
    ]


@pytest.mark.parametrize("with_tools", [True, False])
@pytest.mark.parametrize("name", [name for name, style in STYLES.items() if style.shows_calls])
def test_conversations_with_calls(name: str, with_tools: bool, shared_data: Path) -> None:
    template = load(shared_data, name)
    if "tool_use" in name and not with_tools:
        return  # it needs tools
    style = find_style(template, with_tools=with_tools)
    assert style == STYLES[name]
    tools = TOOLS if with_tools else None
    messages = template_messages(
        plain_messages(msgspec.convert(CONVERSATION, list[Message])), style, ServerSettings()
    )
    (expected,), _ = render_jinja_template(
        [as_transformers_has_it(style)],
        chat_template=template.sources["default"],
        tools=tools,
        add_generation_prompt=True,
        **SPECIAL,
    )
    assert template.render(messages, tools=tools) == expected
    assert "Rain." in expected
    assert "get_weather" in expected
    assert "'city'" not in expected
    assert '\\"city' not in expected


@pytest.mark.parametrize("name", STYLES)
def test_what_templates_show(name: str, shared_data: Path) -> None:
    template = load(shared_data, name)
    assert find_style(template, with_tools="tool_use" in name) == STYLES[name]
    tools, reasoning = PARSERS[name]
    found = find_format(ServerSettings(), template.sources, byte_tokenizer())
    assert found.tools is (TOOL_PARSERS[tools] if tools else None)
    assert found.reasoning is reasoning
    assert ("tools" in template.variables()) == (tools is not None)


def test_thoughts_reach_the_templates_that_show_them(shared_data: Path) -> None:
    turn = CONVERSATION[2] | {"content": "One moment.", "reasoning": "Look it up."}
    conversation = msgspec.convert([CONVERSATION[1], turn, CONVERSATION[3]], list[Message])
    for name in ("Qwen-Qwen3-0.6B", "openai-gpt-oss-120b"):
        template = load(shared_data, name)
        style = find_style(template, with_tools=True)
        text = template.render(
            template_messages(plain_messages(conversation), style, ServerSettings()), tools=TOOLS
        )
        assert "Look it up." in text, name
        assert "One moment." in text, name


def test_a_prompt_that_opens_the_reasoning_is_noticed(shared_data: Path) -> None:
    template = load(shared_data, "deepseek-ai-DeepSeek-R1-Distill-Llama-8B")
    assert ThinkParser.state_after(template.render([CONVERSATION[1]]), None) == "open"
    template = load(shared_data, "Qwen-Qwen3-0.6B")
    assert ThinkParser.state_after(template.render([CONVERSATION[1]]), None) == "possible"
    prompt = template.render([CONVERSATION[1]], enable_thinking=False)
    assert ThinkParser.state_after(prompt, None) == "over"
