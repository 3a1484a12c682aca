"""The API server of a Kubernetes cluster, in one namespace: what a gang of pods needs of it, as plain JSON objects."""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tidegate.errors import Permanent, SpecError, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

_TIMEOUT = 20.0  # seconds for one call
_KUEUE = ("kueue.x-k8s.io", "v1beta1", "workloads")
_BAD_REQUEST, _NOT_FOUND, _CONFLICT, _GONE, _UNPROCESSABLE = 400, 404, 409, 410, 422
Kind = Literal["Job", "Pod"]


class Exists(Permanent):
    """An object of this name is there already."""


class Changed(Exception):
    """An object is no longer as it was when it was read."""


class Expired(Exception):
    """The API server no longer knows the version from which to watch on."""


@dataclass(frozen=True)
class Access:
    """How a cluster is reached: from a pod inside it, or by a kubeconfig file (None: $KUBECONFIG or ~/.kube/config)."""

    namespace: str = "default"
    kubeconfig: Path | None = None
    context: str | None = None
    in_cluster: bool = False


class Cluster:
    """One connection to an API server; use it as `async with open_cluster(access) as cluster`."""

    def __init__(self, access: Access, api: Any):
        from kubernetes_asyncio import client

        self.namespace = access.namespace
        self._batch, self._core, self._custom = (
            client.BatchV1Api(api),
            client.CoreV1Api(api),
            client.CustomObjectsApi(api),
        )
        self._apis = client.ApisApi(api)

    async def create_job(self, body: Mapping[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Create a Job and return it; with `dry_run` the API server only says whether it would.

        Raises:
            Exists: there is one of this name.
        """
        options = {"dry_run": "All"} if dry_run else {}
        return await self._asked("create Job", self._batch.create_namespaced_job, self.namespace, body, **options)

    async def create_service(self, body: Mapping[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Create a Service and return it; with `dry_run` the API server only says whether it would.

        Raises:
            Exists: there is one of this name.
        """
        options = {"dry_run": "All"} if dry_run else {}
        return await self._asked(
            "create Service", self._core.create_namespaced_service, self.namespace, body, **options
        )

    async def job(self, name: str) -> dict[str, Any] | None:
        """Return a Job, or None where there is none."""
        return await self._found("read Job", self._batch.read_namespaced_job, name, self.namespace)

    async def events(self, name: str) -> list[dict[str, Any]]:
        """Return the events about the object of this name, oldest first."""
        found = await self._asked(
            "list events",
            self._core.list_namespaced_event,
            self.namespace,
            field_selector=f"involvedObject.name={name}",
        )
        return sorted(found["items"], key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))

    async def admission(self, job_uid: str) -> dict[str, Any] | None:
        """Return Kueue's Workload of a Job, or None where Kueue has made none (or is not there)."""
        group, version, plural = _KUEUE
        found = await self._found(
            "list Workloads", self._custom.list_namespaced_custom_object, group, version, self.namespace, plural,
            label_selector=f"kueue.x-k8s.io/job-uid={job_uid}",
        )  # fmt: skip
        items = (found or {}).get("items") or []
        return items[0] if items else None

    async def has_kueue(self) -> bool:
        """Return whether this cluster has Kueue, as API discovery tells."""
        found = await self._asked("list API groups", self._apis.get_api_versions)
        return any(group["name"] == _KUEUE[0] for group in found["groups"])

    async def delete_job(self, name: str, uid: str, version: str | None = None) -> None:
        """Delete this very Job with its pods and its Service, which go first; nothing where it is gone already.

        Raises:
            Changed: it is not as it was in this resource version, where one is given.
        """
        wanted = {"uid": uid, **({"resourceVersion": version} if version else {})}
        body = {"propagationPolicy": "Foreground", "preconditions": wanted}
        try:
            await self._found("delete Job", self._batch.delete_namespaced_job, name, self.namespace, body=body)
        except Exists as error:
            if version:
                raise Changed(str(error)) from error
            return  # the name is another Job's by now: this one is gone

    async def annotate_job(self, name: str, uid: str, annotations: Mapping[str, str]) -> dict[str, Any] | None:
        """Write annotations on this very Job and return it as it is then; None where it is gone."""
        body = {"metadata": {"uid": uid, "annotations": dict(annotations)}}
        try:
            return await self._found("annotate Job", self._batch.patch_namespaced_job, name, self.namespace, body)
        except Exists:
            return None  # the name is another Job's by now

    async def log(self, pod: str, container: str, lines: int) -> str:
        """Return a container's newest lines, each with the kubelet's time; nothing where there is no log (any more)."""
        status, answer = await self._called(
            "read log", self._core.read_namespaced_pod_log, pod, self.namespace,
            container=container, tail_lines=lines, timestamps=True,
        )  # fmt: skip
        if status in (_BAD_REQUEST, _NOT_FOUND):  # a bad request: the container has not started
            return ""
        if status >= _BAD_REQUEST:
            raise _explained("read log", status, answer)
        return answer.decode(errors="replace")

    async def lines(self, pod: str, container: str) -> AsyncIterator[str]:
        """Yield a container's lines as it prints them, up to its end.

        Raises:
            Unavailable: the stream broke.
            Permanent: there is no such log.
        """
        try:
            following: Any = self._core.read_namespaced_pod_log
            response = await following(
                pod, self.namespace, container=container, follow=True, _preload_content=False, _request_timeout=None
            )
            if response.status >= _BAD_REQUEST:
                raise _explained("follow log", response.status, await response.read())
            async for line in _split(response.content):
                yield line.decode(errors="replace")
        except _lost() as error:
            raise Unavailable(f"the log of {pod} broke off: {error!r}") from error

    async def listed(self, kind: Kind, selector: str) -> tuple[list[dict[str, Any]], str]:
        """Return all Jobs or Pods with these labels, and the version from which a watch goes on."""
        found = await self._asked(f"list {kind}s", self._listing(kind), self.namespace, label_selector=selector)
        return list(found["items"]), str(found["metadata"]["resourceVersion"])

    async def watch(self, kind: Kind, selector: str, version: str, seconds: int) -> AsyncIterator[dict[str, Any]]:
        """Yield changes of Jobs or Pods with these labels after a resource version, for so many seconds.

        Each is {"type": ADDED | MODIFIED | DELETED | BOOKMARK, "object": ...}.

        Raises:
            Expired: list again: the API server does not know this version (any more).
            Unavailable: the stream broke, or the API server is away.
        """
        try:
            response = await self._listing(kind)(
                self.namespace, label_selector=selector, resource_version=version, watch=True, timeout_seconds=seconds,
                allow_watch_bookmarks=True, _preload_content=False, _request_timeout=seconds + _TIMEOUT,
            )  # fmt: skip
            if response.status >= _BAD_REQUEST:
                raise _explained(f"watch {kind}s", response.status, await response.read())
            async for line in _split(response.content):
                change = json.loads(line)
                if change["type"] == "ERROR":
                    raise _explained(f"watch {kind}s", int(change["object"].get("code", 500)), line)
                yield change
        except _lost() as error:
            raise Unavailable(f"the watch of {kind}s broke: {error!r}; it goes on by itself") from error

    def _listing(self, kind: Kind) -> Callable[..., Awaitable[Any]]:
        calls: dict[Kind, Any] = {"Job": self._batch.list_namespaced_job, "Pod": self._core.list_namespaced_pod}
        listing: Callable[..., Awaitable[Any]] = calls[kind]
        return listing

    async def _found(
        self, what: str, call: Callable[..., Awaitable[Any]], *args: Any, **options: Any
    ) -> dict[str, Any] | None:
        status, answer = await self._called(what, call, *args, **options)
        if status == _NOT_FOUND:
            return None
        if status >= _BAD_REQUEST:
            raise _explained(what, status, answer)
        return _object(answer)

    async def _asked(
        self, what: str, call: Callable[..., Awaitable[Any]], *args: Any, **options: Any
    ) -> dict[str, Any]:
        status, answer = await self._called(what, call, *args, **options)
        if status >= _BAD_REQUEST:
            raise _explained(what, status, answer)
        return _object(answer)

    async def _called(
        self, what: str, call: Callable[..., Awaitable[Any]], *args: Any, **options: Any
    ) -> tuple[int, bytes]:
        try:
            response = await call(*args, **options, _preload_content=False, _request_timeout=_TIMEOUT)
            return int(response.status), await response.read()
        except _lost() as error:
            raise Unavailable(
                f"the API server gave no answer within {_TIMEOUT:g} s to {what} ({error!r}); see that it runs"
            ) from error


@asynccontextmanager
async def open_cluster(access: Access) -> AsyncIterator[Cluster]:
    """Connect to a cluster.

    Raises:
        SpecError: the kubeconfig is missing or does not have what is asked for.
    """
    from kubernetes_asyncio import client, config
    from kubernetes_asyncio.config import ConfigException

    settings = client.Configuration()
    try:
        if access.in_cluster:
            config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
        else:
            file = None if access.kubeconfig is None else str(access.kubeconfig)
            await config.load_kube_config(config_file=file, context=access.context, client_configuration=settings)
    except (ConfigException, OSError, ssl.SSLError) as error:
        raise SpecError(
            f"the cluster cannot be reached as the connection says: {error}; mend the connection"
        ) from error
    settings.retries = 1
    async with client.ApiClient(configuration=settings) as api:
        yield Cluster(access, api)


async def _split(content: Any) -> AsyncIterator[bytes]:
    """Yield the lines of a stream, however long they are."""
    rest = b""
    async for chunk in content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
    if rest:
        yield rest


def _object(answer: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer)
    return found


def _lost() -> tuple[type[Exception], ...]:
    import aiohttp

    return (aiohttp.ClientError, asyncio.TimeoutError, OSError)


def _explained(what: str, status: int, answer: bytes) -> Exception:
    try:
        said = str(json.loads(answer)["message"])
    except (ValueError, KeyError, TypeError):
        said = answer.decode(errors="replace").strip()
    if status == _GONE or "too old resource version" in said:
        return Expired(said)
    if status == _CONFLICT:
        return Exists(f"{what}: {said}")
    if status in (401, 403):
        return Permanent(f"the cluster does not allow to {what}: {said}; grant it to the connection's account")
    if status in (_BAD_REQUEST, _NOT_FOUND, _UNPROCESSABLE):
        return Permanent(f"the cluster refused to {what}: {said}; mend what it names")
    return Unavailable(f"the cluster could not {what} ({status}): {said}; try again")
