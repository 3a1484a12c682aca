"""Counters per version from Prometheus: raw samples, scrape by scrape, with the times at which they were taken.

`rate()` and `increase()` extrapolate, and miss the first sample of a new counter, which matters when three errors
decide; so the differences are made by the judge (`tidegate.judge.series`). A range selector without a function gives
the samples as they were scraped: https://prometheus.io/docs/prometheus/latest/querying/api/#range-vectors
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import httpx

from tidegate.clients.envoy_histogram import edge_of
from tidegate.clients.metrics_source import QualitySeen, Seen
from tidegate.errors import Unavailable
from tidegate.judge.series import Sample, Scrape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_REQUESTS = "envoy_cluster_upstream_rq_completed"
_CLASSES = "envoy_cluster_upstream_rq_xx"
_BUCKETS = "envoy_cluster_upstream_rq_time_bucket"
_PREDICTIONS = "tidegate_predictions_bucket"
_PAIRS, _DIFFER = "tidegate_pairs_total", "tidegate_disagreements_total"
_LABELLED, _WRONG = "tidegate_labelled_total", "tidegate_wrong_total"


def counters(names: Sequence[str], seconds: float) -> str:
    """Return the PromQL for every sample of the versions' counters in the last `seconds`."""
    which = "|".join(sorted(names))
    kinds = "|".join((_REQUESTS, _CLASSES, _BUCKETS))
    return f'{{__name__=~"{kinds}",envoy_cluster_name=~"{which}"}}[{max(round(seconds * 1000), 1)}ms]'


def said(candidate: str, champion: str, seconds: float) -> str:
    """Return the PromQL for every sample of what both versions said in the last `seconds`."""
    which = "|".join(sorted((candidate, champion)))
    kinds = "|".join((_PREDICTIONS, _PAIRS, _DIFFER, _LABELLED, _WRONG))
    return f'{{__name__=~"{kinds}",version=~"{which}"}}[{max(round(seconds * 1000), 1)}ms]'


class PrometheusMetrics:
    """Metrics read from a Prometheus server that scrapes Envoy and the quality process.

    Args:
        url: its address, without a slash at the end.
        timeout_s: the longest a query may take.
        transport: of HTTP, for tests.
    """

    def __init__(self, url: str, timeout_s: float = 2.0, transport: httpx.BaseTransport | None = None):
        self.url = url
        self._timeout_s = timeout_s
        self._http = httpx.Client(timeout=timeout_s, transport=transport)

    def scrapes(self, names: Sequence[str], seconds: float) -> Seen:
        """See Metrics.scrapes; the present time is Prometheus' own."""
        now = float(self._query("time()")[0])
        return Seen(now, scrapes_of(self._query(counters(names, seconds))))

    def quality(self, candidate: str, champion: str, seconds: float) -> QualitySeen:
        """See Metrics.quality."""
        return quality_of(self._query(said(candidate, champion, seconds)), candidate, champion)

    def between(self, names: Sequence[str], start: float, end: float) -> Sequence[Scrape]:
        """Return every scrape in (start, end], Unix seconds, as long as Prometheus keeps them."""
        return scrapes_of(self._query(counters(names, end - start), at=end))

    def close(self) -> None:
        """Close the connections to the server."""
        self._http.close()

    def _query(self, promql: str, at: float | None = None) -> list[Any]:
        asked = {"query": promql} | ({"time": f"{at:.3f}"} if at is not None else {})
        try:
            answer = self._http.get(f"{self.url}/api/v1/query", params=asked)
            answer.raise_for_status()
            found: list[Any] = answer.json()["data"]["result"]
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise Unavailable(
                f"Prometheus at {self.url} did not answer within {self._timeout_s:.0f} s "
                f"({error or type(error).__name__}): nothing is known, so nothing passes"
            ) from error
        return found


def scrapes_of(rows: Sequence[Mapping[str, Any]]) -> list[Scrape]:
    """Return what a range selector gave, by the time of each scrape; series of one version are summed. Pure.

    A version is in a scrape if its count of requests is.
    """
    requests: dict[float, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    errors: dict[float, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    within: dict[float, dict[str, dict[float, float]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(float)))
    for row in rows:
        metric, name = row["metric"], row["metric"].get("envoy_cluster_name", "")
        for at, text in row["values"]:
            moment, value = float(at), float(text)
            if metric["__name__"] == _REQUESTS:
                requests[moment][name] += value
            elif metric["__name__"] == _BUCKETS:
                within[moment][name][edge_of(float(metric["le"]))] += value
            elif metric.get("envoy_response_code_class") == "5":
                errors[moment][name] += value
    return [
        Scrape(
            moment,
            {
                name: Sample(count, errors[moment][name], dict(within[moment][name]))
                for name, count in sorted(requests[moment].items())
            },
        )
        for moment in sorted(requests)
    ]


def quality_of(rows: Sequence[Mapping[str, Any]], candidate: str, champion: str) -> QualitySeen:
    """Return what a range selector gave of two versions, by signal and by the time of each scrape. Pure."""
    counts: dict[str, dict[float, dict[str, float]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(float)))
    within: dict[float, dict[str, dict[float, float]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(float)))
    for row in rows:
        metric = row["metric"]
        kind, name = metric["__name__"], metric.get("version", "")
        if kind in (_PAIRS, _DIFFER) and (name, metric.get("champion")) != (candidate, champion):
            continue
        for at, text in row["values"]:
            moment, value = float(at), float(text)
            if kind == _PREDICTIONS:
                within[moment][name][float(metric["le"])] += value
            else:
                counts[kind][moment][name] += value
    predictions = [
        Scrape(at, {name: Sample(edges.get(math.inf, math.nan), 0.0, dict(edges)) for name, edges in named.items()})
        for at, named in sorted(within.items())
    ]
    return QualitySeen(
        predictions,
        _shares(counts[_LABELLED], counts[_WRONG]),
        _shares(counts[_PAIRS], counts[_DIFFER]),
    )


def _shares(all_of: Mapping[float, Mapping[str, float]], bad: Mapping[float, Mapping[str, float]]) -> list[Scrape]:
    return [
        Scrape(at, {name: Sample(count, bad.get(at, {}).get(name, math.nan)) for name, count in named.items()})
        for at, named in sorted(all_of.items())
    ]
