"""Counts per version from Prometheus, exactly: raw samples at both ends of the interval, subtracted here.

`increase()` extrapolates and misses the first sample of a new counter, which matters when three errors decide. Instead
the counters are read at `since` and at `now`. Envoy's uptime tells the cases apart in which a counter is absent or
smaller: nothing asked of that version yet (zero), Envoy restarted (its counters began again), not scraped (no data).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import httpx

from tidegate.errors import Unavailable
from tidegate.handoff import Counts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_UPTIME = "envoy_server_uptime"
_REQUESTS = "envoy_cluster_upstream_rq_completed"
_CLASSES = "envoy_cluster_upstream_rq_xx"
_BUCKETS = "envoy_cluster_upstream_rq_time_bucket"


@dataclass(frozen=True)
class Sample:
    """What one scrape said about one version: all counters since its cluster or Envoy began."""

    requests: float
    errors: float = 0.0
    buckets: Mapping[float, float] = field(default_factory=dict)
    """Answers within so many milliseconds, cumulative; the last edge is infinite."""


@dataclass(frozen=True)
class Scrape:
    """All versions at one instant."""

    uptime_s: float | None
    """Envoy's uptime; None if Envoy was not scraped."""
    versions: Mapping[str, Sample]


def counters(names: Sequence[str]) -> str:
    """Return the PromQL for Envoy's uptime and the versions' counters."""
    which = _which(names)
    return (
        f'{{__name__="{_UPTIME}"}}'
        f' or {{__name__="{_REQUESTS}",{which}}}'
        f' or {{__name__="{_CLASSES}",{which},envoy_response_code_class="5"}}'
        f' or {{__name__="{_BUCKETS}",{which}}}'
    )


def sample_times(names: Sequence[str]) -> str:
    """Return the PromQL for the time of each version's newest sample, Unix seconds."""
    return f"max by (envoy_cluster_name) (timestamp({_REQUESTS}{{{_which(names)}}}))"


class PrometheusMetrics:
    """Metrics read from a Prometheus server that scrapes Envoy.

    Args:
        url: its address, without a slash at the end.
        timeout_s: the longest a query may take.
        transport: of HTTP, for tests.
    """

    def __init__(self, url: str, timeout_s: float = 2.0, transport: httpx.BaseTransport | None = None):
        self.url = url
        self._timeout_s = timeout_s
        self._http = httpx.Client(timeout=timeout_s, transport=transport)

    def counts(self, names: Sequence[str], since: float, now: float) -> dict[str, Counts | None]:
        """See Metrics.counts."""
        before = scrape_of(self._query(counters(names), since))
        after = scrape_of(self._query(counters(names), now))
        times = {
            row["metric"]["envoy_cluster_name"]: float(row["value"][1]) for row in self._query(sample_times(names), now)
        }
        return {name: difference(name, before, after, now - since, times.get(name)) for name in names}

    def close(self) -> None:
        """Close the connections to the server."""
        self._http.close()

    def _query(self, promql: str, at: float) -> list[dict[str, Any]]:
        try:
            answer = self._http.get(f"{self.url}/api/v1/query", params={"query": promql, "time": f"{at:.3f}"})
            answer.raise_for_status()
            rows: list[dict[str, Any]] = answer.json()["data"]["result"]
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise Unavailable(
                f"Prometheus at {self.url} did not answer within {self._timeout_s:.0f} s "
                f"({error or type(error).__name__}): nothing is known, so nothing passes"
            ) from error
        return rows


def scrape_of(rows: Sequence[Mapping[str, Any]]) -> Scrape:
    """Return what one instant query said; rows of several proxies are summed. Pure."""
    uptime: float | None = None
    requests: dict[str, float] = {}
    errors: dict[str, float] = {}
    buckets: dict[str, dict[float, float]] = {}
    for row in rows:
        metric, value = row["metric"], float(row["value"][1])
        name = metric.get("envoy_cluster_name", "")
        if metric["__name__"] == _UPTIME:
            uptime = value if uptime is None else min(uptime, value)
        elif metric["__name__"] == _REQUESTS:
            requests[name] = requests.get(name, 0.0) + value
        elif metric["__name__"] == _CLASSES:
            errors[name] = errors.get(name, 0.0) + value
        else:
            edges = buckets.setdefault(name, {})
            edge = float(metric["le"])
            edges[edge] = edges.get(edge, 0.0) + value
    versions = {name: Sample(count, errors.get(name, 0.0), buckets.get(name, {})) for name, count in requests.items()}
    return Scrape(uptime, versions)


def difference(name: str, before: Scrape, after: Scrape, seconds: float, sampled_at: float | None) -> Counts | None:
    """Return what a version did between two scrapes that lie `seconds` apart; None where that is not known. Pure."""
    late = after.versions.get(name)
    if late is None or after.uptime_s is None:
        return None
    restarted = after.uptime_s < seconds
    if before.uptime_s is None and not restarted:
        return None
    early = before.versions.get(name)
    if early is None or restarted or late.requests < early.requests:
        early = Sample(0.0)
    buckets = {edge: count - early.buckets.get(edge, 0.0) for edge, count in sorted(late.buckets.items())}
    return Counts(
        requests=late.requests - early.requests,
        errors=max(late.errors - early.errors, 0.0),
        p50_ms=quantile(0.5, buckets),
        p99_ms=quantile(0.99, buckets),
        sampled_at=sampled_at,
    )


def quantile(q: float, buckets: Mapping[float, float]) -> float | None:
    """Return the q-quantile of cumulative buckets (edge -> count within it), linear inside a bucket; pure.

    As Prometheus' histogram_quantile does; beyond the last finite edge the answer is that edge. None without counts.
    """
    edges = sorted(buckets.items())
    if not edges or not edges[-1][1] > 0:
        return None
    rank = q * edges[-1][1]
    for (low, below), (edge, within) in pairwise([(0.0, 0.0), *edges]):
        if within >= rank:
            if math.isinf(edge):
                return low
            return low + (edge - low) * (rank - below) / (within - below) if within > below else edge
    return None


def _which(names: Sequence[str]) -> str:
    return f'envoy_cluster_name=~"{"|".join(sorted(names))}"'
