"""The evaluate task: which champion it is asked about, under which name, and what its log says."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from operators import evaluate
from operators.evaluate import EvaluateOperator
from tidegate.evaluate.task import EvaluateTask
from tidegate.handoff import Dataset, Evaluated, Trained, Window
from tidegate.lake import Lake

WINDOW = Window(start="2013-01-01", end="2013-04-01")
DATASET = Dataset(
    delivery="flights", window=WINDOW, key="datasets/flights/w", train_rows=1, test_rows=1, label="late", features=[],
    digest="d", slices={},
)  # fmt: skip
TRAINED = Trained(
    request_id="week-7",
    key="models/flights/week-7",
    run_id="r",
    workers=2,
    steps=1,
    seconds=1.0,
    metrics={},
    digest="m",
)
PULLED = {"train": TRAINED.model_dump(mode="json"), "dataset": DATASET.model_dump(mode="json")}
CONTEXT = {"ti": SimpleNamespace(xcom_pull=lambda task_ids: PULLED[task_ids])}


@pytest.fixture
def lake(tmp_path, monkeypatch):
    found = Lake(f"file://{tmp_path}")
    monkeypatch.setattr(evaluate, "the_lake", lambda: found)
    return found


@pytest.fixture
def champion(monkeypatch):
    """The version that MLflow names the champion; to be set."""
    named = SimpleNamespace(version=None)
    monkeypatch.setattr(
        evaluate.clients, "connection", lambda _: SimpleNamespace(host="127.0.0.1", port=5, schema=None)
    )
    monkeypatch.setattr(
        evaluate.clients, "registry", lambda _: SimpleNamespace(version_of=lambda delivery, alias: named.version)
    )
    return named


def bundled(lake, version):
    request = {"request_id": "week-6", "delivery": "flights", "window": WINDOW.model_dump(mode="json")}
    story = {
        "optimised": {"target": "onnx"}, "request": request, "dataset": DATASET.model_dump(mode="json"),
        "trained": {"metrics": {"auc": 0.7}},
    }  # fmt: skip
    with lake.publish(f"bundles/flights/v{version}") as draft:
        draft.file("bundle.json").write_text(json.dumps(story))


def operator():
    return EvaluateOperator(task_id="evaluate", delivery="flights", train_task="train", dataset_task="dataset")


def test_the_champion_s_bundle_and_the_delivery_s_settings_are_handed_on(lake, champion):
    bundled(lake, 3)
    champion.version = 3
    workload = operator().workload(CONTEXT)
    assert (workload.name, workload.module) == ("evaluate-flights-week-7-against-v3", "tidegate.evaluate")
    assert workload.environment == "train"
    task = EvaluateTask.model_validate_json(workload.handoff)
    assert task.champion is not None
    assert (task.champion.name, task.reason, task.trained, task.event_time) == (
        "flights-v3",
        None,
        TRAINED,
        "time_hour",
    )
    assert task.evaluate.by == ["carrier", "origin", "month"]
    assert task.tracking == "http://127.0.0.1:5"


@pytest.mark.parametrize(
    ("version", "reason"), [(None, "there is no champion yet"), (9, "bundle cannot be read: nothing")]
)
def test_without_a_champion_s_bundle_the_reason_is_handed_on(lake, champion, version, reason):
    champion.version = version
    workload = operator().workload(CONTEXT)
    task = EvaluateTask.model_validate_json(workload.handoff)
    assert workload.name.endswith("-against-v0")
    assert task.champion is None
    assert reason in (task.reason or "")


def test_the_log_says_figures_with_intervals_and_warns_of_what_is_surely_worse(capsys):
    figures = {
        "auc": 0.8745, "auc_low": 0.8458, "auc_high": 0.8985, "difference_auc": -0.0096, "difference_auc_low": -0.0274,
        "difference_auc_high": 0.0083, "brier": 0.1,
    }  # fmt: skip
    evaluated = Evaluated(
        request_id="week-7", key="evaluations/flights/week-7", digest="e", champion="flights-v3", figures=figures,
        better=["carrier B6: auc"], worse=["carrier UA: log_loss"], too_few=2,
    )  # fmt: skip
    assert operator().finish(CONTEXT, evaluated.to_json()) == evaluated
    said = capsys.readouterr().out
    for level, text in (
        ("info", "auc = 0.8745 (95%: 0.8458 to 0.8985)"),
        ("info", "auc less flights-v3's: -0.0096 (95%: -0.0274 to 0.0083)"),
        ("info", "brier = 0.1000 (no interval)"),
        ("warning", "surely worse than flights-v3: carrier UA: log_loss"),
        ("info", "surely better than flights-v3: carrier B6: auc"),
        ("info", "2 groups have too few rows"),
    ):
        assert any(level in line and text in line for line in said.splitlines()), text


def test_the_log_says_why_there_is_no_comparison(capsys):
    evaluated = Evaluated(request_id="r", key="k", digest="e", reason="there is no champion yet", figures={})
    operator().finish(CONTEXT, evaluated.to_json())
    assert "not compared with a champion: there is no champion yet" in capsys.readouterr().out
