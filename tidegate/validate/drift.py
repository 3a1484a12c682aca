"""What watching a window is asked and what it finds: distances between distributions, held against the limits.

Pure: the distances themselves are TensorFlow Data Validation's (`tidegate.validate.statistics`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tidegate import keys
from tidegate.contract.model import DriftSeverity, Measure
from tidegate.handoff import Handoff, Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tidegate.contract import Column
    from tidegate.lake import Lake

SERVED = "served"
"""The name under which distances stand that are of served requests, not of a source."""
SEVERITIES: tuple[DriftSeverity, ...] = ("warn", "retrain", "stop")
BaselineKind = Literal["champion", "previous"]


class Limit(Handoff):
    """One limit of a feature's distance, and what happens beyond it."""

    feature: str
    measure: Measure
    limit: float
    severity: DriftSeverity


class Baseline(Handoff):
    """What a slice is compared with: clean rows that are published in the lake."""

    kind: BaselineKind
    name: str = Field(description="for people: champion flights-v3, slice of 2013-01-01")
    parts: list[tuple[str, str]] = Field(description="lake key and digest of each")


class WatchedSource(Handoff):
    """One source's slice of the window: where it lies, what it is held against."""

    source: str
    contract: str
    key: str = Field(description="lake key of the validated slice")
    digest: str
    raw_key: str
    raw_digest: str
    clean: int
    quarantined: int
    event_time: str | None = Field(default=None, description="column that is about the window itself: never compared")
    limits: list[Limit] = Field(default_factory=list)
    baselines: list[Baseline] = Field(default_factory=list)
    tfdv_schema: str = Field(description="the contract for TensorFlow Data Validation, as text")
    suite: dict[str, Any] = Field(description="the contract for Great Expectations")


class ServedSample(Handoff):
    """What the champion's server kept of its requests, against what the champion was trained on."""

    folder: str = Field(description="the version's folder on this machine; see tidegate.served")
    size: int = Field(description="bytes kept when this was asked")
    features: list[str]
    limits: list[Limit] = Field(default_factory=list)
    baseline: Baseline


class WatchTask(Handoff):
    """A window to watch."""

    delivery: str
    window: Window
    lake: str
    sources: list[WatchedSource]
    served: ServedSample | None = None
    most_rows: int = Field(default=200_000, description="of a slice or a baseline; of more, a fixed sample is taken")


class Distance(Handoff):
    """How far one feature lies from one baseline, and what the contract says to that."""

    source: str
    feature: str
    measure: Measure
    distance: float
    baseline: str
    kind: BaselineKind
    limit: float | None = Field(default=None, description="the greatest one that is exceeded, else the least, or none")
    severity: DriftSeverity | None = Field(default=None, description="None: within its limits")

    def sentence(self) -> str:
        """Return it in plain words."""
        measure = {"linfty": "L-infinity", "jensenShannon": "Jensen-Shannon"}[self.measure]
        limit = "no limit" if self.limit is None else f"limit {self.limit:g}"
        what = f": {self.severity}" if self.severity else ""
        return f"{self.source}.{self.feature} lies {self.distance:.3f} ({measure}, {limit}) from {self.baseline}{what}"


class WatchReport(Handoff):
    """What was found: the breaches; all distances are in the report in the lake (distances.json)."""

    delivery: str
    window: Window
    key: str = Field(description="lake key of the report: index.html, facets.html, data_docs/index.html")
    digest: str
    compared: int = Field(description="how many distances were taken")
    breaches: list[Distance]
    notes: list[str] = Field(default_factory=list, description="what could not be compared and why, in sentences")
    expectations: dict[str, list[str]] = Field(
        default_factory=dict, description="source -> rules that Great Expectations found broken in the raw slice"
    )
    rows_served: int | None = None
    seconds: float = 0.0

    @property
    def stops(self) -> list[Distance]:
        """The breaches for which the window must not be published."""
        return [each for each in self.breaches if each.severity == "stop"]


def limits_of(columns: Iterable[Column], name: Literal["drift", "skew"] = "drift") -> list[Limit]:
    """Return what a contract's columns state."""
    return [
        Limit(feature=column.name, measure=each.measure, limit=each.limit, severity=each.severity)
        for column in columns
        for each in (column.drift if name == "drift" else column.skew)
    ]


def judged(
    source: str, baseline: Baseline, measured: Mapping[tuple[str, Measure], float], limits: Sequence[Limit]
) -> list[Distance]:
    """Return the distances to one baseline by feature and measure, each with what its limits say.

    A new model mends a distance to what the last one was trained on. It does not mend one to the slice before, so
    there `retrain` only warns.
    """
    found = []
    for (feature, measure), distance in sorted(measured.items()):
        mine = sorted((e for e in limits if (e.feature, e.measure) == (feature, measure)), key=lambda e: e.limit)
        exceeded = [each for each in mine if distance > each.limit]
        worst = max(exceeded, key=lambda each: SEVERITIES.index(each.severity), default=None)
        shown = worst or (mine[0] if mine else None)
        severity = worst.severity if worst else None
        if severity == "retrain" and baseline.kind == "previous":
            severity = "warn"
        found.append(
            Distance(
                source=source,
                feature=feature,
                measure=measure,
                distance=round(distance, 6),
                baseline=baseline.name,
                kind=baseline.kind,
                limit=shown.limit if shown else None,
                severity=severity,
            )
        )
    return found


def table(distances: Sequence[Distance]) -> str:
    """Return distances as lines of text: feature, measure, distance, limit, baseline, what happens."""
    rows = [("feature", "measure", "distance", "limit", "baseline", "")] + [
        (
            f"{each.source}.{each.feature}",
            each.measure,
            f"{each.distance:.3f}",
            "-" if each.limit is None else f"{each.limit:g}",
            each.baseline,
            (each.severity or "ok").upper() if each.severity else "ok",
        )
        for each in distances
    ]
    widths = [max(len(row[place]) for row in rows) for place in range(6)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def stopped(lake: Lake, slices: Mapping[str, str], delivery: str) -> dict[str, str]:
    """Return which slices (source/window id -> digest) were stopped for their drift when watched, and for which one."""
    found = {}
    for name, digest in sorted(slices.items()):
        source, _, window = name.partition("/")
        manifest = lake.manifest(keys.report(delivery, keys.window_of(window)))
        said = (manifest or {}).get("stopped", {}).get(source)
        if said is not None and said["digest"] == digest:
            found[name] = "; ".join(said["said"])
    return found
