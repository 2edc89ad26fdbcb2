"""The metrics of classic models."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from .classic_models import Trained, loaded, own, rows, serving


async def samples(client: object) -> dict[tuple[str, ...], float]:
    """quire's samples of classic models: name without the prefix, model, version, and the bucket's bound."""
    text = (await client.get("/metrics")).text  # type: ignore[attr-defined]
    return {
        (
            sample.name.removeprefix("quire:inference_"),
            *(sample.labels[name] for name in ("model_name", "model_version", "le") if name in sample.labels),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("quire:inference_")
    }


async def test_classic_models_are_counted_and_timed_by_version(trained: Trained) -> None:
    async with (
        loaded([config for config in trained.configs() if config.name == "trees"]) as plane,
        serving(plane) as served,
    ):
        some = rows(3)
        await asyncio.gather(*(plane.infer("trees", "1", {"input": some}) for _ in range(4)))
        await plane.infer("trees", "2", {"input": some})
        with pytest.raises(Exception, match="rows"):
            await plane.infer("trees", "2", {"input": rows(1000)})
        found = await samples(served.client)
    assert found["requests_total", "trees", "1"] == 4
    assert found["requests_total", "trees", "2"] == 1
    assert found["failures_total", "trees", "1"] == 0
    assert found["failures_total", "trees", "2"] == 1
    assert found["rows_total", "trees", "1"] == 12
    assert found["pending", "trees", "1"] == 0
    assert found["workers", "trees", "1"] == found["model_ready", "trees", "1"] == 1
    assert found["worker_restarts_total", "trees", "1"] == 0
    for name in ("queue_seconds", "compute_seconds"):
        assert found[f"{name}_count", "trees", "1"] == found[f"{name}_bucket", "trees", "1", "+Inf"] == 4
        assert found[f"{name}_sum", "trees", "1"] > 0
        bounds = [key for key in found if key[:3] == (f"{name}_bucket", "trees", "1")]
        counts = [found[key] for key in bounds]
        assert counts == sorted(counts)
    assert found["batch_rows_sum", "trees", "1"] == 12
    assert found["batch_rows_bucket", "trees", "2", "2.0"] == 0
    assert found["batch_rows_bucket", "trees", "2", "4.0"] == 1


async def test_a_server_without_classic_models_has_no_such_metrics(trained: Trained) -> None:
    async with loaded([]) as plane, serving(plane) as served:
        assert await samples(served.client) == {}


async def test_a_model_that_is_unloaded_is_measured_no_more() -> None:
    async with loaded([own("mixed", "Mixed")]) as plane, serving(plane) as served:
        assert ("pending", "mixed", "1") in await samples(served.client)
        await plane.registry.unload("mixed")
        assert await samples(served.client) == {}
