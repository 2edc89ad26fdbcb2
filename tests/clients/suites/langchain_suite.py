"""LangChain's `langchain-openai`: chats, streams, tools, structured outputs by each method, embeddings."""

from __future__ import annotations

import asyncio
import os
from typing import Any

os.environ["LANGCHAIN_TRACING_V2"] = "false"

from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field
from runner import Servers, main


class get_weather(BaseModel):  # noqa: N801 (the thinking model calls it so)
    """Rain or shine."""

    city: str = Field(max_length=20)


@tool("get_weather")
def weather(city: str) -> str:
    """Rain or shine."""
    return f"Rain in {city}."


def chat(servers: Servers, url: str | None = None, **extra: Any) -> ChatOpenAI:
    settings = {"model": "quire", "temperature": 0, "max_retries": 0} | extra
    return ChatOpenAI(base_url=f"{url or servers.embedded}/v1", api_key=servers.key, **settings)


def check_chat(servers: Servers) -> None:
    model = chat(servers, max_completion_tokens=24, stream_usage=True)
    messages = [SystemMessage("Be brief."), HumanMessage("Hello!")]
    whole = model.invoke(messages)
    assert whole.content
    chunks = list(model.stream(messages))
    assert "".join(chunk.content for chunk in chunks) == whole.content
    usages = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    assert usages[-1]["output_tokens"] == whole.usage_metadata["output_tokens"]
    assert [each.content for each in model.batch([messages, messages])] == [whole.content] * 2
    drawn = chat(servers, logprobs=True, top_logprobs=2, max_completion_tokens=4).invoke("Hello!")
    assert len(drawn.response_metadata["logprobs"]["content"]) == 4


def check_asynchronous(servers: Servers) -> None:
    async def both() -> None:
        model = chat(servers, max_completion_tokens=24)
        whole = await model.ainvoke("Hello!")
        assert "".join([chunk.content async for chunk in model.astream("Hello!")]) == whole.content

    asyncio.run(both())


def check_structured_outputs(servers: Servers) -> None:
    """By each method, on a model that thinks and on one that does not and, for tools, has no format."""
    for url, methods in (
        (servers.embedded, ("json_schema",)),
        (servers.thinker, ("json_schema", "function_calling")),
        (servers.rambler, ("json_schema", "function_calling")),
    ):
        for method in methods:
            model = chat(servers, url).with_structured_output(get_weather, method=method)
            assert isinstance(model.invoke("The weather in Bonn?"), get_weather), (url, method)
            raw = chat(servers, url).with_structured_output(get_weather, method=method, include_raw=True)
            answer = raw.invoke("The weather in Bonn?")
            assert answer["parsing_error"] is None, answer
            *_, last = model.stream("The weather in Bonn?")
            assert isinstance(last, get_weather)
    for strict in (True, False, None):
        for method in ("json_schema", "function_calling"):
            model = chat(servers, servers.thinker).with_structured_output(
                get_weather, method=method, strict=strict
            )
            assert isinstance(model.invoke("The weather in Bonn?"), get_weather), (method, strict)


def check_tools(servers: Servers) -> None:
    model = chat(servers, servers.thinker)
    for strict in (None, True):
        bound = model.bind_tools([weather], strict=strict)
        question = HumanMessage("The weather in Bonn?")
        whole = bound.invoke([question])
        (call,) = whole.tool_calls
        assert call["args"] == {"city": "Bonn }"}
        total = None
        for chunk in bound.stream([question]):
            total = chunk if total is None else total + chunk
        assert total.tool_calls[0]["args"] == call["args"]
        result = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
        assert bound.invoke([question, whole, result])
    for choice in ("any", "get_weather"):
        assert model.bind_tools([weather], tool_choice=choice).invoke("The weather?").tool_calls


def check_responses_api(servers: Servers) -> None:
    model = chat(servers, use_responses_api=True, max_completion_tokens=24)
    whole = model.invoke("Hello!")
    assert whole.text
    assert "".join(chunk.text for chunk in model.stream("Hello!")) == whole.text
    structured = chat(servers, use_responses_api=True).with_structured_output(
        get_weather, method="json_schema"
    )
    assert isinstance(structured.invoke("Hello!"), get_weather)


def check_other_routes(servers: Servers) -> None:
    common: Any = {"model": "quire", "base_url": f"{servers.embedded}/v1", "api_key": servers.key}
    llm = OpenAI(**common, temperature=0, max_tokens=8)
    assert "".join(llm.stream("Once upon a time")) == llm.invoke("Once upon a time")
    embeddings = OpenAIEmbeddings(**common, check_embedding_ctx_length=False)  # it would fetch a tokenizer
    vectors = embeddings.embed_documents(["a", "b"])
    assert len(vectors) == 2
    assert len(vectors[0]) == len(embeddings.embed_query("c"))


if __name__ == "__main__":
    main(__name__)
