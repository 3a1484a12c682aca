"""What a gang is told by the train task: where it finds files, checkpoints and MLflow; and the link to its run."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from operators import train
from operators.links import MLFLOW_RUN
from operators.train import TrainOperator
from tests.unit.train.test_tracking import TASK
from tidegate import workload
from tidegate.delivery import delivery_named
from tidegate.delivery.pods import PodsSpec
from tidegate.handoff import TrainTask

MLFLOW = SimpleNamespace(host="mlflow.here", port=5000, schema="http")


def told(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> TrainTask:
    """Return the task of a gang of the example's delivery, with changes to its `train`."""
    spec = delivery_named("flights")
    delivery = spec.model_copy(update={"train": spec.train.model_copy(update=changes)})
    results = {"request": TASK.request.model_dump(mode="json"), "dataset": TASK.dataset.model_dump(mode="json")}
    task = SimpleNamespace(xcom_pull=lambda task_ids: results[task_ids])
    monkeypatch.setattr(train, "the_delivery", lambda name: delivery)
    monkeypatch.setattr(train.clients, "connection", lambda name: MLFLOW)
    monkeypatch.setenv("TIDEGATE_LAKE", "file:///lake")
    monkeypatch.setenv("TIDEGATE_VAR", "/var/here")
    operator = TrainOperator(task_id="train", delivery="flights", request_task="request", dataset_task="dataset")
    return TrainTask.model_validate_json(operator.workload({"ti": task}).handoff)


def test_files_are_named_from_the_project_s_root_which_is_another_one_in_an_image(monkeypatch):
    task = told(monkeypatch)
    assert (task.model_file, task.lock) == ("examples/flights/model.py", "docker/train/requirements.txt")


def test_pods_keep_checkpoints_in_the_lake_and_find_mlflow_where_they_are_told(monkeypatch):
    pods = PodsSpec(image="train:1", tracking="http://mlflow.mlflow:5000")
    task = told(monkeypatch, launcher="kubernetes", pods=pods)
    assert task.work == "file:///lake/checkpoints/train-flights-r1"
    assert task.tracking == "http://mlflow.mlflow:5000"


def test_processes_keep_checkpoints_beside_airflow_and_use_its_connection(monkeypatch):
    task = told(monkeypatch)
    assert task.work == "/var/here/checkpoints/train-flights-r1"
    assert task.tracking == "http://mlflow.here:5000"
    assert told(monkeypatch, launcher="kubernetes", pods=PodsSpec(image="train:1")).tracking == task.tracking


def test_a_member_looks_for_files_below_its_own_root(monkeypatch, tmp_path):
    found: list[TrainTask] = []
    monkeypatch.setenv("TIDEGATE_ROOT", str(tmp_path))
    monkeypatch.setattr("tidegate.train.member.train", found.append)
    monkeypatch.setattr(workload, "main", lambda kind, work: work(TASK.model_copy(update={"lock": "/abs/lock"})) or 0)
    with pytest.raises(SystemExit):
        runpy.run_module("tidegate.train", run_name="__main__")
    assert Path(found[0].model_file) == tmp_path / "model.py"
    assert found[0].lock == "/abs/lock"


def test_the_link_opens_the_run_of_the_task_s_own_result(monkeypatch):
    monkeypatch.setattr("operators.links.clients.connection", lambda name: MLFLOW)

    def link(result: Any) -> str:
        task = SimpleNamespace(xcom_pull=lambda task_ids: result if task_ids == "train" else None)
        return MLFLOW_RUN.get_link(SimpleNamespace(task_id="train"), ti_key=task)

    assert link({"run_id": "abc"}) == "http://mlflow.here:5000/#/runs/abc"
    assert (link(None), link({"run_id": None})) == ("", "")
