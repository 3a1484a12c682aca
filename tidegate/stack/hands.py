"""All that a rollout touches, on the embedded stack and without Airflow: for people at a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegate.bundle import load
from tidegate.clients.airflow import AirflowApi
from tidegate.clients.envoy import EnvoyTraffic
from tidegate.clients.ledger import Ledger
from tidegate.clients.prometheus import PrometheusMetrics
from tidegate.clients.registry import Registry
from tidegate.clients.tfserving import TfServing, pool_of
from tidegate.clients.triton import TritonServer
from tidegate.delivery import delivery_named, share_sampled
from tidegate.lake import Lake
from tidegate.rollout.steps import Hands, routing_of
from tidegate.stack import daemon

if TYPE_CHECKING:
    from tidegate.clients.model_server import ModelServer
    from tidegate.delivery import Server
    from tidegate.stack.config import StackConfig


def hands(cfg: StackConfig, delivery: str) -> Hands:
    """Return the clients that a delivery's rollout works with.

    Raises:
        SpecError: there is no such delivery, or its file has mistakes.
    """
    spec = delivery_named(delivery)
    lake = Lake(f"file://{cfg.paths.lake}")
    proxy = EnvoyTraffic(cfg.paths.xds, admin=cfg.url("envoy-admin"))
    return Hands(
        ledger=ledger(cfg),
        traffic=proxy,
        proxy=proxy,
        servers=servers(cfg, lake, spec.serve.server),
        registry=Registry(cfg.url("mlflow")),
        bundle=lambda name, version: load(lake, name, version),
        ttl_s=spec.rollout.lease,
        routing=routing_of(spec.serve),
    )


def servers(cfg: StackConfig, lake: Lake, server: Server) -> ModelServer:
    """Return the model server backend that a delivery's serve.server names.

    Raises:
        SetupError: it is tfserving, and nobody has named its slots.
    """
    if server == "tfserving":
        return TfServing(pool_of(cfg.tfserving, str(cfg.paths.tfserving)), lake, cfg.paths.triton_targets)
    return TritonServer(
        supervision=daemon.supervision(cfg),
        python=cfg.paths.python_serve,
        folder=cfg.paths.serving,
        lake=lake,
        prometheus_targets=cfg.paths.triton_targets,
        sample=share_sampled,
    )


def ledger(cfg: StackConfig) -> Ledger:
    """Return the record of leases, rollouts and events."""
    return Ledger(cfg.postgres_dsn("tidegate"))


def metrics(cfg: StackConfig) -> PrometheusMetrics:
    """Return the proxy's counters per version."""
    return PrometheusMetrics(cfg.url("prometheus"), timeout_s=30.0)


def airflow(cfg: StackConfig) -> AirflowApi:
    """Return a logged-in client of Airflow's API."""
    return AirflowApi(cfg.url("airflow"), *cfg.airflow_login)
