"""Which gangs reconcile removes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from operators import orphans
from tidegate.launch.kubernetes import Gang, KubernetesLauncher

ORIGIN = {"dag": "retrain__flights", "run": "r1", "task": "train", "map": "-1"}
NOW = 1_000_000.0


class Task:
    def __init__(self, states: dict[str, Any]):
        self.states = states
        self.asked: list[dict[str, Any]] = []

    def get_task_states(self, **asked: Any) -> dict[str, Any]:
        self.asked.append(asked)
        return self.states


def removed(
    monkeypatch: pytest.MonkeyPatch, task: Task, age: float = 500.0, origin: dict[str, str] | None = None
) -> Any:
    gang = Gang("train-flights-1", "train-flights-1", "u1", ORIGIN if origin is None else origin, NOW - age)
    gone: list[Gang] = []
    monkeypatch.setattr(orphans, "unix_now", lambda: NOW)
    monkeypatch.setattr(orphans.clients, "connection", lambda _: SimpleNamespace(extra_dejson={}))
    monkeypatch.setattr(KubernetesLauncher, "gangs", lambda self, delivery: [gang])
    monkeypatch.setattr(KubernetesLauncher, "remove", lambda self, each: gone.append(each))
    pods = SimpleNamespace(connection="kubernetes")
    delivery: Any = SimpleNamespace(delivery="flights", train=SimpleNamespace(pods=pods))
    return orphans.remove_orphans(delivery, task), gone


@pytest.mark.parametrize("state", ["running", "deferred", "queued", "up_for_retry", None])
def test_a_gang_whose_task_comes_back_is_let_alone(monkeypatch, state):
    assert removed(monkeypatch, Task({"r1": {"train": state}})) == ([], [])


@pytest.mark.parametrize("state", ["success", "failed", "skipped", "upstream_failed", "removed"])
def test_a_gang_whose_task_has_ended_is_removed_and_said_to_be(monkeypatch, state):
    task = Task({"r1": {"train": state}})
    done, gone = removed(monkeypatch, task)
    assert len(gone) == 1
    assert done == [
        f"gang train-flights-1 was removed: its task retrain__flights r1 train is {state}, and nobody waits for it"
    ]
    assert task.asked == [{"dag_id": "retrain__flights", "task_ids": ["train"], "run_ids": ["r1"]}]


def test_a_gang_of_a_run_that_is_no_more_is_removed_and_one_that_says_nothing_of_its_task_too(monkeypatch):
    assert len(removed(monkeypatch, Task({}))[1]) == 1
    assert len(removed(monkeypatch, Task({}), origin={})[1]) == 1


def test_a_gang_that_was_only_just_started_is_let_alone(monkeypatch):
    assert removed(monkeypatch, Task({"r1": {"train": "failed"}}), age=60.0) == ([], [])
