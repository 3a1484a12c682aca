"""Traffic split by one Envoy that watches a folder for its routes (rds.yaml) and clusters (cds.yaml).

The splits themselves are kept in `state.json` in the folder `traffic` beside the watched one, changed under a file
lock. Files are written aside there and moved into the watched folder, so that Envoy reads each whole or not at all.
Each names the state that it was made from: where a writer was killed in between, whoever reads or writes next sees
that and finishes its work. A cluster is known before a route names it, and a route is gone before its cluster is.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import httpx

from tidegate.clients import envoy_resources as resources
from tidegate.clients.traffic import Routing, Split, drained, reweighed, routed, unrouted
from tidegate.errors import Conflict, DataError, SpecError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

_Said = TypeVar("_Said")
_STATE = "state.json"
_FILES = {"cds.yaml": resources.clusters, "rds.yaml": resources.routes}  # in the order in which things are added
_log = logging.getLogger(__name__)
_POLL_S = 0.02
_STUCK_S = 2.0  # a holder writes three small files; longer than this it stands still
_ADMIN_TIMEOUT_S = 2.0
_QUIET_S = resources.RETRY_PAUSE_S + 0.05  # a request between two tries is in no figure of Envoy's


class EnvoyTraffic:
    """Moves traffic by files that Envoy watches, and asks Envoy's admin port what it serves.

    Args:
        xds: the folder that Envoy watches.
        admin: address of Envoy's admin port, as http://127.0.0.1:9901; without one `route` and `unroute` wait for
            nothing, and `applied` and `confirm` cannot be used.
        within_s: how long to wait for Envoy to serve a change, seconds.
        drain_s: how long `unroute` waits for the last requests of a version, seconds. Envoy ends a request 10 s
            after it has it whole, and one that is not whole after 15 s; so 30 s are enough for any.
    """

    def __init__(self, xds: Path, admin: str | None = None, within_s: float = 5.0, drain_s: float = 30.0):
        self.xds = xds
        self.admin = admin
        self._within_s = within_s
        self._drain_s = drain_s
        self._home = xds.parent / "traffic"
        self._http: httpx.Client | None = None
        self._held = 0  # the inode of the lock's file while it is held

    def deliveries(self) -> list[str]:
        """Return the names of deliveries with a split, sorted."""
        return sorted(self._load())

    def read(self, delivery: str) -> Split:
        """See Traffic.read; finishes the work of a writer that was killed before Envoy's files were written."""
        splits = self._load()
        if not self._placed(splits):
            with self._locked():
                splits = self._load()
                self._finish(splits)
        return splits.get(delivery, Split())

    def write(
        self,
        delivery: str,
        weights: Mapping[str, int],
        *,
        champion: str | None,
        expected: int,
        fence: int,
        cause: str = "",
        mirrors: Mapping[str, int] | None = None,
    ) -> Split:
        """See Traffic.write."""
        return self._change(
            delivery, lambda old: reweighed(delivery, old, weights, champion, expected, fence, cause, mirrors)
        )

    def route(self, delivery: str, name: str, address: str, routing: Routing | None = None) -> Split:
        """See Traffic.route; with an admin address, return once Envoy knows the server.

        Envoy reads its two files in no fixed order: a share given before it knows the cluster would answer 503.

        Raises:
            Conflict: Envoy does not know the server after a few seconds.
        """
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise DataError(f"address {address!r} of {name} is not host:port")
        split = self._change(delivery, lambda old: routed(old, name, address, routing))
        if self.admin is not None:
            wanted = set(resources.addresses({delivery: split}).items())
            self._until(lambda: wanted <= self._known(), f"does not know {name}")
        return split

    def unroute(self, delivery: str, name: str) -> Split:
        """See Traffic.unroute; with an admin address, return once no request is on its way to the version.

        Its routes go first, then its last requests are awaited, then its cluster goes. Versions whose draining was
        broken off before (the caller was killed, the limit passed) are finished as well.

        Raises:
            Conflict: see Traffic.unroute; after the limit the version keeps its cluster, and nothing is cut.
            Unavailable: Envoy's admin port does not answer, so nobody knows whether requests are on their way.
        """
        drains = self.admin is not None
        split = self._change(delivery, lambda old: unrouted(delivery, old, name, drains), removes=True)
        if drains:
            for leaving in split.draining:
                self._drain(delivery, leaving)
                split = self._change(delivery, partial(drained, name=leaving))
        return split

    def reapply(self) -> None:
        """See Proxy.reapply."""
        with self._locked():
            self._place(self._load())

    def applied(self, delivery: str) -> dict[str, int]:
        """Return the weights that Envoy serves now, by version; empty for a delivery without a route.

        Raises:
            Unavailable: Envoy's admin port does not answer.
        """
        return self._shown(resources.served, delivery)

    def confirm(self, delivery: str, weights: Mapping[str, int], mirrors: Mapping[str, int] | None = None) -> None:
        """See Proxy.confirm."""
        wanted = {name: weight for name, weight in weights.items() if weight > 0}
        self._until(lambda: self.applied(delivery) == wanted, f"does not serve {delivery} as {wanted}")
        if mirrors is not None:
            shares = dict(mirrors)
            self._until(
                lambda: self._shown(resources.mirrored, delivery) == shares, f"does not mirror {delivery} as {shares}"
            )

    def _drain(self, delivery: str, name: str) -> None:
        own = {name, resources.pinned(name)}
        self._until(lambda: not own & self._shown(resources.reached, delivery), f"still has a route to {name}")
        begun = quiet_since = time.monotonic()
        while (now := time.monotonic()) < quiet_since + _QUIET_S:
            active = self._active(own)
            if active and now > begun + self._drain_s:
                raise Conflict(
                    f"{active} requests to {name} of {delivery} have not ended {self._drain_s:g} s after its last "
                    "route went; its server must stay: try again"
                )
            quiet_since = time.monotonic() if active else quiet_since
            time.sleep(_POLL_S)  # Envoy announces no end: its admin port has to be asked again

    def _active(self, clusters: set[str]) -> int:
        either = "|".join(re.escape(name) for name in sorted(clusters))
        wanted = quote(rf"^cluster\.({either})\.upstream_rq_(pending_)?active$")
        figures = self._ask(f"/stats?filter={wanted}").text.split("\n")
        return sum(int(line.rpartition(":")[2]) for line in figures if line)

    def _known(self) -> set[tuple[str, ...]]:
        return {tuple(line.split("::", 2)[:2]) for line in self._ask("/clusters").text.splitlines()}

    def _shown(self, said: Callable[[Mapping[str, Any], str], _Said], delivery: str) -> _Said:
        answer = self._ask("/config_dump?resource=dynamic_route_configs")
        try:
            return said(answer.json(), delivery)
        except (ValueError, KeyError) as error:
            raise Unavailable(f"Envoy's admin port at {self.admin} gave no route configuration ({error!r})") from error

    def _until(self, holds: Callable[[], bool], otherwise: str) -> None:
        until = time.monotonic() + self._within_s
        while not holds():
            if time.monotonic() > until:
                raise Conflict(
                    f"Envoy at {self.admin} {otherwise} {self._within_s:g} s after it was told; "
                    "see envoy.log for a refused file"
                )
            time.sleep(_POLL_S)  # Envoy announces no change: its admin port has to be asked again

    def _ask(self, path: str) -> httpx.Response:
        if self.admin is None:
            raise SpecError("EnvoyTraffic has no admin address; give it one to ask what Envoy serves")
        self._http = self._http or httpx.Client(timeout=_ADMIN_TIMEOUT_S)
        try:
            return self._http.get(self.admin + path).raise_for_status()
        except httpx.HTTPError as error:
            raise Unavailable(
                f"Envoy's admin port at {self.admin} did not answer within {_ADMIN_TIMEOUT_S:g} s "
                f"({error or type(error).__name__})"
            ) from error

    def _change(self, delivery: str, change: Callable[[Split], Split], removes: bool = False) -> Split:
        with self._locked():
            splits = self._load()
            old = splits.get(delivery, Split())
            new = change(old)
            if new is old:
                self._finish(splits)
                return old
            splits[delivery] = new
            self._replace(self._home / _STATE, resources.to_json(splits))
            self._place(splits, removes)
            return new

    def _load(self) -> dict[str, Split]:
        path = self._home / _STATE
        try:
            return resources.from_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise DataError(f"{path} is not JSON of splits ({error}); restore it, or roll out anew") from error

    def _placed(self, splits: Mapping[str, Split]) -> bool:
        """Whether both files were made from just these splits; a file that someone edited since still counts."""
        marked = f'"version_info": "{resources.version_of(splits)}"'
        try:
            return not splits or all(marked in (self.xds / name).read_text(encoding="utf-8") for name in _FILES)
        except FileNotFoundError:
            return False

    def _finish(self, splits: Mapping[str, Split]) -> None:
        if not self._placed(splits):
            _log.warning("Envoy's files in %s are older than the recorded traffic: writing them again", self.xds)
            self._place(splits)

    def _place(self, splits: Mapping[str, Split], removes: bool = False) -> None:
        for name in reversed(_FILES) if removes else _FILES:
            made = _FILES[name](splits)
            self._replace(self.xds / name, json.dumps(made, indent=1))  # JSON is YAML, and written ten times as fast

    def _replace(self, target: Path, text: str) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = self._home / f".{target.name}.{self._held}"  # a name of this hold alone
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if self._lock.stat().st_ino != self._held:
            aside.unlink()
            raise Conflict(f"{self._lock} was taken over while this process stood still: read the traffic again")
        os.replace(aside, target)

    @property
    def _lock(self) -> Path:
        return self._home / ".lock"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder's lock, if need be by taking it from a holder that stood still for `_STUCK_S`.

        A stopped process (SIGSTOP, a frozen container) keeps its lock for ever, and the way back must not wait for it.
        So the lock's file is replaced by a new one; who then goes on finds another file there and writes nothing.
        """
        self._home.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + _STUCK_S
        while True:
            with self._lock.open("a") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() > until:
                        _log.warning("the holder of %s has stood still for %g s: taking it over", self._lock, _STUCK_S)
                        self._break()
                        until = time.monotonic() + _STUCK_S
                    time.sleep(_POLL_S / 4)  # flock has no time-out, and a signal for one would need the main thread
                    continue
                self._held = os.fstat(lock.fileno()).st_ino
                if self._lock.stat().st_ino == self._held:  # else it was replaced between open and flock
                    yield
                    return

    def _break(self) -> None:
        fresh = self._home / f".lock.{os.getpid()}.{time.monotonic_ns()}"
        fresh.touch()
        os.replace(fresh, self._lock)
