"""Structured outputs over HTTP: the fields that ask for them, and the process that tries them first."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import jsonschema
import pytest

import quire
from quire import SamplingParams, StructuredOutputsParams
from quire.engine.async_engine import AsyncEngine
from quire.engine.config import EngineConfig
from quire.engine.grammar_checker import GrammarChecker
from quire.engine.output_processor import merge
from quire.engine.outputs import RequestOutput
from quire.errors import InvalidRequest
from quire.models.config import ModelConfig
from quire.models.tokenizer import Tokenizer

from .conftest import Served

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["a"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, {"json_object": True}),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "s", "schema": SCHEMA, "strict": True},
                }
            },
            {"json": SCHEMA},
        ),
        ({"structured_outputs": {"regex": "(a+)+$"}}, {"regex": "(a+)+$"}),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, {"json": SCHEMA}),
        ({"guided_json": SCHEMA}, {"json": SCHEMA}),
        ({"guided_regex": "a+"}, {"regex": "a+"}),
        ({"guided_choice": ["a", "b"]}, {"choice": ["a", "b"]}),
        ({"guided_grammar": 'root ::= "a"'}, {"grammar": 'root ::= "a"'}),
    ],
)
async def test_fields(served: Served, body: dict, expected: dict | None) -> None:
    for ask in (served.complete, served.chat):
        response = await ask(**body)
        assert response.status_code == 200, response.text
        params = served.engine.seen[-1][1]
        assert params.structured_outputs == (
            None if expected is None else StructuredOutputsParams(**expected)
        )


def make_checker() -> GrammarChecker:
    folder = Path(quire.__file__).parent / "models" / "embedded" / "weights"
    return GrammarChecker(folder, Tokenizer.from_folder(folder), ModelConfig.from_folder(folder))


async def test_what_keeps_the_compiler_busy_ends_the_process_and_not_the_server() -> None:
    checker = make_checker()
    patterns = {f"^(.*{i}.*){{20}}$": {} for i in range(32)}
    hostile = [
        StructuredOutputsParams(json={"type": "object", "patternProperties": patterns}),
        StructuredOutputsParams(json={"type": "object", "properties": {f"p{i}": {} for i in range(19_000)}}),
    ]
    for params in hostile:
        with pytest.raises(InvalidRequest) as caught:
            await checker.check(params)
        assert caught.value.param == "structured_outputs"
    # At once, and in between callers who do not wait for their answer.
    fine = [StructuredOutputsParams(regex=f"a{{{i}}}") for i in range(1, 20)]
    tasks = [asyncio.create_task(checker.check(params)) for params in fine]
    await asyncio.sleep(0)
    tasks[0].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [None] * 18
    await checker.check(fine[0])
    await checker.check(StructuredOutputsParams(grammar="start: <|assistant|>"))
    with pytest.raises(InvalidRequest):
        await checker.check(StructuredOutputsParams(grammar="start: <|no_such_token|>"))
    await checker.close()


async def test_the_engines_process_follows_a_schema() -> None:
    engine = await AsyncEngine.start(EngineConfig(model="embedded", num_threads=1, num_blocks=256))
    try:

        async def collect(seed: int) -> RequestOutput:
            total: RequestOutput | None = None
            params = SamplingParams(
                temperature=1.0,
                seed=seed,
                max_tokens=100,
                n=2,
                structured_outputs=StructuredOutputsParams(json=SCHEMA),
            )
            tokens = engine.tokenizer.encode("Hello")
            async for delta in engine.generate(tokens, params, request_id="r"):
                total = merge(total, delta)
            assert total is not None
            return total

        for output in await asyncio.gather(*map(collect, range(6))):
            for choice in output.outputs:
                assert choice.finish_reason == "stop"
                jsonschema.validate(json.loads(choice.text), SCHEMA)
        params = SamplingParams(structured_outputs=StructuredOutputsParams(regex="(a"))
        with pytest.raises(InvalidRequest, match="regex"):
            await anext(engine.generate([5], params, request_id="r"))
    finally:
        await engine.shutdown()
