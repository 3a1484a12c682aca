"""The demonstration's report: whose fault a failed request was, and what the files hold."""

from __future__ import annotations

import json

from tidegate.demo import report
from tidegate.demo.recorder import Recorder, by_switching, is_failed
from tidegate.gate.load import Answer


def answer(at, status=200, version="flights-v1", upstream=True, latency=0.01):
    return Answer(at, latency, status, version, upstream)


def test_an_error_of_a_versions_own_server_is_not_blamed_on_switching():
    own, local, lost = answer(1, 500), answer(1, 503, None, False), answer(1, 0, None, False)
    assert [is_failed(a) for a in (answer(1), own, local, lost)] == [False, True, True, True]
    assert [by_switching(a) for a in (answer(1), own, local, lost)] == [False, False, True, True]


def test_seconds_are_counted_per_version():
    recorder = Recorder()
    for each in (answer(10.1), answer(10.9, 500), answer(11.0), answer(10.5, version="flights-v2", latency=0.2)):
        recorder.add(each)
    first, second = recorder.seconds("flights-v1")
    assert (first.at, first.requests, first.failed) == (10, 2, 1)
    assert (second.at, second.requests, second.failed) == (11, 1, 0)
    assert recorder.seconds("flights-v2")[0].p99_ms == 200
    assert recorder.versions() == ["flights-v1", "flights-v2"]
    assert [a.scheduled_at for a in recorder.between(10.5, 11.0)] == [10.9, 10.5]


def test_the_report_shows_every_delivery_and_keeps_the_figures(tmp_path):
    recorder = Recorder()
    for at in range(20):
        recorder.add(answer(100 + at, version="flights-v1"))
        recorder.add(answer(100 + at, 500 if at > 10 else 200, version="flights-v2"))
    bad = {
        "version": "flights-v2", "outcome": "rolled_back", "reason": "errors <3> above 2", "requests": 20, "failed": 9,
        "failed_by_switching": 0, "first_bad_at": 111.0, "detected_at": 113.0, "zero_at": 113.5,
    }  # fmt: skip
    figures = {
        "wall_s": 1.0, "stack_ready_s": 1.0, "services": [{"name": "kafka", "version": "4", "ready_s": 1, "rss_mb": 2}],
        "ingest": [], "training": [], "deliveries": [bad], "dag_runs": [],
    }  # fmt: skip
    weights = [
        {"at": 100, "weights": {"flights-v1": 90, "flights-v2": 10}},
        {"at": 113, "weights": {"flights-v1": 100}},
    ]
    page = report.write(tmp_path, figures, recorder, weights).read_text()
    assert json.loads((tmp_path / "report.json").read_text()) == figures
    assert "errors &lt;3&gt; above 2" in page, "text from outside is escaped"
    assert "2.5 s" in page
    assert "<svg" in page
    assert (tmp_path / "timeline.png").stat().st_size > 10_000


def test_a_report_without_any_traffic_is_still_a_report(tmp_path):
    figures = {"wall_s": 1.0, "stack_ready_s": 1.0, "services": [], "ingest": [], "training": [], "deliveries": []}
    page = report.write(tmp_path, {**figures, "dag_runs": []}, Recorder(), [])
    assert page.exists()
