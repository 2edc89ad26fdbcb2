"""Deployments in Prometheus' form, read at each scrape."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from .deployment import LATENCY_BOUNDS
from .shadow import ShadowStrategy

if TYPE_CHECKING:
    from .manager import Deployments

LABELS = ["deployment", "version"]
BOUNDS = (*map(str, LATENCY_BOUNDS), "+Inf")


class DeploymentCollector(Collector):
    """Counts begin again at zero when a deployment is deleted and made anew; a restart keeps them."""

    def __init__(self, deployments: Deployments) -> None:
        self._deployments = deployments

    def collect(self) -> Iterable[Metric]:
        """`quire:deployment_*`, by deployment and version."""
        requests = CounterMetricFamily(
            "quire:deployment_requests", "Requests to versions, by outcome.", labels=[*LABELS, "outcome"]
        )
        counters = {
            name: CounterMetricFamily(f"quire:deployment_{name}", text, labels=LABELS)
            for name, text in (
                ("retried", "Failures of a version that another one made good, unseen."),
                ("mirrored", "Requests to a version whose answers nobody saw."),
                ("scores", "Scores that clients gave."),
                ("score_sum", "The sum of the scores."),
            )
        }
        seconds = HistogramMetricFamily(
            "quire:deployment_request_seconds", "From a version's choice to the answer's end.", labels=LABELS
        )
        share = GaugeMetricFamily("quire:deployment_share", "Share of the requests, 0 to 1.", labels=LABELS)
        pending = GaugeMetricFamily("quire:deployment_pending", "Requests that run.", labels=LABELS)
        agreement = [
            CounterMetricFamily(f"quire:deployment_shadow_{name}", text, labels=["deployment"])
            for name, text in (
                ("compared", "Mirrored requests that both versions answered."),
                ("agreed", "Those whose answers agree."),
                ("dropped", "Requests that were not mirrored as too many were pending."),
            )
        ]
        for deployment in self._deployments:
            shares = deployment.strategy.shares()
            for version, totals in deployment.totals.items():
                labels = [deployment.name, version]
                for outcome, number in totals.outcomes.items():
                    requests.add_metric([*labels, outcome], number)
                counters["retried"].add_metric(labels, totals.num_retried)
                counters["mirrored"].add_metric(labels, totals.num_mirrored)
                counters["scores"].add_metric(labels, totals.num_scores)
                counters["score_sum"].add_metric(labels, totals.scores)
                buckets = list(zip(BOUNDS, accumulate(map(float, totals.buckets)), strict=True))
                seconds.add_metric(labels, buckets, totals.seconds)
                share.add_metric(labels, shares[version])
                running = sum(each.version.id == version for each in deployment.pending)
                pending.add_metric(labels, running)
            if isinstance(deployment.strategy, ShadowStrategy):
                state = deployment.strategy.state
                for family, number in zip(
                    agreement, (state.num_compared, state.num_agreed, state.num_dropped), strict=True
                ):
                    family.add_metric([deployment.name], number)
        yield from (requests, *counters.values(), seconds, share, pending, *agreement)
