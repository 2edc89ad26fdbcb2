"""Probes, metrics, models, and the OpenAPI document."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

import quire

from .conftest import Served, until

GAUGES = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
COUNTERS = (
    "prefix_cache_queries",
    "prefix_cache_hits",
    "num_preemptions",
    "prompt_tokens",
    "generation_tokens",
)
HISTOGRAMS = (
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
    "request_inference_time_seconds",
    "request_prompt_tokens",
    "request_generation_tokens",
    "request_time_per_output_token_seconds",
    "iteration_tokens_total",
)


async def test_probes(served: Served) -> None:
    for path in ("/health", "/ping", "/ready"):
        response = await served.client.get(path)
        assert (response.status_code, response.json()) == (200, {"status": "ok"})
    served.engine.is_ready = False
    assert (await served.client.get("/ready")).status_code == 503
    assert (await served.client.get("/health")).status_code == 200
    served.engine.is_alive = False
    assert (await served.client.get("/health")).status_code == 503
    assert (await served.client.get("/ping")).status_code == 503


async def test_load(served: Served) -> None:
    """Those that are being answered count, and the question does not."""
    assert (await served.client.get("/load")).json() == {"server_load": 0}
    served.engine.going.clear()
    running = [asyncio.create_task(served.chat()) for _ in range(3)]
    await until(lambda: len(served.engine.running) == 3, "they run")
    assert (await served.client.get("/load")).json() == {"server_load": 3}
    served.engine.going.set()
    await asyncio.gather(*running)
    assert (await served.client.get("/load")).json() == {"server_load": 0}


async def test_version(served: Served) -> None:
    assert (await served.client.get("/version")).json() == {"version": quire.__version__}


async def test_models(served: Served) -> None:
    listing = (await served.client.get("/v1/models")).json()
    assert listing["object"] == "list"
    (model,) = listing["data"]
    created = model.pop("created")
    assert isinstance(created, int)
    assert model == {
        "id": "fake",
        "object": "model",
        "owned_by": "quire",
        "root": "fake",
        "parent": None,
        "max_model_len": 512,
    }
    one = (await served.client.get("/v1/models/fake")).json()
    del one["model_version_status"]  # TensorFlow Serving's, under the same path
    assert one == model | {"created": created}


async def samples(served: Served) -> dict[str, float]:
    text = (await served.client.get("/metrics")).text
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {**sample.labels}
            if sample.name.startswith(("quire:", "quire_engine_")):
                assert labels.pop("model_name", "fake") == "fake"
            key = sample.name + "".join(f"|{value}" for value in labels.values())
            found[key] = sample.value
    return found


async def test_metrics(served: Served) -> None:
    before = await samples(served)
    await served.complete(max_tokens=4)
    await served.complete()
    after = await samples(served)
    for name in GAUGES:
        assert f"quire:{name}" in after
    for name in COUNTERS:
        assert f"quire:{name}_total" in after
    for name in HISTOGRAMS:
        assert f"quire:{name}_sum" in after
    assert before["quire:generation_tokens_total"] == 0
    assert after["quire:generation_tokens_total"] == 4 + 13
    assert after["quire:request_success_total|length"] == 1
    assert after["quire:request_success_total|stop"] == 1
    assert after["quire:time_to_first_token_seconds_sum"] == pytest.approx(2 * 0.3)
    assert after["quire:e2e_request_latency_seconds_count"] == 2
    assert after["quire:inter_token_latency_seconds_count"] == 3 + 12
    assert after["quire:request_prompt_tokens_sum"] == 2 * len("hello")
    assert after["quire:request_generation_tokens_sum"] == 4 + 13
    assert after["quire:request_time_per_output_token_seconds_sum"] == pytest.approx(0.3 / 3 + 0.3 / 12)
    assert after["quire:iteration_tokens_total_count"] == 4 + 13
    assert after["quire:kv_cache_usage_perc"] == 0
    assert after["quire_engine_process_resident_memory_bytes"] > 0


def referenced(value: object) -> set[str]:
    """All `$ref`s in a document."""
    if isinstance(value, dict):
        found = {value["$ref"]} if "$ref" in value else set()
        return found.union(*(referenced(item) for item in value.values()))
    return set().union(*(referenced(item) for item in value)) if isinstance(value, list) else set()


async def test_openapi_document(served: Served) -> None:
    document = (await served.client.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    assert {ref.removeprefix("#/components/schemas/") for ref in referenced(document)} <= set(schemas)
    operation = document["paths"]["/v1/chat/completions"]["post"]
    assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith(
        "/ChatCompletionRequest"
    )
    assert {"200", "400", "401", "404", "413", "415", "429", "500", "503"} <= set(operation["responses"])
    assert "422" not in operation["responses"]
    assert schemas["ChatCompletionRequest"]["additionalProperties"] is False
