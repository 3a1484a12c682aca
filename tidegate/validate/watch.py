"""Watches one window of all sources: statistics, drift, skew, expectations, and the pages that show them.

One workload for all sources, because importing its two engines takes longer than all they do.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tidegate import keys
from tidegate.errors import DataError
from tidegate.lake import Lake
from tidegate.quality.tail import Tail
from tidegate.validate import drift, expectations, pages, statistics
from tidegate.validate.drift import Baseline, Distance, WatchReport
from tidegate.workload import log

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate.validate.drift import ServedSample, WatchedSource, WatchTask
    from tidegate.validate.statistics import Statistics

LEAST_SERVED = 200
"""Fewer served rows say nothing of a distribution."""


def watch(task: WatchTask) -> WatchReport:
    """Publish the slices' statistics and the window's report; return what lies beyond its limits.

    Raises:
        DataError: a slice is not published, or was published anew since it was asked about.
    """
    begun = time.monotonic()
    watcher = _Watcher(task)
    for source in task.sources:
        watcher.source(source)
    if task.served is not None:
        watcher.served(task.served)
    return watcher.publish(begun)


class _Watcher:
    def __init__(self, task: WatchTask):
        self._task, self._lake = task, Lake(task.lake)
        self._seen: list[pages.Seen] = []
        self._notes: list[str] = []
        self._rows_served: int | None = None

    def source(self, source: WatchedSource) -> None:
        """Count one slice, keep its statistics, and take its distances."""
        found = statistics.of_files(self._files(source.key, source.digest), "this slice", self._task.most_rows)
        key = keys.statistics(self._task.delivery, source.source, self._task.window)
        fields = {
            "slice_digest": source.digest, "rows": found.rows, "counted": found.used, "quarantined": source.quarantined,
        }  # fmt: skip
        with self._lake.publish(key, **fields) as draft:
            draft.file("statistics.pb").write_bytes(found.to_bytes())
        log("statistics", source=source.source, rows=found.rows, counted=found.used)
        title = f"{source.source} ({source.contract})"
        seen = pages.Seen(title, found, remark=f"{source.quarantined:,} rows are in quarantine.")
        self._compare(seen, source.source, source.baselines, source.limits, source.event_time)
        for column, said in statistics.anomalies(found, source.tfdv_schema).items():
            self._notes.append(f"{source.source}.{column}: {said}")

    def served(self, served: ServedSample) -> None:
        """Hold what the champion's server was asked with against what the champion was trained on."""
        rows = list(_rows(Path(served.folder), served.features))
        self._rows_served = len(rows)
        if len(rows) < LEAST_SERVED:
            self._notes.append(f"served: {len(rows)} rows are kept, {LEAST_SERVED} are needed to speak of skew")
            return
        parts = [self._lake.local(key, "train.parquet", digest) for key, digest in served.baseline.parts]
        trained = statistics.of_files(parts, served.baseline.name, self._task.most_rows)
        table = _as_trained(rows, served.features, pq.read_schema(parts[0]))
        found = statistics.of_batches(table.to_batches(), "served", table.num_rows)
        seen = pages.Seen("served requests", found, remark="Held against the rows that the champion was trained on.")
        self._hold(seen, drift.SERVED, served.baseline, trained, served.limits, None)
        self._seen.append(seen)

    def publish(self, begun: float) -> WatchReport:
        """Validate by Great Expectations, write all pages, and return the report."""
        task, distances = self._task, [each for seen in self._seen for each in seen.distances]
        breaches = sorted(
            (each for each in distances if each.severity),
            key=lambda each: (-drift.SEVERITIES.index(each.severity or "warn"), -each.distance, each.feature),
        )
        key = keys.report(task.delivery, task.window)
        stops: dict[str, list[str]] = {}
        for each in breaches:
            if each.severity == "stop":
                stops.setdefault(each.source, []).append(each.sentence())
        digests = {each.source: each.digest for each in task.sources}
        stopped = {source: {"digest": digests[source], "said": said} for source, said in stops.items()}
        report = WatchReport(
            delivery=task.delivery,
            window=task.window,
            key=key,
            digest="",
            compared=len(distances),
            breaches=breaches,
            notes=self._notes,
            rows_served=self._rows_served,
        )
        with self._lake.publish(key, delivery=task.delivery, window=task.window.id, stopped=stopped) as draft:
            raw = {each.source: (self._files(each.raw_key, each.raw_digest), each.suite) for each in task.sources}
            broken = expectations.validate(raw, task.window.id, draft.file("data_docs"), task.most_rows)
            log("expectations", broken=sum(len(rules) for rules in broken.values()))
            report = report.model_copy(update={"expectations": broken})
            draft.file("index.html").write_text(pages.glance(report, self._seen), encoding="utf-8")
            draft.file("facets.html").write_text(pages.facets(self._seen), encoding="utf-8")
            listed = json.dumps([each.model_dump() for each in distances], indent=1)
            draft.file("distances.json").write_text(listed, encoding="utf-8")
        seconds = round(time.monotonic() - begun, 2)
        return report.model_copy(update={"digest": self._lake.require(key)["digest"], "seconds": seconds})

    def _compare(
        self, seen: pages.Seen, source: str, baselines: list[Baseline], limits: list[drift.Limit], without: str | None
    ) -> None:
        self._seen.append(seen)
        if not baselines:
            self._notes.append(f"{source}: there is nothing to hold it against, neither a champion nor a slice before")
        if not seen.this.used:
            self._notes.append(f"{source}: the slice has no rows, so nothing is said of drift")
            return
        for baseline in baselines:
            try:
                paths = [path for key, digest in baseline.parts for path in self._files(key, digest)]
            except DataError as error:
                self._notes.append(f"{source}: {baseline.name} is not there any more ({error})")
                continue
            other = statistics.of_files(paths, baseline.name, self._task.most_rows)
            self._hold(seen, source, baseline, other, limits, without)

    def _hold(
        self,
        seen: pages.Seen,
        source: str,
        baseline: Baseline,
        other: Statistics,
        limits: list[drift.Limit],
        without: str | None,
    ) -> None:
        seen.baselines[baseline.kind] = (baseline.name, other)
        measured = statistics.distances(seen.this, other, without)
        seen.distances += _shown(drift.judged(source, baseline, measured, limits))
        apart = statistics.incomparable(seen.this, other)
        if apart:
            self._notes.append(f"{source} against {baseline.name}: {'; '.join(apart)}")

    def _files(self, key: str, digest: str) -> list[Path]:
        """Return a slice's rows, clean or raw: its Parquet files in the order of their names, less the quarantine."""
        names = sorted(self._lake.require(key, digest)["files"])
        wanted = [name for name in names if name.endswith(".parquet") and not name.startswith("quarantine")]
        return [self._lake.local(key, name, digest) for name in wanted]


def _shown(distances: list[Distance]) -> list[Distance]:
    """Return one distance a feature where none has a limit: the L-infinity one of texts."""
    texts = {each.feature for each in distances if each.measure == "linfty"}
    return [e for e in distances if e.measure == "linfty" or e.limit is not None or e.feature not in texts]


def _rows(folder: Path, features: list[str]) -> Iterator[dict[str, Any]]:
    tail = Tail(folder)
    try:
        for served in tail.past():
            yield {name: served.features.get(name) for name in features}
    finally:
        tail.close()


def _as_trained(rows: list[dict[str, Any]], features: list[str], schema: Any) -> Any:
    """Return served rows as a table of the training data's types; a value of another type is no value.

    Served texts are never null: an empty one stands for a missing one, as it does on the wire.
    """
    columns = []
    for name in features:
        kind = schema.field(name).type
        wanted = pa.string() if pa.types.is_string(kind) or pa.types.is_large_string(kind) else pa.float64()
        values = [_fitting(row[name], wanted) for row in rows]
        columns.append(pa.array(values, wanted))
    return pa.table(columns, names=features)


def _fitting(value: Any, wanted: Any) -> Any:
    if wanted == pa.string():
        return value if isinstance(value, str) and value else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
