"""LiteLLM, which speaks to a server as to OpenAI's, vLLM, Anthropic's or Ollama."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any, Literal

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch prices at once

import litellm
from pydantic import BaseModel, Field
from runner import Servers, main

HELLO: Any = [{"role": "user", "content": "Hello!"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Rain or shine",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
        },
    },
}


class Person(BaseModel):
    name: str = Field(max_length=8)
    kind: Literal["tall", "small"]


def openai(servers: Servers, url: str | None = None, provider: str = "openai") -> dict[str, Any]:
    return {
        "model": f"{provider}/quire",
        "api_base": f"{url or servers.embedded}/v1",
        "api_key": servers.key,
        "temperature": 0,
    }


def joined(chunks: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def check_chat(servers: Servers) -> None:
    for provider in ("openai", "hosted_vllm"):
        arguments = openai(servers, provider=provider) | {"messages": HELLO, "max_tokens": 24}
        whole = litellm.completion(**arguments)
        text = whole.choices[0].message.content
        assert text
        assert whole.usage.completion_tokens > 0
        stream = litellm.completion(**arguments, stream=True, stream_options={"include_usage": True})
        chunks = list(stream)
        assert joined(chunks) == text
        assert litellm.stream_chunk_builder(chunks, messages=HELLO).choices[0].message.content == text
        several = litellm.completion(**arguments | {"n": 2, "seed": 1, "temperature": 1}, logprobs=True)
        assert len(several.choices) == 2
        assert several.choices[0].logprobs.content


def check_asynchronous(servers: Servers) -> None:
    async def both() -> None:
        arguments = openai(servers) | {"messages": HELLO, "max_tokens": 24}
        whole = await litellm.acompletion(**arguments)
        stream = await litellm.acompletion(**arguments, stream=True)
        assert joined([chunk async for chunk in stream]) == whole.choices[0].message.content

    asyncio.run(both())


def check_forms(servers: Servers) -> None:
    answer = litellm.completion(**openai(servers), messages=HELLO, response_format=Person)
    Person.model_validate_json(answer.choices[0].message.content)


def check_thoughts_and_calls(servers: Servers) -> None:
    arguments = openai(servers, servers.thinker) | {"messages": HELLO, "tools": [WEATHER]}
    whole = litellm.completion(**arguments)
    built = litellm.stream_chunk_builder(list(litellm.completion(**arguments, stream=True)))
    for choice in (whole.choices[0], built.choices[0]):
        (call,) = choice.message.tool_calls
        assert json.loads(call.function.arguments) == {"city": "Bonn }"}, call
        assert choice.message.content == "One moment."
        assert choice.message.reasoning_content == "I need the weather."
        assert choice.finish_reason == "tool_calls"
    result = {"role": "tool", "tool_call_id": call.id, "content": "Rain."}
    messages = [*HELLO, whole.choices[0].message, result]
    assert litellm.completion(**arguments | {"messages": messages}).choices
    named = {"type": "function", "function": {"name": "get_weather"}}
    for choice in ("required", named):
        demanded = litellm.completion(**arguments, tool_choice=choice).choices[0].message
        assert json.loads(demanded.tool_calls[0].function.arguments)


def check_other_routes(servers: Servers) -> None:
    arguments = openai(servers)
    text = litellm.text_completion(
        **arguments | {"model": "text-completion-openai/quire"}, prompt="Once", max_tokens=5
    )
    assert text.choices[0].text
    del arguments["temperature"]
    vectors = litellm.embedding(**arguments, input=["a", "b"], encoding_format="float")
    assert len(vectors.data) == 2
    response = litellm.responses(**arguments, input="Hello!", max_output_tokens=8)
    assert response.output[0].content[0].text


def check_other_dialects(servers: Servers) -> None:
    base = {"messages": HELLO, "max_tokens": 12, "api_key": servers.key}
    anthropic = base | {"model": "anthropic/quire", "api_base": servers.embedded}
    text = litellm.completion(**anthropic, temperature=0).choices[0].message.content
    assert text
    assert joined(litellm.completion(**anthropic, temperature=0, stream=True)) == text
    ollama = base | {"model": "ollama_chat/quire", "api_base": servers.embedded}
    text = litellm.completion(**ollama, temperature=0).choices[0].message.content
    assert text
    assert joined(litellm.completion(**ollama, temperature=0, stream=True)) == text


def check_errors(servers: Servers) -> None:
    for change, expected in (
        ({"temperature": 9}, litellm.BadRequestError),
        ({"model": "openai/other"}, litellm.NotFoundError),
        ({"api_key": "sk-wrong-0123456789"}, litellm.AuthenticationError),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, litellm.ContextWindowExceededError),
    ):
        try:
            litellm.completion(**openai(servers) | {"messages": HELLO, "num_retries": 0} | change)
        except expected:
            pass
        else:
            raise AssertionError(f"{change} raised nothing")


if __name__ == "__main__":
    main(__name__)
