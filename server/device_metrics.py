"""Utilisation and memory of NVIDIA GPUs, where NVML can be asked; elsewhere there is nothing to say."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable
from typing import Any

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

logger = logging.getLogger("quire.server")

FAMILIES = (
    ("device_utilization_perc", "Share of the last moments in which the GPU was at work, 0 to 1."),
    ("device_memory_used_bytes", "Memory of the GPU that is in use, by whomever."),
    ("device_memory_total_bytes", "Memory of the GPU."),
)


class DeviceCollector(Collector):
    """All GPUs of the machine, asked at each scrape. `find` says whether there are any."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]

    @classmethod
    def find(cls) -> DeviceCollector | None:
        """A collector, or None without the package nvidia-ml-py, a driver, or a GPU."""
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            return None
        try:
            nvml.nvmlInit()
            collector = cls(nvml)
        except nvml.NVMLError as error:
            logger.info("no figures of GPUs in the metrics: %s", error)
            return None
        return collector if collector._handles else None

    def collect(self) -> Iterable[Metric]:
        """The families; a GPU that does not tell a figure is left out of that family."""
        gauges = [GaugeMetricFamily(f"quire:{suffix}", text, labels=["device"]) for suffix, text in FAMILIES]
        for index, handle in enumerate(self._handles):
            label = [str(index)]
            try:
                memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
                gauges[1].add_metric(label, memory.used)
                gauges[2].add_metric(label, memory.total)
                gauges[0].add_metric(label, self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
            except self._nvml.NVMLError as error:  # a slice of a GPU has memory but no utilisation
                logger.debug("GPU %d: %s", index, error)
        return gauges
