"""The tests' DAGs: the train task alone, and gangs of tiny members whose ways the form tells."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

from operators.support import the_delivery
from operators.train import TrainOperator
from operators.workload import WorkloadOperator
from tidegate.handoff import Handoff
from tidegate.launch import Workload

COMMON: dict[str, Any] = {"delivery": "flights", "launcher_name": "kubernetes", "connection": "kubernetes"}
START = datetime(2013, 1, 1, tzinfo=UTC)


class Done(Handoff):
    """What member 0 of a tiny gang hands back."""

    config: dict[str, Any]
    uid: int
    home: str


class GangOperator(WorkloadOperator):
    """Runs tiny members: `name`, `shared` (their folder), `task`, `pods` (fields to change), `timeout`, `pause`.

    With `pause` (defer or finish) the first try stops there for ever, after it has written its processes' ids into
    `shared`/paused.
    """

    def execute(self, context: Any) -> None:
        """Start the gang that the form describes."""
        self.timeout_s = context["params"].get("timeout", 600.0)
        super().execute(context)

    def workload(self, context: Any) -> Workload:
        """Return it."""
        asked = context["params"]
        pods = the_delivery(self.delivery).train.pods
        assert pods is not None
        handoff = json.dumps({"shared": asked["shared"], **asked["task"]})
        pods = pods.model_copy(update=asked.get("pods", {}))
        return Workload(asked["name"], "tiny_member", "train", handoff, 2, pods=pods)

    def finish(self, context: Any, handoff: str) -> Done:
        """Return what member 0 said."""
        _pause("finish", context["params"], context["ti"])
        return Done.model_validate_json(handoff)

    def defer(self, **kwargs: Any) -> None:
        """Defer, unless this is where the worker is to be struck."""
        from airflow.sdk import get_current_context

        context = get_current_context()
        _pause("defer", context["params"], context["ti"])
        super().defer(**kwargs)


def _pause(where: str, asked: Any, ti: Any) -> None:
    if asked.get("pause") == where and ti.try_number == 1:
        mark = Path(asked["shared"], "paused")
        mark.with_suffix(".new").write_text(f"{os.getppid()} {os.getpid()}")
        mark.with_suffix(".new").rename(mark)
        while True:
            signal.pause()  # until it is killed


# tried again as in dags/retrain.py
RETRIES: dict[str, Any] = {"retries": 2, "retry_delay": timedelta(seconds=10), "retry_exponential_backoff": True}

with DAG("gang", schedule=None, start_date=START, catchup=False, max_active_runs=32, default_args=RETRIES) as gang:
    GangOperator(task_id="gang", **COMMON)

with DAG("train_alone", schedule=None, start_date=START, catchup=False) as train_alone:

    @task
    def request(params: dict[str, Any]) -> Any:
        """Return the request that the form gives."""
        return params["request"]

    @task
    def dataset(params: dict[str, Any]) -> Any:
        """Return the dataset that the form gives."""
        return params["dataset"]

    train = TrainOperator(task_id="train", request_task="request", dataset_task="dataset", timeout_s=900.0, **COMMON)
    [request(), dataset()] >> train
