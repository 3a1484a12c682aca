"""The counters of what versions say, as Prometheus reads them: all of one instant."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from tidegate.quality.counting import EDGES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.metrics_core import Metric

    from tidegate.quality.counting import Version
    from tidegate.quality.looking import Quality

_OF_VERSION = ["delivery", "version"]
_OF_PAIR = ["delivery", "version", "champion"]


class Figures(Collector):
    """All figures of the process."""

    def __init__(self, quality: Quality):
        self._quality = quality

    def collect(self) -> Iterable[Metric]:
        """Return all figures as they are now."""
        with self._quality.lock:
            return [*self._said(), *self._itself()]

    def _said(self) -> Iterable[Metric]:
        predictions = HistogramMetricFamily("tidegate_predictions", "Sampled predictions.", labels=_OF_VERSION)
        pairs = CounterMetricFamily("tidegate_pairs", "Inputs that both versions answered.", labels=_OF_PAIR)
        differ = CounterMetricFamily("tidegate_disagreements", "Those answered otherwise.", labels=_OF_PAIR)
        labelled = CounterMetricFamily("tidegate_labelled", "Answers whose label has come.", labels=_OF_VERSION)
        wrong = CounterMetricFamily("tidegate_wrong", "Those that were wrong.", labels=_OF_VERSION)
        for delivery, counting in self._quality.counting.items():
            for name, version in counting.versions.items():
                of = [delivery, name]
                predictions.add_metric(of, _buckets(version), version.total)
                labelled.add_metric(of, version.labelled)
                wrong.add_metric(of, version.wrong)
                for other, count in version.pairs.items():
                    pairs.add_metric([*of, other], count)
                    differ.add_metric([*of, other], version.disagreements[other])
        return predictions, pairs, differ, labelled, wrong

    def _itself(self) -> Iterable[Metric]:
        bad = CounterMetricFamily("tidegate_labels_bad", "Messages that were no label.", labels=["delivery"])
        for delivery, count in self._quality.bad_labels.items():
            bad.add_metric([delivery], count)
        yield bad
        yield CounterMetricFamily("tidegate_samples_bad", "Lines that were no sample.", value=self._quality.bad_samples)
        yield GaugeMetricFamily(
            "tidegate_quality_heartbeat_timestamp_seconds",
            "Unix time of the last completed look at what versions say.",
            value=self._quality.looked_at,
        )


def _buckets(version: Version) -> list[tuple[str, float]]:
    edges = [*(str(edge) for edge in EDGES), "+Inf"]
    return list(zip(edges, map(float, accumulate(version.buckets)), strict=True))
