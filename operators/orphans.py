"""Gangs in a cluster whose task is gone: found by what their Job says of who asked for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from operators.hooks import clients
from operators.support import unix_now

if TYPE_CHECKING:
    from tidegate.delivery import Delivery
    from tidegate.launch.kubernetes import Gang

GRACE_S = 120.0
"""How old a gang must be: its task may only just have started it."""
# A task in none of these states comes back to its gang: it has ended, or nobody knows it any more.
_COMES_BACK = frozenset(
    {"none", "scheduled", "queued", "running", "deferred", "restarting", "up_for_retry", "up_for_reschedule"}
)


def remove_orphans(delivery: Delivery, task: Any) -> list[str]:
    """End the gangs of a delivery whose task will not come back to them; say of each what was done.

    `task` is the task instance that asks: by it Airflow tells the states of others.
    """
    if delivery.train.pods is None:
        return []
    from tidegate.launch.kubernetes import KubernetesLauncher

    backend = KubernetesLauncher(clients.kubernetes(clients.connection(delivery.train.pods.connection)))
    done = []
    for gang in backend.gangs(delivery.delivery):
        if unix_now() - gang.made_at < GRACE_S:
            continue
        state = _state(gang, task)
        if state not in _COMES_BACK:
            backend.remove(gang)
            done.append(
                f"gang {gang.name} was removed: its task {gang.origin.get('dag')} {gang.origin.get('run')} "
                f"{gang.origin.get('task')} is {state}, and nobody waits for it"
            )
    return done


def _state(gang: Gang, task: Any) -> str:
    """Return the state of the task that asked for a gang; `unknown` where Airflow has no such task."""
    origin = gang.origin
    if not {"dag", "run", "task"} <= origin.keys():
        return "unknown"
    position = int(origin.get("map", "-1"))
    mapped = {"map_index": position} if position >= 0 else {}
    found = task.get_task_states(
        dag_id=origin["dag"], task_ids=[origin["task"]], run_ids=[origin["run"]], **mapped
    ).get(origin["run"], {})
    if not found:
        return "unknown"
    return str(next(iter(found.values())) or "none")
