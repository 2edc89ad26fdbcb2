"""The clients of other systems against `quire serve` with the embedded model."""

from __future__ import annotations

import json
from collections.abc import Iterator

import ollama
import pytest

from .quire_process import QuireProcess

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuireProcess]:
    process = QuireProcess(tmp_path_factory.mktemp("server"), "--num-blocks", "1024")
    yield process
    process.stop()


def test_ollamas_client(server: QuireProcess) -> None:
    with ollama.Client(host=server.url) as client:
        (listed,) = client.list().models
        assert listed.model == "embedded:latest"
        shown = client.show(listed.model)
        assert "completion" in shown.capabilities
        family = shown.modelinfo["general.architecture"]
        assert shown.modelinfo[f"{family}.context_length"] > 0
        assert [model.name for model in client.ps().models] == ["embedded:latest"]

        options = {"temperature": 0, "num_predict": 16}
        messages = [{"role": "user", "content": "Hello!"}]
        whole = client.chat("embedded", messages, options=options)
        parts = list(client.chat("embedded", messages, options=options, stream=True))
        assert whole.message.content
        assert "".join(part.message.content for part in parts) == whole.message.content
        assert parts[-1].eval_count == whole.eval_count
        assert 0 < whole.eval_duration < whole.total_duration

        first = client.generate("embedded", "Tell me a story.", options=options)
        second = client.generate("embedded", "Go on.", context=first.context, options=options)
        assert second.context[: len(first.context)] == first.context

        answer = client.chat("embedded", messages, format=SCHEMA, options={"temperature": 0})
        assert set(json.loads(answer.message.content)) == {"name", "age"}
        with pytest.raises(ollama.ResponseError, match="num_thread"):
            client.chat("embedded", messages, options={"num_thread": 4})
