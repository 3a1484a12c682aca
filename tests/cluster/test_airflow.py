"""The train task in a real Airflow: it defers, its gang trains in pods, and its page tells how it goes."""

from __future__ import annotations

import httpx
import pytest

from tests.cluster.faults import Gang
from tests.cluster.installation import Installation
from tests.stack.test_training import WINDOW, Room
from tests.until import until
from tidegate.handoff import Request, Trained

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

RUN = ("train_alone", "airflow-1", "train")


@pytest.fixture(scope="module")
def trained(installation: Installation) -> Trained:
    """One training, from the task to its result."""
    room = Room(installation.cfg.paths.var)
    request = Request(request_id="airflow-1", delivery="flights", window=WINDOW)
    conf = {"request": request.model_dump(mode="json"), "dataset": room.dataset.model_dump(mode="json")}
    dag, run, task = RUN
    installation.rest.trigger(dag, conf, run)
    until("it waits deferred", lambda: installation.rest.tasks(dag, run)[task] == "deferred", 120)
    assert installation.rest.wait(dag, run, 400).state == "success", installation.rest.log(*RUN)
    return Trained.model_validate(installation.rest.result(*RUN))


def test_a_gang_trains_in_pods_and_its_run_is_in_mlflow(installation: Installation, trained: Trained):
    assert (trained.workers, trained.steps) == (2, 3 * (4000 // 1024))
    assert trained.run_id is not None
    address = f"{installation.cfg.url('mlflow')}/api/2.0/mlflow/runs/get"
    found = httpx.get(address, params={"run_id": trained.run_id}).json()["run"]
    assert found["info"]["status"] == "FINISHED"
    assert installation.rest.task(*RUN)["try_number"] == 1


def test_the_tasks_log_tells_what_the_gang_waits_for_its_progress_and_all_members_lines(
    installation: Installation, trained: Trained
):
    lines = [line for _, line in installation.rest.log(*RUN)]
    name = "train-flights-airflow-1"
    assert f"workload {name}: 2 member(s) of tidegate.train" in lines
    assert f"{name}: 2 of 2 members run" in lines
    told = next(number for number, line in enumerate(lines) if "epoch 1/3" in line and not line.startswith("["))
    assert told < lines.index(f"{name}: 2 of 2 members run") + 200
    for rank in (0, 1):
        assert any(line.startswith(f"[{rank}] ") and "trained" in line for line in lines)


def test_the_tasks_page_links_to_mlflow(installation: Installation, trained: Trained):
    links = installation.rest.links(*RUN)
    assert links == {"MLflow run": f"{installation.cfg.url('mlflow')}/#/runs/{trained.run_id}"}


def test_nothing_is_left_but_what_has_ended_and_is_kept_to_be_looked_at(installation: Installation, trained: Trained):
    assert installation.leaks() == []


@pytest.mark.nightly
def test_reconcile_removes_a_gang_whose_task_was_failed_while_no_triggerer_ran(installation: Installation):
    gang = Gang(installation, "orphan", "orphan")
    gang.start()
    until("it trains", lambda: gang.runs() and gang.waits(), 180)
    installation.parts.control.stop("airflow-triggerer")
    installation.rest.mark("gang", gang.run, "failed")
    assert gang.detail == "2 of 2 members run"
    installation.rest.pause("reconcile", False)
    try:
        until("it is gone", lambda: gang.detail == "absent", 300)
        said = until("reconcile says so", lambda: _said(installation))
        assert "gang orphan was removed: its task gang orphan gang is failed, and nobody waits for it" in said
    finally:
        installation.rest.pause("reconcile", True)
        installation.parts.control.restart("airflow-triggerer")
        until("the triggerer is back", lambda: installation.parts.serves("airflow-triggerer"))
    until("nothing is left of it", lambda: not [thing for thing in installation.leaks() if "orphan" in thing], 60)


def _said(installation: Installation) -> list[str]:
    """Return what runs of reconcile have done so far."""
    results = [
        installation.rest.result("reconcile", run.run_id, "flights") for run in installation.rest.runs("reconcile")
    ]
    return [sentence for result in results for sentence in result or []]
