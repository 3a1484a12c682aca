"""An operator whose work is a workload elsewhere: it starts it, waits deferred, and takes the handoff back."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from operators.launchers import launcher
from operators.support import stage_errors
from operators.triggers.workload import WorkloadTrigger
from tidegate.errors import DataError

if TYPE_CHECKING:
    from tidegate.handoff import Handoff
    from tidegate.launch import Workload


class WorkloadOperator(BaseOperator):
    """The base of the stages that run outside Airflow's worker.

    The workload's name is deterministic, so a retried, restarted or cleared task finds the running one again instead
    of starting a second.
    """

    def __init__(self, *, delivery: str, launcher_name: str = "local", timeout_s: float = 3600.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.delivery = delivery
        self.launcher_name = launcher_name
        self.timeout_s = timeout_s

    def workload(self, context: Any) -> Workload:
        """Return what to run; subclasses say it."""
        raise AirflowFailException(f"{type(self).__name__} does not say what it runs; define workload()")

    def finish(self, context: Any, handoff: str) -> Handoff:
        """Turn the workload's handoff (JSON) into the task's result; subclasses say it."""
        raise AirflowFailException(f"{type(self).__name__} does not say what it returns; define finish()")

    def execute(self, context: Any) -> None:
        """Start the workload, or find the running one, and defer until it has ended."""
        with stage_errors():
            workload = self.workload(context)
            launcher(self.launcher_name).start(workload)
        self.log.info("workload %s: %d member(s) of %s", workload.name, workload.members, workload.module)
        self.defer(
            trigger=WorkloadTrigger(self.launcher_name, workload.name),
            method_name="complete",
            timeout=timedelta(seconds=self.timeout_s),
        )

    def complete(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        """Return the handoff of a workload that succeeded; fail with its own words otherwise."""
        backend = launcher(self.launcher_name)
        state = backend.poll(event["workload"])
        for line in backend.logs(event["workload"]).splitlines():
            self.log.info("%s", line)
        with stage_errors():
            if error := state.error():
                raise error
            if state.result is None:
                raise DataError(f"workload {event['workload']} is {state.phase} without a result; clear this task")
            return self.finish(context, state.result).model_dump(mode="json")
