"""Waits for a workload that a launcher runs: a gang, a conversion, a gate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from operators.hooks import clients
from operators.launchers import end, origin, states
from operators.support import unix_now

LATE = "late"
"""The phase of a workload that had not ended by its deadline."""
_endings: set[asyncio.Task[None]] = set()  # held here: a loop keeps only weak references to its tasks


class WorkloadTrigger(BaseTrigger):
    """Follows one workload by its deterministic name and fires once it has ended, however it ended, or is late.

    `connection` is the cluster's, for Kubernetes; `deadline` is in Unix seconds, so that it stays the same where the
    trigger goes on in another triggerer; `interval` (seconds) is between looks at a local workload.
    """

    def __init__(
        self,
        launcher_name: str,
        workload: str,
        connection: str | None = None,
        deadline: float | None = None,
        interval: float = 1.0,
    ):
        super().__init__()
        self.launcher_name = launcher_name
        self.workload = workload
        self.connection = connection
        self.deadline = deadline
        self.interval = interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what is needed to make this trigger again elsewhere."""
        return (
            "operators.triggers.workload.WorkloadTrigger",
            {
                "launcher_name": self.launcher_name,
                "workload": self.workload,
                "connection": self.connection,
                "deadline": self.deadline,
                "interval": self.interval,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield the phase in which the workload ended, or `late`."""
        left = None if self.deadline is None else max(0.0, self.deadline - unix_now())
        try:
            phase = await asyncio.wait_for(self._ended(), left)
        except TimeoutError:
            phase = LATE
        yield TriggerEvent({"workload": self.workload, "phase": phase})

    async def _ended(self) -> str:
        conn = await clients.aconnection(self.connection) if self.connection else None
        phase, said = "absent", ""
        async for state in states(self.launcher_name, conn, self.workload, self.interval, self._say):
            phase = state.phase
            if state.detail and state.detail != said:
                said = state.detail
                self._say(f"{self.workload}: {said}")
        return phase

    def _say(self, line: str) -> None:
        self.log.info("%s", line)

    async def on_kill(self) -> None:
        """End the workload when a person clears or fails the waiting task.

        A triggerer that was cut off is told so too while its task waits on, elsewhere: what still waits is let alone.
        Airflow cancels this call with each of its rounds, a second apart, so the work is a task of its own.
        """
        ending = asyncio.create_task(self._end())
        _endings.add(ending)
        ending.add_done_callback(_endings.discard)
        await asyncio.shield(ending)

    async def _end(self) -> None:
        try:
            if await self._still_waits():
                self._say(f"{self.workload} goes on: its task still waits for it")
                return
            conn = await clients.aconnection(self.connection) if self.connection else None
            await end(self.launcher_name, conn, self.workload, self._origin())
        except Exception:  # nobody awaits this: what is not said here is lost
            self.log.exception(
                "%s could not be ended; reconcile removes it if its task does not come back", self.workload
            )

    def _origin(self) -> dict[str, str]:
        task = self.task_instance
        return {} if task is None else origin(task)

    async def _still_waits(self) -> bool:
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
        from asgiref.sync import sync_to_async

        task = self.task_instance
        if task is None:
            return False
        found = await sync_to_async(RuntimeTaskInstance.get_task_states)(
            dag_id=task.dag_id, task_ids=[task.task_id], run_ids=[task.run_id], map_index=task.map_index
        )
        return "deferred" in map(str, found.get(task.run_id, {}).values())
