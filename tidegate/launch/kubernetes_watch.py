"""All gangs of one namespace kept in sight by two watches, of Jobs and of pods, however many triggers wait for them."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tidegate.clients.kubernetes import Access, Cluster, Expired, open_cluster
from tidegate.errors import TidegateError, Unavailable
from tidegate.launch import State, checked
from tidegate.launch.manifests import JOB_NAME, MANAGED_BY, MEMBER, object_name
from tidegate.launch.seen import Seen, newest, state

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from tidegate.clients.kubernetes import Kind

SELECTOR = f"app.kubernetes.io/managed-by={MANAGED_BY}"
_LOOK = 5.0  # seconds after which a gang that only waits is judged anew: deadlines pass without an event
_STREAM = 300  # seconds of one watch before it is asked for anew
_FIRST, _LONGEST = 0.5, 15.0  # seconds between tries while the API server is away


@dataclass
class _Objects:
    """One kind's objects by name, as last seen."""

    kind: Kind
    found: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    version: str | None = None


class Watch:
    """What the cluster shows of this namespace's gangs, and how each of them goes."""

    def __init__(self, cluster: Cluster):
        self._cluster = cluster
        self._jobs, self._pods = _Objects("Job"), _Objects("Pod")
        self._changed: dict[str, asyncio.Event] = {}
        self._listed = asyncio.Event()
        self._broken: TidegateError | None = None

    async def keep(self) -> None:
        """Follow the namespace until cancelled; an API server that is away is tried again, with growing pauses.

        What cannot be mended by waiting (no right to list pods) is raised to those that wait.
        """
        followers = [asyncio.create_task(self._follow(objects)) for objects in (self._pods, self._jobs)]
        try:
            await asyncio.gather(*followers)
        except TidegateError as error:
            self._broken = error
            self._listed.set()
            self._wake()
        finally:
            for follower in followers:
                follower.cancel()

    async def states(self, name: str) -> AsyncIterator[State]:
        """Yield how a gang goes, now and at each change, up to its end.

        Raises:
            Permanent: the cluster does not let this account look.
        """
        job = object_name(checked(name))
        changed = self._changed.setdefault(job, asyncio.Event())
        last = None
        await self._listed.wait()
        while last is None or last.phase == "running":
            changed.clear()
            if self._broken is not None:
                raise self._broken
            found = await self._state(job)
            if found is not None and found != last:
                last = found
                yield found
            with suppress(TimeoutError):
                if last is None or last.phase == "running":
                    await asyncio.wait_for(changed.wait(), _LOOK)
        self._changed.pop(job, None)

    async def tell(self, name: str, say: Callable[[str], None]) -> None:
        """Pass on each line of progress that member 0 prints, until cancelled: those that begin with a time."""
        job = object_name(checked(name))
        told: set[str] = set()
        while True:
            pod = newest(self._of(job)).get(0)
            if pod is not None and pod["metadata"]["uid"] not in told and _prints(pod):
                told.add(pod["metadata"]["uid"])
                with suppress(TidegateError):  # the log is shown whole at the end; its progress is a convenience
                    async for line in self._cluster.lines(pod["metadata"]["name"], MEMBER):
                        if line[:2] == "20" and line[10:11] == "T":
                            say(line)
            await asyncio.sleep(1.0)

    async def _state(self, job: str) -> State | None:
        pods = self._of(job)
        admission, events = None, []
        try:
            found = self._jobs.found.get(job) or await self._cluster.job(job)  # made so lately that the watch lags
            if found is None:
                return State("absent")
            if found["spec"].get("suspend"):
                admission = await self._cluster.admission(found["metadata"]["uid"])
            elif not pods:
                events = await self._cluster.events(job)
        except Unavailable:
            return None
        return state(Seen(found, pods, admission, events), time.time())

    def _of(self, job: str) -> Sequence[Mapping[str, Any]]:
        return [pod for pod in self._pods.found.values() if pod["metadata"]["labels"].get(JOB_NAME) == job]

    async def _follow(self, objects: _Objects) -> None:
        pause = _FIRST
        while True:
            try:
                if objects.version is None:
                    await self._list(objects)
                version = objects.version or ""
                async for change in self._cluster.watch(objects.kind, SELECTOR, version, _STREAM):
                    pause = _FIRST
                    self._apply(objects, change)
            except Expired:
                objects.version = None
            except Unavailable:
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST)

    async def _list(self, objects: _Objects) -> None:
        items, objects.version = await self._cluster.listed(objects.kind, SELECTOR)
        objects.found = {item["metadata"]["name"]: item for item in items}
        if objects is self._jobs:
            self._listed.set()
        self._wake()

    def _wake(self) -> None:
        for event in self._changed.values():
            event.set()

    def _apply(self, objects: _Objects, change: Mapping[str, Any]) -> None:
        thing = change["object"]
        objects.version = thing["metadata"]["resourceVersion"]
        if change["type"] == "BOOKMARK":
            return
        name = thing["metadata"]["name"]
        if change["type"] == "DELETED":
            objects.found.pop(name, None)
        else:
            objects.found[name] = thing
        gang = name if objects is self._jobs else thing["metadata"]["labels"].get(JOB_NAME, "")
        if gang in self._changed:
            self._changed[gang].set()


def _prints(pod: Mapping[str, Any]) -> bool:
    return pod["status"].get("phase") in ("Running", "Succeeded", "Failed")


@dataclass
class _Shared:
    watch: asyncio.Future[Watch]
    users: int = 0
    keeper: asyncio.Task[None] | None = None


_shared: dict[tuple[int, Access], _Shared] = {}  # by event loop: a watch cannot serve another one


@asynccontextmanager
async def shared_watch(access: Access) -> AsyncIterator[Watch]:
    """Share one watch of a namespace among all that wait in this event loop; the last one out ends it.

    Raises:
        SpecError: the cluster cannot be reached as `access` says.
    """
    loop = asyncio.get_running_loop()
    key = (id(loop), access)
    held = _shared.get(key)
    if held is None:
        held = _shared[key] = _Shared(loop.create_future())
        held.keeper = asyncio.create_task(_kept(access, held))
    held.users += 1
    try:
        yield await asyncio.shield(held.watch)
    finally:
        held.users -= 1
        if held.users == 0 and held.keeper is not None:
            _shared.pop(key, None)
            held.keeper.cancel()


async def _kept(access: Access, held: _Shared) -> None:
    try:
        async with open_cluster(access) as cluster:
            watch = Watch(cluster)
            held.watch.set_result(watch)
            await watch.keep()
    except TidegateError as error:
        if not held.watch.done():
            held.watch.set_exception(error)
