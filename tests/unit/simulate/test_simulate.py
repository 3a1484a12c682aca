"""A plan and the judge replayed over recorded counters, as the command does it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import simulated
from tidegate.cli import app
from tidegate.delivery import Limits, PredictionsLimit, QualitySpec, RolloutSpec, Stage, project_root
from tidegate.errors import DataError
from tidegate.judge import Sample, Scrape
from tidegate.simulate import read, replay, write

SPEC = RolloutSpec(
    stages=[Stage(weight=0.1, requests=500, at_least=20), Stage(weight=1.0, requests=500, at_least=20)],
    limits=Limits(errors=0.05, p99=0.5),
)
KIND = simulated.KINDS[0]


def header(edges=simulated.EDGES):
    named = [f"latency_le_{'inf' if edge == float('inf') else f'{edge:g}'}" for edge in edges]
    return ["run", "time_s", "version", "requests_total", "errors_total", *named]


def rows(name, candidate, seconds=90, seed=1, kind=KIND, start=0.0):
    """Yield a run's rows, counters cumulative from `start` requests on."""
    totals = {version: np.full(2 + len(simulated.EDGES), start) for version in ("champion", "candidate")}
    for version, total in totals.items():
        yield [name, 0, version, *total.tolist()]
    for one in simulated.run(kind, candidate, seconds, np.random.default_rng(seed)):
        for version, did in (("champion", one.champion), ("candidate", one.candidate)):
            totals[version][:2] += (did.requests, did.errors)
            totals[version][2:] += np.cumsum(did.buckets)
            yield [name, one.end, version, *totals[version].tolist()]


def series(path: Path, *runs, head=None):
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(head or header())
        for run in runs:
            out.writerows(run)
    return path


def replayed(path: Path, spec=SPEC):
    return {one.run: one for one in (replay(run, spec) for run in read(path))}


def test_good_bad_and_short_runs_of_one_file_end_as_they_should(tmp_path):
    path = series(
        tmp_path / "s.csv",
        rows("good", KIND.base),
        rows("failing", simulated.worse(KIND.base, errors=0.2)),
        rows("slow", simulated.worse(KIND.base, median_ms=15.0), start=1e6),
        rows("short", KIND.base, seconds=10),
    )
    found = replayed(path)
    assert {name: one.outcome for name, one in found.items()} == {
        "good": "promoted", "failing": "rolled_back", "slow": "rolled_back", "short": "held",
    }  # fmt: skip
    assert found["failing"].decided_at_s <= 5
    assert found["failing"].candidate_requests < 120
    assert "failed" in found["failing"].reason
    assert "slower than 1.25x the champion" in found["slow"].reason
    assert (found["short"].decided_at_s, found["short"].candidate_requests > 100) == (None, True)
    assert "the record ends: too few requests" in found["short"].reason


def test_a_run_at_half_the_traffic_is_judged_as_that_stage(tmp_path):
    half = simulated.Kind("half", weight=0.5)
    spec = SPEC.model_copy(update={"stages": [SPEC.stages[0], Stage(weight=0.5, requests=9000), SPEC.stages[1]]})
    found = replayed(series(tmp_path / "s.csv", rows("half", KIND.base, kind=half, seconds=60)), spec)["half"]
    assert found.verdicts[0].stage == "50"
    assert found.outcome == "held"


def test_a_plan_that_also_judges_what_is_said_is_replayed_without_that(tmp_path):
    runs = read(
        series(tmp_path / "s.csv", rows("good", KIND.base), rows("bad", simulated.worse(KIND.base, errors=0.2)))
    )
    asks = SPEC.model_copy(update={"quality": QualitySpec(predictions=PredictionsLimit())})
    assert [replay(run, asks) for run in runs] == [replay(run, SPEC) for run in runs]


def test_a_gap_holds_and_goes_on(tmp_path):
    gap = [row for row in rows("gap", KIND.base) if not 10 < row[1] < 30]
    found = replayed(series(tmp_path / "s.csv", gap))["gap"]
    assert found.outcome == "promoted"
    assert found.decided_at_s > 30.0, "not with the scrape that ends the gap"


def test_an_exported_rollout_is_judged_stage_after_stage(tmp_path):
    scrapes = []
    for second in range(81):
        share = 20 if second <= 40 else 200
        mine = 20 * min(second, 40) + share * max(second - 40, 0)
        theirs = 180 * min(second, 40)
        versions = {
            "flights-v2": Sample(mine, 0, {5.0: mine, float("inf"): mine}),
            "flights-v1": Sample(theirs, 0, {5.0: theirs, float("inf"): theirs}),
        }
        scrapes.append((0 if second <= 40 else 1, Scrape(1000.0 + second, versions)))
    path = tmp_path / "flights-v2.csv"
    assert write(path, "rollout__flights/r1", scrapes, "flights-v2", "flights-v1") == 162
    found = replayed(path)["rollout__flights/r1"]
    assert [(one.stage, one.decision) for one in found.verdicts] == [("10", "pass"), ("100", "pass")]
    assert found.outcome == "promoted"


@pytest.mark.parametrize(
    ("head", "row", "says"),
    [
        (["run", "time_s"], None, "has no column version, requests_total, errors_total, latency_le_<ms>"),
        ([*header()[:5], "latency_le_5"], None, "no column latency_le_inf"),
        ([*header()[:5], "latency_le_fast", "latency_le_inf"], None, "'latency_le_fast' names no edge"),
        (None, ["r", "x", "champion"], ":2: "),
        (None, ["r", 1, "canary", 1, 0, *[1] * 43], ":2: version is 'canary'; write one of candidate, champion"),
    ],
)
def test_a_file_that_is_no_series_is_named_with_its_line(tmp_path, head, row, says):
    path = series(tmp_path / "s.csv", [row] if row else [], head=head)
    with pytest.raises(DataError, match=r"s\.csv") as caught:
        read(path)
    assert says in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.csv cannot be read"):
        read(tmp_path / "nowhere.csv")


def test_the_command_prints_an_object_per_run_or_a_table(tmp_path):
    path = series(tmp_path / "s.csv", rows("a", KIND.base), rows("b", simulated.worse(KIND.base, errors=1.0)))
    delivery = str(project_root() / "schemas" / "deliveries" / "flights.yaml")
    told = CliRunner().invoke(app, ["simulate", delivery, str(path), "--json"])
    assert told.exit_code == 0, told.output
    objects = [json.loads(line) for line in told.stdout.splitlines()]
    assert [one["run"] for one in objects] == ["a", "b"]
    assert objects[1]["outcome"] == "rolled_back"
    assert {"run", "outcome", "decided_at_s", "candidate_requests", "reason", "verdicts"} <= set(objects[0])
    table = CliRunner().invoke(app, ["simulate", delivery, str(path)])
    assert "2 runs" in table.output
    wrong = CliRunner().invoke(app, ["simulate", delivery, str(tmp_path / "none.csv")])
    assert wrong.exit_code == DataError.exit_code
