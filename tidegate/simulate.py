"""Replays a delivery's plan and judge over recorded counters: what would it have done last Tuesday?

A series is a CSV file with the columns `run, time_s, version, requests_total, errors_total, latency_le_<ms> ...,
latency_le_inf`: cumulative counters as Prometheus gives them, `version` being `champion` or `candidate`. A run without
the column `stage` is judged as one stage, the one of the plan whose weight is nearest to the candidate's share; with it
(as `tidegate rollouts export` writes), stage after stage. What the versions said (`rollout.quality`) is in no column,
so it is no part of a replay.
"""

from __future__ import annotations

import csv
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tidegate.errors import DataError
from tidegate.judge import Did, Interval, StageJudge, budgets
from tidegate.judge.series import GAP_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tidegate.delivery import RolloutSpec
    from tidegate.judge.series import Scrape

_NEEDED = ("run", "time_s", "version", "requests_total", "errors_total")
_EDGE = "latency_le_"
VERSIONS = ("candidate", "champion")


@dataclass(frozen=True)
class Said:
    """One stage's verdict, or the last one of a run that came to none."""

    stage: str
    decision: str
    at_s: float
    reason: str
    candidate_requests: float
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Replay:
    """What would have become of one recorded run."""

    run: str
    outcome: str
    """promoted, rolled_back or held."""
    decided_at_s: float | None
    """Seconds from the run's first scrape; None while held."""
    candidate_requests: float
    """Answers of the candidate until then."""
    reason: str
    verdicts: tuple[Said, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return asdict(self)


@dataclass(frozen=True)
class Recorded:
    """One run's counters: times [scrapes], and per version counts [scrapes, 2 + edges] (NaN: not in that scrape)."""

    name: str
    times: NDArray[np.float64]
    stages: NDArray[np.int64]
    """The plan's stage of each scrape; -1 where the file does not say."""
    edges: tuple[float, ...]
    counts: dict[str, NDArray[np.float64]]

    def intervals(self) -> Iterator[Interval]:
        """Yield what lies between consecutive scrapes, as `tidegate.judge.series.intervals` does for live ones."""
        did = {version: list(self._did(self.counts[version])) for version in self.counts}
        for place in range(len(self.times) - 1):
            both = [did[version][place] if version in did else (None, False) for version in VERSIONS]
            start, end = float(self.times[place]), float(self.times[place + 1])
            broken = any(began for _, began in both) or end - start > GAP_S
            yield Interval(start, end, both[0][0], both[1][0], broken)

    def _did(self, counts: NDArray[np.float64]) -> Iterator[tuple[Did | None, bool]]:
        usable: NDArray[np.bool_] = np.asarray(np.isfinite(counts).all(axis=1) & (counts >= 0).all(axis=1))
        began = counts[1:, 0] < counts[:-1, 0]
        base = np.where(began[:, None], 0.0, counts[:-1])
        plain = counts[1:] - base
        buckets = np.maximum(np.diff(plain[:, 2:], axis=1, prepend=0.0), 0.0)
        known = np.logical_and(usable[1:], usable[:-1])
        for place, is_known in enumerate(known.tolist()):
            if not is_known:
                yield None, False
                continue
            requests, errors = plain[place, :2].tolist()
            yield Did(requests, max(errors, 0.0), self.edges, tuple(buckets[place].tolist())), bool(began[place])


def read(path: Path) -> list[Recorded]:
    """Read a series, run by run in the order of the file.

    Raises:
        DataError: the file is missing, lacks a column, or has a value that is none.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            return list(_runs(path, header, rows))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}; export it anew, or mend it") from error


def _runs(path: Path, header: Sequence[str], rows: Any) -> Iterator[Recorded]:
    missing = [name for name in _NEEDED if name not in header]
    names = [name for name in header if name.startswith(_EDGE)]
    if missing or not names:
        lacks = ", ".join([*missing, *([] if names else [f"{_EDGE}<ms>"])])
        raise DataError(f"{path} has no column {lacks}; its columns are {', '.join(header) or 'none'}; see --help")
    edges = sorted((_edge(path, name), header.index(name)) for name in names)
    if not math.isinf(edges[-1][0]):
        raise DataError(f"{path} has no column {_EDGE}inf, which counts all answers; add it")
    at = {name: header.index(name) for name in (*_NEEDED, "stage") if name in header}
    numbers = [at["time_s"], at["requests_total"], at["errors_total"], *(place for _, place in edges)]
    found: dict[str, list[tuple[str, int, list[float]]]] = {}
    for line, row in enumerate(rows, start=2):
        try:
            version, values = row[at["version"]], [float(row[place] or "nan") for place in numbers]
            stage = int(row[at["stage"]]) if "stage" in at else -1
        except (IndexError, ValueError) as error:
            raise DataError(f"{path}:{line}: {error}; every column but run and version is a number") from error
        if version not in VERSIONS:
            raise DataError(f"{path}:{line}: version is {version!r}; write one of {', '.join(VERSIONS)}")
        found.setdefault(row[at["run"]], []).append((version, stage, values))
    for name, of_run in found.items():
        yield _recorded(name, of_run, tuple(edge for edge, _ in edges))


def _edge(path: Path, name: str) -> float:
    try:
        return float(name.removeprefix(_EDGE))
    except ValueError as error:
        raise DataError(f"{path}: column {name!r} names no edge; write {_EDGE}<milliseconds> or {_EDGE}inf") from error


def _recorded(name: str, rows: list[tuple[str, int, list[float]]], edges: tuple[float, ...]) -> Recorded:
    times = np.unique([values[0] for _, _, values in rows])
    stages = np.full(len(times), -1, dtype=np.int64)
    counts: dict[str, NDArray[np.float64]] = {}
    for version in {version for version, _, _ in rows}:
        counts[version] = np.full((len(times), 2 + len(edges)), np.nan)
    places = np.searchsorted(times, [values[0] for _, _, values in rows])
    for place, (version, stage, values) in zip(places.tolist(), rows, strict=True):
        counts[version][place] = values[1:]
        stages[place] = stage
    return Recorded(name, times, stages, edges, counts)


def replay(recorded: Recorded, spec: RolloutSpec) -> Replay:
    """Judge one run as it would have been judged live, a look after every scrape."""
    begin = float(recorded.times[0]) if len(recorded.times) else 0.0
    judges = _Judges(recorded, spec, begin)
    said: list[Said] = []
    last: tuple[StageJudge, float] | None = None
    requests = 0.0
    for interval, stage in zip(recorded.intervals(), recorded.stages[1:].tolist(), strict=True):
        judge = judges.of(stage, interval.start)
        if judge is None:  # passed already, but the recorded traffic stayed in that stage
            continue
        judge.take(interval)
        last = (judge, interval.end)
        if not judge.is_decided(interval.end):
            continue
        verdict = judge.verdict(interval.end)
        requests += judge.candidate.requests
        said.append(_said(judges.name, verdict, interval.end - begin, judge.candidate.requests))
        if verdict.decision == "fail" or judges.ends():
            outcome = "promoted" if verdict.decision == "pass" else "rolled_back"
            return Replay(recorded.name, outcome, interval.end - begin, requests, verdict.reason, tuple(said))
        last = None
    if last is None:
        reason = said[-1].reason if said else "the run has no two scrapes"
        return Replay(recorded.name, "held", None, requests, f"the record ends: {reason}", tuple(said))
    judge, end = last
    verdict = judge.verdict(end)
    said.append(_said(judges.name, verdict, end - begin, judge.candidate.requests))
    return Replay(
        recorded.name,
        "held",
        None,
        requests + judge.candidate.requests,
        f"the record ends: {verdict.reason}",
        tuple(said),
    )


class _Judges:
    """Gives the judge of each recorded stage in turn."""

    def __init__(self, recorded: Recorded, spec: RolloutSpec, begin: float):
        self._spec, self._begin = spec, begin
        self._alone = bool((recorded.stages < 0).all())
        self._nearest = _nearest(recorded, spec)
        self._last = int(recorded.stages.max()) if len(recorded.stages) else -1
        self._stage: int | None = None
        self._judge: StageJudge | None = None

    @property
    def name(self) -> str:
        """The present stage's name."""
        return self._spec.stages[self._stage or 0].name

    def of(self, stage: int, start: float) -> StageJudge | None:
        """Return the judge of a recorded stage; None once it has passed."""
        position = self._nearest if self._alone else min(max(stage, 0), len(self._spec.stages) - 1)
        if position != self._stage:
            self._stage, self._judge = position, self._new(position, start)
        return self._judge

    def ends(self) -> bool:
        """Whether the stage that has just passed is the run's last one; the next interval needs no judge then."""
        self._judge = None
        return self._alone or self._stage == min(self._last, len(self._spec.stages) - 1)

    def _new(self, position: int, start: float) -> StageJudge:
        stage = self._spec.stages[position]
        spec = self._spec.model_copy(update={"quality": None})  # a series has no column about what was said
        compared = [place for place, one in enumerate(self._spec.stages) if one.percent < 100]
        budget = self._spec.false_alarms if self._alone else budgets(self._spec)[position]
        until = min(self._begin + self._spec.deadline, start + (stage.at_most or math.inf))
        shows_equal = self._alone or position == compared[-1]
        return StageJudge(stage, spec, budget, start, until, shows_equal)


def _nearest(recorded: Recorded, spec: RolloutSpec) -> int:
    """Return the stage whose weight is nearest to the candidate's share of all requests."""
    gained = {
        version: float(np.nansum(np.maximum(np.diff(counts[:, 0]), 0.0))) for version, counts in recorded.counts.items()
    }
    total = sum(gained.values())
    share = gained.get("candidate", 0.0) / total if total else 0.0
    return min(range(len(spec.stages)), key=lambda place: abs(spec.stages[place].share - share))


def _said(stage: str, verdict: Any, at_s: float, requests: float) -> Said:
    return Said(stage, verdict.decision, at_s, verdict.reason, requests, verdict.figures)


def write(path: Path, run: str, scrapes: Sequence[tuple[int, Scrape]], candidate: str, champion: str | None) -> int:
    """Write one rollout's scrapes, each with the position of its stage, as a series; return the rows written."""
    edges = sorted({edge for _, scrape in scrapes for sample in scrape.versions.values() for edge in sample.within})
    header = [*_NEEDED, "stage", *(f"{_EDGE}{'inf' if math.isinf(edge) else f'{edge:g}'}" for edge in edges)]
    rows = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(header)
        for stage, scrape in scrapes:
            for role, name in (("champion", champion), ("candidate", candidate)):
                sample = scrape.versions.get(name or "")
                if sample is not None:
                    counts = [sample.within.get(edge, 0.0) for edge in edges]
                    out.writerow([run, f"{scrape.at:.3f}", role, sample.requests, sample.errors, stage, *counts])
                    rows += 1
    return rows
