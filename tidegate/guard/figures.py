"""The guard's figures for Prometheus: traffic, roles, leases, quarantine, and whether the guard itself works."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from tidegate.guard.core import on_trial

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.metrics_core import Metric

    from tidegate.clients.traffic import Split
    from tidegate.guard.loop import Guard


class Figures(Collector):
    """All figures of one guard."""

    def __init__(self, guard: Guard):
        self._guard = guard

    def collect(self) -> Iterable[Metric]:
        """Return all figures as they are now."""
        splits = self._guard.splits()
        yield from _traffic(splits)
        yield from self._itself(splits)
        leases = GaugeMetricFamily(
            "tidegate_lease_expires_seconds", "Seconds until a held lease expires.", labels=["delivery"]
        )
        for delivery, left in self._guard.lease_left_s().items():
            leases.add_metric([delivery], left)
        rows = CounterMetricFamily(
            "tidegate_rows_quarantined", "Rows put aside by a contract.", labels=["delivery", "source", "reason"]
        )
        for key, count in self._guard.quarantined.items():
            rows.add_metric(key, count)
        yield from (leases, rows)

    def _itself(self, splits: dict[str, Split]) -> Iterable[Metric]:
        yield GaugeMetricFamily(
            "tidegate_guard_heartbeat_timestamp_seconds",
            "Unix time of the guard's last completed look.",
            value=self._guard.looked_at,
        )
        yield GaugeMetricFamily(
            "tidegate_guard_ledger_answered_timestamp_seconds",
            "Unix time of the ledger's last answer to the guard.",
            value=self._guard.answered_at,
        )
        aborts = CounterMetricFamily(
            "tidegate_guard_aborts", "Times that the guard gave all traffic to the champion.", labels=["delivery"]
        )
        doubts = CounterMetricFamily(
            "tidegate_guard_disbelieved",
            "Answers about a lease that the guard did not believe.",
            labels=["delivery"],
        )
        for delivery in splits:
            aborts.add_metric([delivery], self._guard.aborts.get(delivery, 0))
            doubts.add_metric([delivery], self._guard.disbelieved.get(delivery, 0))
        yield from (aborts, doubts)


def _traffic(splits: dict[str, Split]) -> Iterable[Metric]:
    weights = GaugeMetricFamily(
        "tidegate_traffic_weight", "Share of traffic in percent.", labels=["delivery", "version"]
    )
    roles = GaugeMetricFamily(
        "tidegate_traffic_role",
        "1 for what a version is now: champion or candidate.",
        labels=["delivery", "version", "role"],
    )
    for delivery, split in splits.items():
        for version, weight in split.weights.items():
            weights.add_metric([delivery, version], weight)
        if split.champion is not None:
            roles.add_metric([delivery, split.champion, "champion"], 1)
        for version in on_trial(split):
            roles.add_metric([delivery, version, "candidate"], 1)
    yield from (weights, roles)
