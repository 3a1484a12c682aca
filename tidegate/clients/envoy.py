"""Traffic split by one Envoy that watches a folder for its routes (rds.yaml) and clusters (cds.yaml).

The splits themselves are kept in `state.json` in the folder `traffic` beside the watched one, changed under a file
lock. Files are written aside there and moved into the watched folder, so that Envoy reads each whole or not at all.
A cluster is known before a route names it, and a route is gone before its cluster is.

Format: https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/route/v3/route_components.proto
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import httpx

from tidegate.clients.traffic import Split, reweighed, routed, unrouted
from tidegate.errors import Conflict, DataError, SpecError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

_ROUTE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
_CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
_TIMEOUT = "10s"
_POLL_S = 0.02
_ADMIN_TIMEOUT_S = 2.0


class EnvoyTraffic:
    """Moves traffic by files that Envoy watches, and asks Envoy's admin port what it serves.

    Args:
        xds: the folder that Envoy watches.
        admin: address of Envoy's admin port, as http://127.0.0.1:9901; needed for `applied` and `confirm` only.
        within_s: how long `confirm` waits for Envoy to serve a change.
    """

    def __init__(self, xds: Path, admin: str | None = None, within_s: float = 5.0):
        self.xds = xds
        self.admin = admin
        self._within_s = within_s
        self._home = xds.parent / "traffic"
        self._http: httpx.Client | None = None

    def deliveries(self) -> list[str]:
        """Return the names of deliveries with a split, sorted."""
        return sorted(self._load())

    def read(self, delivery: str) -> Split:
        """See Traffic.read."""
        return self._load().get(delivery, Split())

    def write(
        self,
        delivery: str,
        weights: Mapping[str, int],
        *,
        champion: str | None,
        expected: int,
        fence: int,
        cause: str = "",
    ) -> Split:
        """See Traffic.write."""
        return self._change(delivery, lambda old: reweighed(delivery, old, weights, champion, expected, fence, cause))

    def route(self, delivery: str, name: str, address: str) -> Split:
        """See Traffic.route; with an admin address, return once Envoy knows the server.

        Envoy reads its two files in no fixed order: a share given before it knows the cluster would answer 503.

        Raises:
            Conflict: Envoy does not know the server after a few seconds.
        """
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise DataError(f"address {address!r} of {name} is not host:port")
        split = self._change(delivery, lambda old: routed(old, name, address))
        if self.admin is not None:
            self._until(lambda: f"{name}::{address}::" in self._ask("/clusters").text, f"does not know {name}")
        return split

    def unroute(self, delivery: str, name: str) -> Split:
        """See Traffic.unroute."""
        return self._change(delivery, lambda old: unrouted(delivery, old, name), removes=True)

    def reapply(self) -> None:
        """See Proxy.reapply."""
        with self._locked():
            splits = self._load()
            self._place("cds.yaml", clusters(splits))
            self._place("rds.yaml", routes(splits))

    def applied(self, delivery: str) -> dict[str, int]:
        """Return the weights that Envoy serves now, by version; empty for a delivery without a route.

        Raises:
            Unavailable: Envoy's admin port does not answer.
        """
        answer = self._ask("/config_dump?resource=dynamic_route_configs")
        try:
            return served(answer.json(), delivery)
        except (ValueError, KeyError) as error:
            raise Unavailable(f"Envoy's admin port at {self.admin} gave no route configuration ({error!r})") from error

    def confirm(self, delivery: str, weights: Mapping[str, int]) -> None:
        """See Proxy.confirm."""
        wanted = {name: weight for name, weight in weights.items() if weight > 0}
        self._until(lambda: self.applied(delivery) == wanted, f"does not serve {delivery} as {wanted}")

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
                return old
            splits[delivery] = new
            self._replace(
                self._home / "state.json", json.dumps({name: asdict(s) for name, s in splits.items()}, indent=1)
            )
            for name, resources in _in_order(splits, removes):
                self._place(name, resources)
            return new

    def _load(self) -> dict[str, Split]:
        try:
            stored = json.loads((self._home / "state.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise DataError(
                f"{self._home / 'state.json'} is not JSON ({error}); restore it, or roll out anew"
            ) from error
        return {name: Split(**split) for name, split in stored.items()}

    def _place(self, name: str, resources: dict[str, Any]) -> None:
        self._replace(self.xds / name, json.dumps(resources, indent=1))  # JSON is YAML, and written ten times as fast

    def _replace(self, target: Path, text: str) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=self._home, prefix=".", suffix=f".{target.name}")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, target)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._home.mkdir(parents=True, exist_ok=True)
        with (self._home / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def routes(splits: Mapping[str, Split]) -> dict[str, Any]:
    """Return Envoy's routes: one per delivery with traffic, by the path prefix of its model; pure."""
    shown = [_route(delivery, split) for delivery, split in sorted(splits.items()) if any(split.weights.values())]
    host = {"name": "deliveries", "domains": ["*"], "routes": shown}
    table = {"@type": _ROUTE, "name": "tidegate", "virtual_hosts": [host]}
    return {"version_info": _version(splits), "resources": [table]}


def clusters(splits: Mapping[str, Split]) -> dict[str, Any]:
    """Return Envoy's clusters: one per routed version; pure."""
    endpoints = {name: where for split in splits.values() for name, where in split.endpoints.items()}
    resources = [_cluster(name, where) for name, where in sorted(endpoints.items())]
    return {"version_info": _version(splits), "resources": resources}


def served(dump: Mapping[str, Any], delivery: str) -> dict[str, int]:
    """Return the weights of a delivery in an answer of /config_dump?resource=dynamic_route_configs; pure."""
    tables = (entry.get("route_config", {}) for entry in dump.get("configs", []))
    for table in tables:
        for host in table.get("virtual_hosts", []):
            for route in host.get("routes", []):
                if route.get("match", {}).get("prefix") == _prefix(delivery):
                    shares = route["route"]["weighted_clusters"]["clusters"]
                    return {share["name"]: int(share["weight"]) for share in shares}
    return {}


def _route(delivery: str, split: Split) -> dict[str, Any]:
    shares = [
        {
            "name": name,
            "weight": weight,
            "response_headers_to_add": [{"header": {"key": "x-tidegate-version", "value": name}}],
        }
        for name, weight in sorted(split.weights.items())
        if weight > 0
    ]
    return {
        "match": {"prefix": _prefix(delivery)},
        "route": {"weighted_clusters": {"clusters": shares}, "timeout": _TIMEOUT},
    }


def _cluster(name: str, address: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    socket = {"socket_address": {"address": host, "port_value": int(port)}}
    return {
        "@type": _CLUSTER,
        "name": name,
        "type": "STATIC",
        "connect_timeout": "0.25s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket}}]}],
        },
    }


def _in_order(splits: Mapping[str, Split], removes: bool) -> list[tuple[str, dict[str, Any]]]:
    files = [("cds.yaml", clusters(splits)), ("rds.yaml", routes(splits))]
    return files[::-1] if removes else files


def _prefix(delivery: str) -> str:
    return f"/v2/models/{delivery}/"


def _version(splits: Mapping[str, Split]) -> str:
    return str(sum(split.revision for split in splits.values()))
