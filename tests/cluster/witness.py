"""Keeps in sight which gangs a namespace has, so that two of one name at once would be seen."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tests.cluster.bed import Bed
from tidegate.clients.kubernetes import Cluster, open_cluster
from tidegate.errors import TidegateError
from tidegate.launch.kubernetes_watch import SELECTOR
from tidegate.launch.manifests import NAME

_EVERY = 0.25  # seconds between looks: the namespace is listed, not watched, so that nothing is missed in silence
_GANG = "batch.kubernetes.io/controller-uid"


class Witness:
    """What was seen of each workload's name: its gangs so far, and the most that had living pods at once."""

    def __init__(self) -> None:
        self.gangs: dict[str, set[str]] = {}
        self.at_once: dict[str, int] = {}
        self._names: dict[str, str] = {}

    def note(self, jobs: list[dict[str, Any]], pods: list[dict[str, Any]]) -> None:
        """Take in what the namespace holds now."""
        for job in jobs:
            name = job["metadata"]["annotations"][NAME]
            self._names[job["metadata"]["uid"]] = name
            self.gangs.setdefault(name, set()).add(job["metadata"]["uid"])
        alive: dict[str, set[str]] = {}
        for pod in pods:
            uid = pod["metadata"]["labels"].get(_GANG, "")
            if pod["status"].get("phase") in ("Pending", "Running") and uid in self._names:
                alive.setdefault(self._names[uid], set()).add(uid)
        for name, uids in alive.items():
            self.at_once[name] = max(self.at_once.get(name, 0), len(uids))


@contextmanager
def witnessed(bed: Bed) -> Iterator[Witness]:
    """Look at a namespace as long as the block runs; while its API server is away nothing is seen."""
    witness, over = Witness(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_look(bed, witness, over)), name="witness", daemon=True)
    thread.start()
    try:
        yield witness
    finally:
        over.set()
        thread.join(60)


async def _look(bed: Bed, witness: Witness, over: threading.Event) -> None:
    async with open_cluster(bed.access) as cluster:
        while not over.is_set():
            with suppress(TidegateError):
                witness.note(*await _listed(cluster))
            await asyncio.sleep(_EVERY)


async def _listed(cluster: Cluster) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    pods, _ = await cluster.listed("Pod", SELECTOR)
    jobs, _ = await cluster.listed("Job", SELECTOR)
    return jobs, pods
