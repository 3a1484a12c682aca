"""Waits for a workload that a launcher runs: a gang, a conversion, a gate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from operators.launchers import launcher


class WorkloadTrigger(BaseTrigger):
    """Polls one workload by its deterministic name and fires once it has ended, however it ended."""

    def __init__(self, launcher_name: str, workload: str, interval: float = 1.0):
        super().__init__()
        self.launcher_name = launcher_name
        self.workload = workload
        self.interval = interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what is needed to make this trigger again elsewhere."""
        return (
            "operators.triggers.workload.WorkloadTrigger",
            {"launcher_name": self.launcher_name, "workload": self.workload, "interval": self.interval},
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield the workload's final state."""
        backend = launcher(self.launcher_name)
        while (state := await asyncio.to_thread(backend.poll, self.workload)).phase == "running":
            await asyncio.sleep(self.interval)
        yield TriggerEvent({"workload": self.workload, "phase": state.phase})

    async def on_kill(self) -> None:
        """End the workload when a person clears or fails the waiting task."""
        await asyncio.to_thread(launcher(self.launcher_name).stop, self.workload)
