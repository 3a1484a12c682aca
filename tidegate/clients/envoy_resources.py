"""Envoy's routes and clusters as pure functions of the recorded splits, and what an answer of its admin port says.

Formats: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/config/route/v3/route_components.proto (routes, weighted
clusters, hash policy, mirrors, retries) and .../api-v3/config/cluster/v3/cluster.proto.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tidegate.clients.traffic import Routing, Split
from tidegate.wire import prefixes, wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_ROUTE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
_CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
_TIMEOUT = "10s"
_UNKNOWN_PIN = 404
RETRY_PAUSE_S = 0.25
"""The longest pause before a try that follows a refused connection."""


def to_json(splits: Mapping[str, Split]) -> str:
    """Return the splits as JSON, the same text for the same splits."""
    return json.dumps({name: asdict(split) for name, split in splits.items()}, indent=1, sort_keys=True)


def from_json(text: str) -> dict[str, Split]:
    """Return the splits that `to_json` wrote, now or in a version that knew fewer fields.

    Raises:
        ValueError: it is no such text.
    """
    stored = json.loads(text)
    try:
        return {
            name: Split(**{**split, "routing": Routing(**split.get("routing", {}))}) for name, split in stored.items()
        }
    except (TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error


def version_of(splits: Mapping[str, Split]) -> str:
    """Return what marks the resources of just these splits, in their `version_info`."""
    return hashlib.sha256(to_json(splits).encode()).hexdigest()[:16]


def addresses(splits: Mapping[str, Split]) -> dict[str, str]:
    """Return host:port by cluster: one per version, and one more for its pinned requests where a pin is set."""
    found: dict[str, str] = {}
    for split in splits.values():
        known = {**split.draining, **split.endpoints}
        found |= known
        if split.routing.pin_header is not None:
            found |= {pinned(name): where for name, where in known.items()}
    return found


def pinned(name: str) -> str:
    """Return the cluster of a version's pinned requests: apart, so that testers do not enter its statistics."""
    return f"{name}-pinned"


def routes(splits: Mapping[str, Split]) -> dict[str, Any]:
    """Return Envoy's routes: the pins of each delivery, then its shares, by the path prefix of its model."""
    shown = [route for delivery, split in sorted(splits.items()) for route in _routes(delivery, split)]
    host = {"name": "deliveries", "domains": ["*"], "routes": shown}
    table = {"@type": _ROUTE, "name": "tidegate", "virtual_hosts": [host]}
    return {"version_info": version_of(splits), "resources": [table]}


def clusters(splits: Mapping[str, Split]) -> dict[str, Any]:
    """Return Envoy's clusters, those of draining versions included."""
    resources = [_cluster(name, where) for name, where in sorted(addresses(splits).items())]
    return {"version_info": version_of(splits), "resources": resources}


def served(dump: Mapping[str, Any], delivery: str) -> dict[str, int]:
    """Return the weights of a delivery in an answer of /config_dump?resource=dynamic_route_configs."""
    shares = _share_route(dump, delivery).get("weighted_clusters", {}).get("clusters", [])
    return {share["name"]: int(share["weight"]) for share in shares}


def mirrored(dump: Mapping[str, Any], delivery: str) -> dict[str, int]:
    """Return the mirrors of a delivery, percent by version, in the same answer."""
    policies = _share_route(dump, delivery).get("request_mirror_policies", [])
    return {each["cluster"]: int(each["runtime_fraction"]["default_value"]["numerator"]) for each in policies}


def reached(dump: Mapping[str, Any], delivery: str) -> set[str]:
    """Return the clusters that any route of a delivery names, in the same answer."""
    actions = [route.get("route", {}) for route in _shown(dump, delivery)]
    pins = {action["cluster"] for action in actions if "cluster" in action}
    return pins | set(served(dump, delivery)) | set(mirrored(dump, delivery))


def _shown(dump: Mapping[str, Any], delivery: str) -> Iterator[dict[str, Any]]:
    for entry in dump.get("configs", []):
        for host in entry.get("route_config", {}).get("virtual_hosts", []):
            for route in host.get("routes", []):
                if route.get("match", {}).get("prefix") in prefixes(delivery):
                    yield route


def _share_route(dump: Mapping[str, Any], delivery: str) -> dict[str, Any]:
    unpinned = (route["route"] for route in _shown(dump, delivery) if "headers" not in route["match"])
    return next(unpinned, {})


def _routes(delivery: str, split: Split) -> Iterator[dict[str, Any]]:
    header, prefix = split.routing.pin_header, wire(split.routing.protocol).prefix(delivery)
    if header is not None:
        yield from (_pin(prefix, header, name) for name in sorted(split.endpoints))
        yield _no_such_pin(delivery, prefix, header, split)
    if any(split.weights.values()):
        yield _shares(prefix, split)


def _shares(prefix: str, split: Split) -> dict[str, Any]:
    return {
        "match": {"prefix": prefix},
        "route": {
            "weighted_clusters": {
                "clusters": [
                    {"name": name, "weight": split.weights[name], "response_headers_to_add": [_names(name)]}
                    for name in _ordered(split)
                ],
                **({"use_hash_policy": True} if _hash_policy(split.routing) else {}),
            },
            "hash_policy": _hash_policy(split.routing),
            "request_mirror_policies": [_mirror(name, share) for name, share in sorted(split.mirrors.items())],
            **_limits(),
        },
    }


def _ordered(split: Split) -> list[str]:
    """Candidates first, the champion last.

    Envoy gives the caller with hash h the version whose interval of running sums of weights holds h mod 100. So a
    candidate has [0, weight): whoever is in it stays in it as the weight rises, and leaves it for the champion only.
    """
    having = [name for name, weight in split.weights.items() if weight > 0]
    return sorted(having, key=lambda name: (name == split.champion, name))


def _hash_policy(routing: Routing) -> list[dict[str, Any]]:
    by_header, by_cookie = routing.sticky_header, routing.sticky_cookie
    policy: list[dict[str, Any]] = []
    if by_header is not None:
        policy.append({"header": {"header_name": by_header}, "terminal": True})
    if by_cookie is not None:
        policy.append({"cookie": {"name": by_cookie}})  # with a ttl Envoy would set the cookie by itself
    return policy


def _mirror(name: str, share: int) -> dict[str, Any]:
    return {
        "cluster": name,
        "runtime_fraction": {"default_value": {"numerator": share, "denominator": "HUNDRED"}},
        "disable_shadow_host_suffix_append": True,
    }


def _pin(prefix: str, header: str, name: str) -> dict[str, Any]:
    return {
        "match": {"prefix": prefix, "headers": [{"name": header, "string_match": {"exact": name}}]},
        "route": {"cluster": pinned(name), **_limits()},
        "response_headers_to_add": [_names(name)],
    }


def _no_such_pin(delivery: str, prefix: str, header: str, split: Split) -> dict[str, Any]:
    have = ", ".join(sorted(split.endpoints)) or "none"
    error = f"{header} names no routed version of {delivery}; routed: {have}; leave the header out for the live ones"
    return {
        "match": {"prefix": prefix, "headers": [{"name": header, "present_match": True}]},
        "direct_response": {"status": _UNKNOWN_PIN, "body": {"inline_string": json.dumps({"error": error})}},
        "response_headers_to_add": [_set("content-type", "application/json")],
    }


def _limits() -> dict[str, Any]:
    return {
        "timeout": _TIMEOUT,
        "retry_policy": {
            "retry_on": "connect-failure",  # the one failure that says that nothing was sent
            "num_retries": 3,
            "retry_back_off": {"base_interval": "0.025s", "max_interval": f"{RETRY_PAUSE_S}s"},
        },
    }


def _names(version: str) -> dict[str, Any]:
    return _set("x-tidegate-version", version)


def _set(key: str, value: str) -> dict[str, Any]:
    return {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


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
