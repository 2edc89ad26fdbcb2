"""The dashboard and the alert rules ask for nothing that /metrics does not have."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from quire.server.device_metrics import DeviceCollector
from quire.server.page import FOLDER

from .conftest import Served, serve_in_process

DASHBOARD = json.loads((FOLDER / "grafana.json").read_text(encoding="utf-8"))
RULES = yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]


class NvmlError(Exception):
    pass


class FakeNvml(SimpleNamespace):
    """Two GPUs, of which the second tells no utilisation."""

    NVMLError = NvmlError

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's names
        if self.broken:
            raise NvmlError("no driver")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(used=1000 + handle, total=5000)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:  # noqa: N802
        if handle:
            raise NvmlError("not supported")
        return SimpleNamespace(gpu=40)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml(broken=False)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


async def families(served: Served) -> dict[str, dict[str, set[str]]]:
    """The labels of each series, by its name, after requests of every kind."""
    await served.complete(max_tokens=4)
    text = (await served.client.get("/metrics")).text
    text += (await served.client.get("/metrics")).text
    found: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


def queries() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]
    for rule in RULES:
        yield rule["expr"]


async def test_every_query_names_series_and_labels_that_exist(nvml: FakeNvml) -> None:
    async with serve_in_process() as served:
        found = await families(served)
    expressions = list(queries())
    assert len(expressions) > 30
    for expression in expressions:
        names = re.findall(r"\bquire[:_][a-z_0-9:]+", expression)
        assert names, expression
        assert set(names) <= set(found), sorted(set(names) - set(found))
        known = set.union(*(set(found[name]) for name in names))
        used = set(re.findall(r'(\w+)(?:=~|!=|=)"', expression))
        for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression):
            used.update(group.split(", "))
        assert used <= known, (expression, sorted(used - known))


async def test_the_dashboard_shows_every_family_of_the_engine(nvml: FakeNvml) -> None:
    async with serve_in_process() as served:
        found = await families(served)
    ends = r"_(total|bucket|sum|count|created)$"
    asked = {re.sub(ends, "", name) for q in queries() for name in re.findall(r"\bquire:[a-z_0-9]+", q)}
    there = {re.sub(ends, "", name) for name in found if name.startswith("quire:")}
    # Settings, and sums and counts of what is shown in another way.
    assert there - asked <= {
        "quire:cache_config_info",
        "quire:num_free_kv_cache_blocks",
        "quire:request_inference_time_seconds",
    }


def test_legends_and_summaries_name_labels_that_are_kept() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert label in target["expr"] or label == "device", (panel["title"], label)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert all({"severity"} == set(rule["labels"]) and rule["annotations"]["summary"] for rule in RULES)


async def test_gpus_are_in_the_metrics_where_there_are_any(nvml: FakeNvml) -> None:
    async with serve_in_process() as served:
        text = (await served.client.get("/metrics")).text
    assert 'quire:device_utilization_perc{device="0"} 0.4\n' in text
    assert 'quire:device_utilization_perc{device="1"' not in text
    assert 'quire:device_memory_used_bytes{device="1"} 1001.0\n' in text


def test_without_the_package_or_a_driver_there_are_no_gpus(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml.broken = True
    assert DeviceCollector.find() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert DeviceCollector.find() is None


async def test_http_requests_by_route_and_never_by_what_clients_invent(served: Served) -> None:
    await served.client.get("/v1/models/fake")
    await served.client.get("/v1/models/other")
    await served.client.get("/invented/by/a/client")
    await served.client.request("INVENTED", "/health")
    found = await families(served)
    labels = found["quire:http_requests_total"]
    assert labels["handler"] >= {"/v1/models/{model:path}", "/v1/completions", "none"}
    assert not any("invented" in value.lower() for values in labels.values() for value in values)
    assert labels["method"] == {"GET", "POST", "other"}
    assert labels["status"] == {"200", "404", "405"}
    assert "/v1/completions" in found["quire:http_request_duration_seconds_bucket"]["handler"]
