"""A model made to think and to call a function, from its weights to the official client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import openai

from chain_models import PIECES, write_chain
from quire.engine.async_engine import AsyncEngine
from quire.engine.config import EngineConfig
from quire.server.app import create_app

TOOL = {"type": "function", "function": {"name": "get_weather"}}


async def test_a_model_that_thinks_and_calls(tmp_path: Path) -> None:
    write_chain(tmp_path)
    engine = await AsyncEngine.start(EngineConfig(model=str(tmp_path), device="cpu", num_blocks=128))
    try:
        transport = httpx.ASGITransport(create_app(engine))
        async with (
            httpx.AsyncClient(transport=transport) as http,
            openai.AsyncOpenAI(base_url="http://quire/v1", api_key="none", http_client=http) as client,
        ):
            arguments: Any = {
                "model": str(tmp_path),
                "messages": [{"role": "user", "content": "The weather in Bonn?"}],
                "tools": [TOOL],
                "temperature": 0,
            }
            arguments["model"] = (await client.models.list()).data[0].id
            whole = await client.chat.completions.create(**arguments)
            async with client.chat.completions.stream(
                **arguments, stream_options={"include_usage": True}
            ) as stream:
                streamed = await stream.get_final_completion()
    finally:
        await engine.shutdown()
    for answer in (whole, streamed):
        (choice,) = answer.choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content == "One moment."
        assert choice.message.model_extra["reasoning"] == "I need the weather."
        (call,) = choice.message.tool_calls
        assert (call.function.name, call.function.arguments) == ("get_weather", '{"city": "Bonn }"}')
        assert answer.usage.completion_tokens == len(PIECES) + 1
        assert answer.usage.completion_tokens_details.reasoning_tokens == 4
