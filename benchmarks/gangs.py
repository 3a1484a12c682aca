"""What following many gangs of pods costs: by two watches for all of them, beside a poll for each.

`python -m benchmarks.gangs [--quick]` starts a real Kubernetes (`$TIDEGATE_KUBE`) with pretended nodes of 8 GPUs, on
them gangs of 4 members with 1 GPU each; follows each to its end in one process, as a triggerer does; prints a table,
writes var/bench/gangs.png, and ends with a JSON object. "Poll" does what Airflow's own operator for Jobs does while it
is deferred: it reads the Job of each gang every 10 seconds (its default), and once a second in the last row. Calls are
those to the API server while gangs are followed, lag is from a Job's completion (which Kubernetes tells by the second)
to the moment its end is known here, CPU is this process' own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.alone import bars
from tests.cluster.bed import Bed, started
from tidegate.clients.kubernetes import Cluster, open_cluster
from tidegate.delivery.pods import PodsSpec
from tidegate.launch import Workload, kubernetes
from tidegate.launch.kubernetes_watch import shared_watch
from tidegate.launch.manifests import object_name
from tidegate.launch.seen import conditions, finished, seconds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Follow = Callable[[Bed, str], Awaitable[str]]

MEMBERS = 4


@dataclass
class Figures:
    """What one way of following `gangs` cost."""

    gangs: int
    succeeded: int = 0
    calls: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    lags: list[float] = field(default_factory=list)

    def row(self) -> tuple[str, ...]:
        """Return these figures as a row of the table."""
        lag = f"{np.median(self.lags):.1f} / {max(self.lags):.1f}"
        each = 1000 * self.cpu_s / self.gangs
        return f"{self.succeeded} of {self.gangs}", f"{self.calls / self.gangs:.2f}", f"{each:.0f}", lag


def gang(number: int, way: str, run_for: float) -> Workload:
    """Return a gang whose pods run on pretended nodes for so many seconds."""
    pods = PodsSpec(
        image="pretended:1",
        gpus=1,
        gpu="example.com/gpu",
        memory="1Gi",
        node_selector={"type": "kwok"},
        tolerations=[{"key": "kwok.x-k8s.io/node", "operator": "Exists"}],
        annotations={"fake/run-for": f"{run_for:g}s"},
    )
    return Workload(f"{way}-{number}", "tidegate.train", "train", "{}", MEMBERS, pods=pods)


async def by_watch(bed: Bed, name: str) -> str:
    """Follow one gang as our trigger does; return its last phase."""
    phase = "absent"
    async with shared_watch(bed.access) as watch:
        async for state in watch.states(name):
            phase = state.phase
    return phase


def by_poll(every: float) -> Follow:
    """Return a follower that reads the gang's Job every so many seconds."""

    async def follow(bed: Bed, name: str) -> str:
        async with open_cluster(bed.access) as cluster:
            while (job := await cluster.job(object_name(name))) is not None and not finished(job):
                await asyncio.sleep(every)
        return "succeeded" if job and any(each["type"] == "Complete" for each in conditions(job)) else "failed"

    return follow


async def measured(bed: Bed, way: str, count: int, run_for: float, follow: Follow) -> Figures:
    """Start gangs, follow them all in this process, and clear them away."""
    figures = Figures(count)
    workloads = [gang(number, way, run_for) for number in range(count)]
    async with open_cluster(bed.access) as cluster:
        for workload in workloads:
            await kubernetes.start(cluster, workload)

        async def followed(workload: Workload) -> float:
            phase = await follow(bed, workload.name)
            figures.succeeded += phase == "succeeded"
            return time.time()

        called, watched = Cluster._called, Cluster.watch

        async def counted(self: Cluster, *args: Any, **options: Any) -> Any:
            figures.calls += 1
            return await called(self, *args, **options)

        def counted_watch(self: Cluster, *args: Any) -> Any:
            figures.calls += 1
            return watched(self, *args)

        before, began = _cpu(), time.monotonic()
        with mock.patch.object(Cluster, "_called", counted), mock.patch.object(Cluster, "watch", counted_watch):
            known = await asyncio.gather(*(followed(workload) for workload in workloads))
        figures.cpu_s, figures.wall_s = _cpu() - before, time.monotonic() - began
        for workload, at in zip(workloads, known, strict=True):
            job = await cluster.job(object_name(workload.name))
            if job is not None and "completionTime" in job["status"]:
                figures.lags.append(max(0.0, at - seconds(job["status"]["completionTime"])))
                await cluster.delete_job(job["metadata"]["name"], job["metadata"]["uid"])
    return figures


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10 gangs that run for 5 s, within a minute")
    quick = parser.parse_args().quick
    count, run_for = (10, 5.0) if quick else (50, 30.0)
    ways = {
        "Tidegate, 2 watches": by_watch,
        "poll every 10 s": by_poll(10.0),
        "poll every 1 s": by_poll(1.0),
    }
    out, found = Console(width=110), {}
    with started() as bed:
        bed.script("kwok.sh", "up", KWOK_NODES="30")
        if not quick:
            few = asyncio.run(measured(bed, "few", 10, run_for, by_watch))
            found["Tidegate, 2 watches, 10 gangs"] = few
        for number, (way, follow) in enumerate(ways.items()):
            found[way] = asyncio.run(measured(bed, f"way{number}", count, run_for, follow))
    table = Table("way", "succeeded", "API calls a gang", "CPU ms a gang", "lag s, median / worst")
    for way, figures in found.items():
        table.add_row(way, *figures.row())
    out.print(table)
    calls = {way: figures.calls / figures.gangs for way, figures in found.items()}
    labels = [f"{each:.2f}" for each in calls.values()]
    plot = bars("gangs", calls, labels, "API calls for each gang while it is followed")
    out.print(f"plot: {plot}")
    ours, peer = found["Tidegate, 2 watches"], found["poll every 10 s"]
    print(json.dumps({"benchmark": "gangs", "figures": _figures(ours, peer)}))


def _figures(ours: Figures, peer: Figures) -> list[dict[str, Any]]:
    calls, peer_calls = ours.calls / ours.gangs, peer.calls / peer.gangs
    return [
        {
            "id": "P9-calls", "what": f"API calls a gang, {ours.gangs} gangs of {MEMBERS}", "value": round(calls, 3),
            "unit": "calls", "peer": "poll every 10 s", "peer_value": round(peer_calls, 3),
            "ratio": round(calls / peer_calls, 3), "goal": "constant by watch", "met": ours.calls <= 4 + ours.gangs,
        },
        {
            "id": "P9-lost", "what": "gangs lost", "value": ours.gangs - ours.succeeded, "unit": "gangs", "peer": None,
            "peer_value": None, "ratio": None, "goal": 0, "met": ours.gangs == ours.succeeded,
        },
        {
            "id": "P9-cpu", "what": "CPU a gang", "value": round(1000 * ours.cpu_s / ours.gangs, 1), "unit": "ms",
            "peer": "poll every 10 s", "peer_value": round(1000 * peer.cpu_s / peer.gangs, 1),
            "ratio": round(ours.cpu_s / peer.cpu_s, 2), "goal": None, "met": None,
        },
    ]  # fmt: skip


if __name__ == "__main__":
    main()
