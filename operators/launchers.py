"""Where workloads run: the launcher backend a delivery names, with this installation's folder and interpreters."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any

from operators.hooks import clients
from operators.support import var_folder
from tidegate.launch import launcher as launcher_of_kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from tidegate.launch import Launcher, State


def launcher(kind: str, conn: Any = None) -> Launcher:
    """Return the launcher of this kind; `conn` is the Airflow connection of the cluster, for kubernetes.

    Raises:
        SpecError: no such launcher; nothing falls back to another one.
    """
    pythons = {"control": sys.executable}
    for name in ("train", "validate"):
        pythons[name] = os.environ.get(f"TIDEGATE_PYTHON_{name.upper()}", sys.executable)
    return launcher_of_kind(kind, var_folder() / "work", pythons, clients.kubernetes(conn) if conn else None)


async def states(
    kind: str, conn: Any, workload: str, interval: float, say: Callable[[str], None]
) -> AsyncIterator[State]:
    """Yield how a workload goes up to its end, and `say` what it prints of its progress.

    A local one is looked at every `interval` seconds; a gang of pods is watched, by two watches for all of them.
    """
    if kind == "kubernetes":
        from tidegate.launch.kubernetes_watch import shared_watch

        async with shared_watch(clients.kubernetes(conn)) as watch:
            telling = asyncio.create_task(watch.tell(workload, say))
            try:
                async for state in watch.states(workload):
                    yield state
            finally:
                telling.cancel()
        return
    backend = launcher(kind)
    while (state := await asyncio.to_thread(backend.poll, workload)).phase == "running":
        yield state
        await asyncio.sleep(interval)
    yield state


async def end(kind: str, conn: Any, workload: str, asked_by: Mapping[str, str]) -> None:
    """End a workload whose task was taken away, unless it has ended or another asks for it by now.

    `asked_by` is the `origin` of that task. Pods end within their grace, which is not waited for: many may be ended at
    once.
    """
    if kind != "kubernetes":
        await asyncio.to_thread(launcher(kind).stop, workload, asked_by)
        return
    from tidegate.clients.kubernetes import open_cluster
    from tidegate.launch.kubernetes import withdraw

    async with open_cluster(clients.kubernetes(conn)) as cluster:
        await withdraw(cluster, workload, asked_by)


def origin(task: Any) -> dict[str, str]:
    """Return which try of which task asks for a workload, so that people and reconcile find it again."""
    return {
        "dag": task.dag_id,
        "run": task.run_id,
        "task": task.task_id,
        "map": str(task.map_index),
        "try": str(task.try_number),
    }
