"""An operator whose work is a workload elsewhere: it starts it, waits deferred, and takes the handoff back."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from operators.hooks import clients
from operators.launchers import launcher, origin
from operators.support import stage_errors, unix_now
from operators.triggers.workload import LATE, WorkloadTrigger
from tidegate.errors import DataError, Retryable

if TYPE_CHECKING:
    from tidegate.handoff import Handoff
    from tidegate.launch import Launcher, State, Workload

_SPARE = 60.0  # seconds that Airflow's own time-out comes after the trigger's, which knows how to end the workload


class WorkloadOperator(BaseOperator):
    """The base of the stages that run outside Airflow's worker.

    The workload's name is deterministic, so a retried, restarted or cleared task finds the running one again instead
    of starting a second. `connection` is the cluster's, where the launcher is kubernetes.
    """

    def __init__(
        self,
        *,
        delivery: str,
        launcher_name: str = "local",
        connection: str | None = None,
        timeout_s: float = 3600.0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.delivery = delivery
        self.launcher_name = launcher_name
        self.connection = connection
        self.timeout_s = timeout_s
        self._started: tuple[str, dict[str, str]] | None = None

    def workload(self, context: Any) -> Workload:
        """Return what to run; subclasses say it."""
        raise AirflowFailException(f"{type(self).__name__} does not say what it runs; define workload()")

    def finish(self, context: Any, handoff: str) -> Handoff:
        """Turn the workload's handoff (JSON) into the task's result; subclasses say it."""
        raise AirflowFailException(f"{type(self).__name__} does not say what it returns; define finish()")

    def execute(self, context: Any) -> None:
        """Start the workload, or find the running one, and defer until it has ended."""
        with stage_errors():
            workload = replace(
                self.workload(context),
                origin={"delivery": self.delivery, **origin(context["ti"])},
                timeout_s=self.timeout_s + _SPARE,
            )
            self._started = (workload.name, origin(context["ti"]))
            self._backend().start(workload)
        self.log.info("workload %s: %d member(s) of %s", workload.name, workload.members, workload.module)
        self.defer(
            trigger=WorkloadTrigger(
                self.launcher_name, workload.name, self.connection, deadline=unix_now() + self.timeout_s
            ),
            method_name="complete",
            timeout=timedelta(seconds=self.timeout_s + _SPARE),
        )

    def complete(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        """Return the handoff of a workload that succeeded; end any other, and fail with its own words."""
        self._started = (event["workload"], origin(context["ti"]))
        with stage_errors():
            backend = self._backend()
            state = backend.poll(event["workload"])
            for line in backend.logs(event["workload"]).splitlines():
                self.log.info("%s", line)
            if state.phase != "succeeded":
                backend.stop(*self._started)
            if error := self._error(state, event):
                raise error
            if state.result is None:
                raise DataError(f"workload {event['workload']} is {state.phase} without a result; clear this task")
            return self.finish(context, state.result).model_dump(mode="json")

    def on_kill(self) -> None:
        """End the workload with the try that started it or takes it back, unless a later one has joined it."""
        if self._started is not None:
            self._backend().stop(*self._started)

    def _error(self, state: State, event: dict[str, Any]) -> Exception | None:
        if state.phase != "running":
            return state.error()
        if event["phase"] == LATE:
            return Retryable(
                f"workload {event['workload']} had not ended after {self.timeout_s:g} s, so it was stopped; "
                f"{state.detail or 'its members ran'}; raise train.timeout, or see its log above"
            )
        return Retryable(f"workload {event['workload']} was {event['phase']} and then ran again, so it was stopped")

    def _backend(self) -> Launcher:
        return launcher(self.launcher_name, clients.connection(self.connection) if self.connection else None)
