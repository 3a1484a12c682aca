"""Watching a window for real: the workload in its own environment, on slices of every awkward shape."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidegate import keys
from tidegate.contract.odcs import read_contract
from tidegate.contract.targets.great_expectations import compile_contract as suite_of
from tidegate.contract.targets.tfdv import compile_contract as schema_of
from tidegate.delivery import project_root
from tidegate.handoff import Window
from tidegate.lake import Lake
from tidegate.served import FOLDER, Served
from tidegate.validate.drift import Baseline, ServedSample, WatchedSource, WatchReport, WatchTask, limits_of, stopped

PYTHON = project_root() / ".envs" / "validate" / "bin" / "python"
JANUARY = Window(start="2013-01-01", end="2013-02-01")
FEBRUARY = Window(start="2013-02-01", end="2013-03-01")
CONTRACT = """
apiVersion: v3.1.0
kind: DataContract
id: parts
name: Parts
version: 1.0.0
status: active
schema:
  - name: parts
    properties:
      - name: colour
        logicalType: string
        physicalType: text
        required: true
        customProperties:
          - {property: drift, value: {linfty: {warn: 0.1, retrain: 0.3, stop: 0.9}}}
          - {property: skew, value: {linfty: {warn: 0.1, retrain: 0.3}}}
      - name: weight
        logicalType: number
        physicalType: double
        customProperties: [{property: drift, value: {jensenShannon: 0.2}}]
      - {name: same, logicalType: integer, physicalType: integer}
      - {name: nothing, logicalType: string, physicalType: text}
      - name: at
        logicalType: timestamp
        physicalType: timestamptz
        customProperties: [{property: eventTime, value: true}]
"""
TYPES = {"colour": pa.string(), "weight": pa.float64(), "same": pa.int32(), "nothing": pa.string()}
SCHEMA = pa.schema({**TYPES, "at": pa.timestamp("us", "UTC")})


def rows(count: int, red: float = 0.5, heavier: float = 0.0, **more: Any) -> pa.Table:
    """So many parts, a share of them red; `more` are columns or, as None, columns to leave out."""
    red_ones = round(count * red)
    columns: dict[str, Any] = {
        "colour": ["red"] * red_ones + ["blue"] * (count - red_ones),
        "weight": [float(n % 100) + heavier for n in range(count)],
        "same": [7] * count,
        "nothing": [None] * count,
        "at": [JANUARY.start] * count,
    }
    table = pa.table(columns, schema=SCHEMA)
    for name, values in more.items():
        table = table.append_column(name, values)
    return table


class Place:
    """A lake with slices of one source, and what its watching said."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.lake = Lake((folder / "lake").as_uri())
        (folder / "parts.yaml").write_text(CONTRACT, encoding="utf-8")
        self.contract = read_contract(folder / "parts.yaml")

    def publish(self, source: str, window: Window, clean: pa.Table, raw: pa.Table | None = None) -> tuple[str, str]:
        for key, name, table in (
            (keys.validated("d", source, window), "clean.parquet", clean),
            (keys.raw("d", source, window), "raw.parquet", clean if raw is None else raw),
        ):
            with self.lake.publish(key) as draft:
                pq.write_table(table, draft.file(name))
                if name.startswith("clean"):
                    pq.write_table(clean.slice(0, 0), draft.file("quarantine.parquet"))
        key = keys.validated("d", source, window)
        return key, str(self.lake.require(key)["digest"])

    def source(self, name: str, mine: pa.Table, before: pa.Table | None, kind: Any = "champion") -> WatchedSource:
        key, digest = self.publish(name, FEBRUARY, mine)
        raw = keys.raw("d", name, FEBRUARY)
        baselines = []
        if before is not None:
            parts = [self.publish(name, JANUARY, before)]
            baselines = [Baseline(kind=kind, name=f"{kind} one", parts=parts)]
        return WatchedSource(
            source=name, contract="parts 1.0.0", key=key, digest=digest, raw_key=raw,
            raw_digest=self.lake.require(raw)["digest"], clean=mine.num_rows, quarantined=3, event_time="at",
            limits=limits_of(self.contract.columns), baselines=baselines, tfdv_schema=str(schema_of(self.contract)),
            suite=suite_of(self.contract),
        )  # fmt: skip

    def served(self, red: float, count: int) -> ServedSample:
        key = keys.dataset("d", JANUARY)
        with self.lake.publish(key) as draft:
            pq.write_table(rows(1000).select(["colour", "weight", "same"]), draft.file("train.parquet"))
        kept = self.folder / "d-v1" / FOLDER / "a.jsonl"
        kept.parent.mkdir(parents=True)
        few = rows(count, red=red).to_pylist()
        asked = [{name: row[name] for name in ("colour", "weight", "same")} for row in few]
        kept.write_bytes(b"".join(Served("", "0" * 32, each, 0.5, 0.0).to_line() for each in asked))
        parts = [(key, str(self.lake.require(key)["digest"]))]
        return ServedSample(
            folder=str(self.folder / "d-v1"), size=1, features=["colour", "weight", "same"],
            limits=limits_of(self.contract.columns, "skew"),
            baseline=Baseline(kind="champion", name="training data of d-v1", parts=parts),
        )  # fmt: skip

    def watch(self, sources: list[WatchedSource], **more: Any) -> tuple[WatchReport, list[dict[str, Any]]]:
        task = WatchTask(delivery="d", window=FEBRUARY, lake=self.lake.url, sources=sources, **more)
        given, out = self.folder / "in.json", self.folder / "out.json"
        given.write_text(task.to_json(), encoding="utf-8")
        command = [PYTHON, "-m", "tidegate.validate", "--handoff", given, "--out", out]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        report = WatchReport.model_validate_json(out.read_text(encoding="utf-8"))
        return report, json.loads(self.lake.read(report.key, "distances.json"))

    def page(self, report: WatchReport, name: str) -> str:
        return self.lake.read(report.key, name).decode()


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, WatchReport, list[dict[str, Any]]]:
    """One window with sources of all sorts: the imports are paid once."""
    place = Place(tmp_path_factory.mktemp("watch"))
    texts = rows(400).set_column(1, "weight", pa.array([str(n) for n in range(400)]))
    sources = [
        place.source("steady", rows(1000), rows(1000)),
        place.source("shifted", rows(1000, red=0.9, heavier=500.0), rows(1000)),
        place.source("shifted_since", rows(1000, red=0.9), rows(1000), kind="previous"),
        place.source("gone", rows(1000, red=0.0).set_column(0, "colour", pa.array(["<b>"] * 1000)), rows(1000)),
        place.source("empty", rows(0), rows(1000)),
        place.source("first", rows(10), None),
        place.source("wider", rows(300, extra=pa.array(range(300))), rows(300)),
        place.source("emptied", rows(300).set_column(1, "weight", pa.nulls(300, pa.float64())), rows(300)),
        place.source("retyped", texts, rows(400)),
    ]
    report, distances = place.watch(sources, served=place.served(red=0.95, count=400))
    return place, report, distances


def breaches(report: WatchReport, source: str) -> dict[tuple[str, str], str | None]:
    return {(e.feature, e.measure): e.severity for e in report.breaches if e.source == source}


def test_the_distance_of_texts_is_the_largest_difference_of_their_shares(seen: Any) -> None:
    _, _, distances = seen
    (found,) = [d for d in distances if (d["source"], d["feature"]) == ("shifted", "colour")]
    assert found["distance"] == pytest.approx(0.4, abs=1e-6)
    assert (found["measure"], found["limit"], found["severity"]) == ("linfty", 0.3, "retrain")
    (weight,) = [d for d in distances if (d["source"], d["feature"]) == ("shifted", "weight")]
    assert weight["distance"] == pytest.approx(1.0, abs=1e-3), "no weight of either lies among the other's"


def test_what_lies_within_its_limits_is_no_breach_and_the_same_data_have_no_distance(seen: Any) -> None:
    _, report, distances = seen
    assert breaches(report, "steady") == {}
    assert {d["distance"] for d in distances if d["source"] == "steady"} == {0.0}


def test_the_most_severe_limit_that_is_exceeded_counts(seen: Any) -> None:
    place, report, _ = seen
    assert breaches(report, "shifted") == {("colour", "linfty"): "retrain", ("weight", "jensenShannon"): "warn"}
    assert breaches(report, "gone") == {("colour", "linfty"): "stop"}
    assert report.breaches[0].source == "gone", "the worst first"
    digest = place.lake.require(keys.validated("d", "gone", FEBRUARY))["digest"]
    assert stopped(place.lake, {f"gone/{FEBRUARY.id}": digest, f"shifted/{FEBRUARY.id}": "x"}, "d") == {
        f"gone/{FEBRUARY.id}": "gone.colour lies 1.000 (L-infinity, limit 0.9) from champion one: stop"
    }
    assert stopped(place.lake, {f"gone/{FEBRUARY.id}": "another revision"}, "d") == {}


def test_a_distance_to_the_slice_before_asks_for_no_new_model(seen: Any) -> None:
    _, report, _ = seen
    assert breaches(report, "shifted_since") == {("colour", "linfty"): "warn"}


def test_awkward_slices_are_said_in_words_and_stop_nothing(seen: Any) -> None:
    _, report, distances = seen
    notes = "\n".join(report.notes)
    assert "empty: the slice has no rows, so nothing is said of drift" in notes
    assert "first: there is nothing to hold it against, neither a champion nor a slice before" in notes
    assert "wider against champion one: extra is new" in notes
    assert "emptied against champion one: nothing has no values here; weight has no values here" in notes.replace(
        "weight has no values here; nothing has no values here", "nothing has no values here; weight has no values here"
    )
    assert "weight is of another type" in notes
    assert all(math.isfinite(d["distance"]) for d in distances)
    assert not [d for d in distances if d["feature"] == "at"], "the event time is about the window itself"
    assert {e.source for e in report.breaches} == {"shifted", "shifted_since", "gone", "served"}


def test_served_requests_are_held_against_what_the_champion_was_trained_on(seen: Any) -> None:
    _, report, _ = seen
    assert report.rows_served == 400
    assert breaches(report, "served") == {("colour", "linfty"): "retrain"}
    (skew,) = [e for e in report.breaches if e.source == "served"]
    assert skew.distance == pytest.approx(0.45, abs=1e-6)
    assert skew.sentence() == ("served.colour lies 0.450 (L-infinity, limit 0.3) from training data of d-v1: retrain")


def test_the_page_shows_drift_without_scripts_and_without_the_internet(seen: Any) -> None:
    place, report, _ = seen
    page = place.page(report, "index.html")
    assert "http" not in page
    assert "<script" not in page
    assert "shifted.colour lies 0.400 (L-infinity, limit 0.3) from champion one: retrain" in page
    assert "&lt;b&gt;" in page
    assert "<b>" not in page, "values are data, never markup"
    assert page.count("<svg") > 10
    assert "always 7" in page
    assert "facets-overview proto-input" in place.page(report, "facets.html")


def test_data_docs_are_pages_that_load_nothing(seen: Any) -> None:
    place, report, _ = seen
    names = [name for name in place.lake.require(report.key)["files"] if name.startswith("data_docs/")]
    assert len(names) > 2 * 9
    for name in names:
        text = place.page(report, name)
        assert "<script" not in text, name
        assert 'src="http' not in text, name
        assert "<link" not in text, name
    first = place.page(report, "data_docs/index.html")
    links = [part.partition("'")[0] for part in first.split("href='")[1:]]
    assert all((f"data_docs/{link}" in names) or link == "../index.html" for link in links)
    assert len(links) == 10


def test_statistics_have_the_same_bytes_again_and_of_many_rows_a_sample_is_counted(seen: Any) -> None:
    place, _, _ = seen
    key = keys.statistics("d", "shifted", FEBRUARY)
    first = place.lake.require(key)
    assert (first["rows"], first["counted"], first["quarantined"]) == (1000, 1000, 3)
    place.folder = place.folder / "again"
    place.folder.mkdir()
    again = place.source("shifted", rows(1000, red=0.9, heavier=500.0), rows(1000))
    many = place.source("many", rows(5000), rows(5000))
    report, distances = place.watch([again, many], served=place.served(red=0.95, count=20), most_rows=1000)
    assert place.lake.require(key)["digest"] == first["digest"]
    counted = place.lake.require(keys.statistics("d", "many", FEBRUARY))
    assert counted["rows"] == 5000
    assert 950 <= counted["counted"] <= 1050
    assert breaches(report, "many") == {}
    assert {d["distance"] for d in distances if d["source"] == "many"} == {0.0}, "both samples have the same rows"
    assert "served: 20 rows are kept, 200 are needed to speak of skew" in report.notes
