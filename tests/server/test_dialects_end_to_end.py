"""The clients of other systems against `quire serve` with the embedded model."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import huggingface_hub.constants
import ollama
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import ValidationError

from .quire_process import PATIENCE, QuireProcess

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


def test_huggingfaces_client(server: QuireProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where HF_HUB_OFFLINE is set, the client would not even talk to 127.0.0.1.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    client = InferenceClient(base_url=server.url)
    prompt = "Once upon a time"
    whole = client.text_generation(
        prompt, details=True, decoder_input_details=True, max_new_tokens=12, top_n_tokens=2
    )
    assert whole.generated_text
    assert whole.details.generated_tokens == len(whole.details.tokens) == len(whole.details.top_tokens) == 12
    assert whole.details.finish_reason == "length"
    assert "".join(token.text for token in whole.details.prefill if token.logprob) in prompt
    parts = list(client.text_generation(prompt, details=True, stream=True, max_new_tokens=12))
    assert [part.token.id for part in parts] == [token.id for token in whole.details.tokens]
    assert parts[-1].generated_text == whole.generated_text
    assert "".join(client.text_generation(prompt, stream=True, max_new_tokens=12)) == whole.generated_text

    sampled = client.text_generation(prompt, details=True, do_sample=True, max_new_tokens=12)
    again = client.text_generation(prompt, do_sample=True, max_new_tokens=12, seed=sampled.details.seed)
    assert again == sampled.generated_text
    grammar = {"type": "json", "value": SCHEMA}
    answer = client.text_generation(prompt, grammar=grammar, max_new_tokens=64)
    assert set(json.loads(answer)) == {"name", "age"}
    with pytest.raises(ValidationError, match="watermark"):
        client.text_generation(prompt, watermark=True)
    chat = client.chat_completion([{"role": "user", "content": "Hello!"}], model="embedded", max_tokens=8)
    assert chat.choices[0].message.content


def test_llama_cpps_documentation(server: QuireProcess) -> None:
    """Requests as the README of llama.cpp's server writes them; there is no client to install."""
    with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
        prompt = "Building a website can be done in 10 simple steps:"
        body = {"prompt": prompt, "n_predict": 16, "temperature": 0}
        whole = client.post("/completion", json=body).json()
        assert whole["tokens_predicted"] == whole["timings"]["predicted_n"] <= 16
        stream = client.post("/completions", json=body | {"stream": True}).text
        parts = [json.loads(line.removeprefix("data: ")) for line in stream.splitlines() if line]
        assert "".join(part["content"] for part in parts) == whole["content"]
        assert parts[-1]["generation_settings"]["n_predict"] == 16

        cached = client.post("/completion", json=body | {"prompt": prompt * 8}).json()
        assert client.post("/completion", json=body | {"prompt": prompt * 8}).json()["tokens_cached"] > 0
        fresh = client.post("/completion", json=body | {"prompt": prompt * 8, "cache_prompt": False}).json()
        assert fresh["tokens_cached"] == 0
        assert fresh["content"] == cached["content"]

        grammar = client.post("/completion", json=body | {"grammar": 'root ::= "yes" | "no"'}).json()
        assert grammar["content"] in ("yes", "no")
        schema = client.post("/completion", json=body | {"json_schema": SCHEMA, "n_predict": 64}).json()
        assert set(json.loads(schema["content"])) == {"name", "age"}

        messages = [{"role": "user", "content": "Hello!"}]
        templated = client.post("/apply-template", json={"messages": messages}).json()["prompt"]
        tokens = client.post("/tokenize", json={"content": templated}).json()["tokens"]
        assert client.post("/detokenize", json={"tokens": tokens}).json()["content"] == templated
        assert client.get("/props").json()["total_slots"] == len(client.get("/slots").json())
        assert client.get("/health").json() == {"status": "ok"}
