"""Runs workloads as gangs of pods: an Indexed Job and its headless Service, all of whose state is in the cluster.

The Job's creation claims the workload's name, so that of two that start it at once one joins the other; everything else
hangs off the Job and goes with it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from tidegate.clients.kubernetes import Access, Changed, Cluster, Exists, open_cluster
from tidegate.errors import Conflict, Retryable, SpecError
from tidegate.launch import State, Workload, checked
from tidegate.launch.lines import interleaved
from tidegate.launch.manifests import (
    DIGEST,
    JOB_NAME,
    MANAGED_BY,
    MEMBER,
    PREFIX,
    QUEUE,
    digest_of,
    job,
    object_name,
    service,
)
from tidegate.launch.seen import Seen, blamed, finished, newest, rank, seconds, state

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

T = TypeVar("T")
_LINES = 400  # of each member, in logs()
_TAIL = 40  # lines of the failing member kept in the state
_GONE_WITHIN = 120.0  # seconds for pods to end: their grace, and the kubelet's own time
_EVERY = 0.2  # seconds between looks at what is being deleted: nobody says when an object is gone for good


class KubernetesLauncher:
    """Gangs of pods in the namespace that `access` names."""

    def __init__(self, access: Access):
        self._access = access

    def start(self, workload: Workload) -> None:
        """Start a gang, unless it runs or has succeeded; see `Launcher.start`.

        Raises:
            Conflict: another workload runs under this name.
            SpecError: a queue is asked for and this cluster has no Kueue; or the workload says nothing of its pods.
            Permanent: the API server refuses the manifest.
            Unavailable: the API server does not answer.
        """
        self._with(lambda cluster: start(cluster, workload))

    def poll(self, name: str) -> State:
        """Return the gang's state, as its Job and its pods tell."""
        return self._with(lambda cluster: poll(cluster, name))

    def logs(self, name: str) -> str:
        """Return the newest 400 lines of each member, in the order of the times at which they were printed."""
        return self._with(lambda cluster: logs(cluster, name))

    def stop(self, name: str, origin: Mapping[str, str] | None = None) -> None:
        """Delete a gang that has not ended, and wait until its Job, its pods and its Service are gone.

        One that has ended holds nothing, stays to be looked at, and goes by itself after `train.pods.keep`.
        """
        self._with(lambda cluster: stop(cluster, name, origin))

    def gangs(self, delivery: str) -> list[Gang]:
        """Return the gangs of a delivery that have not ended: those that hold something."""
        return self._with(lambda cluster: gangs(cluster, delivery))

    def remove(self, gang: Gang) -> None:
        """Delete this very gang, and not a later one of its name; its pods end within their grace."""
        self._with(lambda cluster: cluster.delete_job(gang.job, gang.uid))

    def _with(self, work: Callable[[Cluster], Awaitable[T]]) -> T:
        async def connected() -> T:
            async with open_cluster(self._access) as cluster:
                return await work(cluster)

        return asyncio.run(connected())


@dataclass(frozen=True)
class Gang:
    """A gang that has not ended: its workload's name, its Job, who asked for it, and when (Unix seconds)."""

    name: str
    job: str
    uid: str
    origin: Mapping[str, str]
    made_at: float


async def gangs(cluster: Cluster, delivery: str) -> list[Gang]:
    """Return the gangs of a delivery that have not ended and are not being deleted."""
    jobs, _ = await cluster.listed("Job", f"app.kubernetes.io/managed-by={MANAGED_BY},{PREFIX}delivery={delivery}")
    found = []
    for each in jobs:
        metadata = each["metadata"]
        if finished(each) or metadata.get("deletionTimestamp"):
            continue
        notes = {key.removeprefix(PREFIX): value for key, value in metadata.get("annotations", {}).items()}
        at = seconds(metadata["creationTimestamp"])
        found.append(Gang(notes.get("workload", metadata["name"]), metadata["name"], metadata["uid"], notes, at))
    return found


async def start(cluster: Cluster, workload: Workload) -> None:
    """Create the Job, or join the one that is there, then its Service; see `Launcher.start`."""
    body = job(workload)
    if QUEUE in body["metadata"]["labels"] and not await cluster.has_kueue():
        queue = body["metadata"]["labels"][QUEUE]
        raise SpecError(
            f"queue {queue!r} is Kueue's, and this cluster has none; install it, or leave train.pods.queue out"
        )
    found = await cluster.job(body["metadata"]["name"])
    if found is not None:
        found = await _joined(cluster, found, workload)
    if found is None:
        try:
            found = await cluster.create_job(body)
        except Exists:
            found = await cluster.job(body["metadata"]["name"])
            if found is None or found["metadata"]["annotations"].get(DIGEST) != digest_of(workload):
                raise Conflict(f"another start of {workload.name} came between; try again") from None
    if workload.members > 1:
        try:
            await cluster.create_service(service(found))
        except Exists:
            return  # made by the start that this one joins


async def _joined(cluster: Cluster, found: Mapping[str, Any], workload: Workload) -> dict[str, Any] | None:
    """Return the Job that is there where it is to be joined; one that failed, or did something else, is removed."""
    same = found["metadata"].get("annotations", {}).get(DIGEST) == digest_of(workload)
    if not found["metadata"].get("deletionTimestamp"):
        phase = state(await _seen(cluster, found), time.time()).phase
        if phase == "running" and not same:
            raise Conflict(f"another workload runs under the name {workload.name}; stop it, or wait for its end")
        if same and phase in ("running", "succeeded"):
            asked = {f"{PREFIX}{key}": value for key, value in workload.origin.items()}
            mine = await cluster.annotate_job(found["metadata"]["name"], found["metadata"]["uid"], asked)
            if mine is None or not mine["metadata"].get("deletionTimestamp"):
                return mine
    await _removed(cluster, found)
    return None


async def poll(cluster: Cluster, name: str) -> State:
    """Return the gang's state; where it failed, with the end of the failing member's log."""
    seen = await look(cluster, name)
    found = state(seen, time.time())
    if found.phase != "failed" or found.failed_member is None:
        return found
    pod = blamed(seen.pods) or newest(seen.pods).get(found.failed_member)
    text = await cluster.log(pod["metadata"]["name"], MEMBER, _TAIL) if pod else ""
    tail = "\n".join(line for _, line in stamped(text))
    return State(**{**vars(found), "log_tail": tail})


async def look(cluster: Cluster, name: str) -> Seen:
    """Return all that the cluster shows of a gang."""
    found = await cluster.job(object_name(checked(name)))
    return Seen(None) if found is None else await _seen(cluster, found)


async def logs(cluster: Cluster, name: str) -> str:
    """Return the newest lines of all members, interleaved; a member that was started again has all its pods' lines."""
    pods, _ = await cluster.listed("Pod", f"{JOB_NAME}={object_name(checked(name))}")
    pods.sort(key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
    texts = await asyncio.gather(*(cluster.log(pod["metadata"]["name"], MEMBER, _LINES) for pod in pods))
    lines: dict[int, list[tuple[str, str]]] = {}
    for pod, text in zip(pods, texts, strict=True):
        lines.setdefault(rank(pod), []).extend(stamped(text))
    return interleaved(dict(sorted(lines.items())))


async def stop(cluster: Cluster, name: str, origin: Mapping[str, str] | None = None) -> None:
    """Delete a gang that has not ended and wait until nothing of it is left; see `Launcher.stop`."""
    found = await withdraw(cluster, name, origin)
    if found is not None:
        await _gone(cluster, found)


async def withdraw(cluster: Cluster, name: str, origin: Mapping[str, str] | None = None) -> Mapping[str, Any] | None:
    """Delete a gang without waiting for the end of its pods, and return its Job.

    None is where there is no gang that has not ended, or `origin` is given and another has asked for it since.
    """
    while True:
        found = await cluster.job(object_name(checked(name)))
        if found is None or finished(found):
            return None
        metadata = found["metadata"]
        asked = metadata.get("annotations", {})
        if any(asked.get(f"{PREFIX}{key}") != value for key, value in (origin or {}).items()):
            return None
        try:
            await cluster.delete_job(metadata["name"], metadata["uid"], metadata["resourceVersion"])
        except Changed:
            continue
        return found


async def _removed(cluster: Cluster, found: Mapping[str, Any]) -> None:
    await cluster.delete_job(found["metadata"]["name"], found["metadata"]["uid"])
    await _gone(cluster, found)


async def _gone(cluster: Cluster, found: Mapping[str, Any]) -> None:
    name, uid = found["metadata"]["name"], found["metadata"]["uid"]
    deadline = time.monotonic() + _GONE_WITHIN
    while (left := await cluster.job(name)) is not None and left["metadata"]["uid"] == uid:
        if time.monotonic() > deadline:
            raise Retryable(
                f"Job {name} is not gone {_GONE_WITHIN:g} s after it was deleted; see its pods and its node"
            )
        await asyncio.sleep(_EVERY)


async def _seen(cluster: Cluster, found: Mapping[str, Any]) -> Seen:
    metadata = found["metadata"]
    if found["spec"].get("suspend"):
        return Seen(found, workload=await cluster.admission(metadata["uid"]))
    pods, _ = await cluster.listed("Pod", f"{JOB_NAME}={metadata['name']}")
    events: Sequence[Mapping[str, Any]] = () if pods else await cluster.events(metadata["name"])
    return Seen(found, pods, events=events)


def stamped(text: str) -> list[tuple[str, str]]:
    """Return (time, line) of a log with the kubelet's times, cut to microseconds so that they sort as texts."""
    found = []
    for line in text.splitlines():
        at, _, said = line.partition(" ")
        found.append((at[:26], said))
    return found
