"""What becomes of a workload whose waiting task a person takes away."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from operators.triggers import workload
from operators.triggers.workload import WorkloadTrigger

TASK = SimpleNamespace(dag_id="retrain__flights", run_id="r1", task_id="train", map_index=-1, try_number=2)
ORIGIN = {"dag": "retrain__flights", "run": "r1", "task": "train", "map": "-1", "try": "2"}


class Ends:
    """Stands in for the backend: says what it was asked to end, once it is let go."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.go = asyncio.Event()
        self.go.set()
        self.done = asyncio.Event()

    async def __call__(self, *asked: Any) -> None:
        await self.go.wait()
        self.asked.append(asked)
        self.done.set()


def trigger(monkeypatch: pytest.MonkeyPatch, state: str) -> tuple[WorkloadTrigger, Ends]:
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    found, ends = WorkloadTrigger("local", "train-flights-1"), Ends()
    found.task_instance = TASK
    states = staticmethod(lambda **asked: {"r1": {"train": state}})
    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", states)
    monkeypatch.setattr(workload, "end", ends)
    return found, ends


@pytest.mark.parametrize("state", ["failed", "success", "None", "running"])
async def test_it_is_ended_and_only_for_the_try_that_waited(monkeypatch, state):
    found, ends = trigger(monkeypatch, state)
    await found.on_kill()
    assert ends.asked == [("local", None, "train-flights-1", ORIGIN)]


async def test_it_goes_on_where_its_task_still_waits(monkeypatch):
    found, ends = trigger(monkeypatch, "deferred")
    await found.on_kill()
    assert ends.asked == []


async def test_it_is_ended_although_airflow_cancels_the_call_again(monkeypatch):
    found, ends = trigger(monkeypatch, "failed")
    ends.go.clear()
    call = asyncio.create_task(found.on_kill())
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    ends.go.set()
    await asyncio.wait_for(ends.done.wait(), 10)
    assert len(ends.asked) == 1
