"""From an Airflow connection to a tidegate client: the one place that knows how a connection spells its parts.

Every function takes the connection itself, so that operators (which look it up at once) and triggers (which await
it) share the same code. Passwords go into the client and nowhere else.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import BaseHook, Connection

if TYPE_CHECKING:
    from tidegate.clients.envoy import EnvoyTraffic
    from tidegate.clients.kubernetes import Access
    from tidegate.clients.ledger import Ledger
    from tidegate.clients.model_server import ModelServer
    from tidegate.clients.prometheus import PrometheusMetrics
    from tidegate.clients.registry import Registry
    from tidegate.delivery import Server
    from tidegate.ingest.kafka_registry import Registry as SchemaRegistry
    from tidegate.lake import Lake

LEDGER, METRICS, TRAFFIC, REGISTRY, SERVING = "tidegate_db", "prometheus", "traffic", "mlflow", "serving"


def connection(conn_id: str) -> Any:
    """Return an Airflow connection from a task."""
    return BaseHook.get_connection(conn_id)


async def aconnection(conn_id: str) -> Any:
    """Return an Airflow connection from a trigger, without blocking its loop."""
    return await Connection.async_get(conn_id)


def postgres_dsn(conn: Any) -> str:
    """Return a libpq address, with the password: pass it on, never log it."""
    user, password = quote(conn.login or "", safe=""), quote(conn.password or "", safe="")
    return f"postgresql://{user}:{password}@{conn.host}:{conn.port or 5432}/{conn.schema or ''}"


def kafka_bootstrap(conn: Any) -> str:
    """Return the bootstrap servers of a Kafka connection."""
    return str(conn.extra_dejson["bootstrap.servers"])


def kafka_security(conn: Any) -> dict[str, Any]:
    """Return a Kafka connection's settings of security, as librdkafka names them, with secrets: never log them."""
    return {
        name: value for name, value in conn.extra_dejson.items() if name.split(".")[0] in ("security", "sasl", "ssl")
    }


def schema_registry(conn_id: str | None) -> SchemaRegistry | None:
    """Return the client of a schema registry by the name of its HTTP connection, where there is one."""
    if conn_id is None:
        return None
    from tidegate.ingest.kafka_registry import Registry

    conn = connection(conn_id)
    return Registry(http_url(conn), conn.login or "", conn.password or "")


def http_url(conn: Any) -> str:
    """Return the base address of an HTTP connection."""
    host = str(conn.host)
    base = host if "://" in host else f"{conn.schema or 'http'}://{host}"
    return f"{base}:{conn.port}" if conn.port else base


def ledger(conn: Any) -> Ledger:
    """Return the record of leases, rollouts, requests and quarantine counts."""
    from tidegate.clients.ledger import Ledger

    return Ledger(postgres_dsn(conn))


def traffic(conn: Any) -> EnvoyTraffic:
    """Return the client that moves traffic at Envoy."""
    from tidegate.clients.envoy import EnvoyTraffic

    return EnvoyTraffic(Path(conn.extra_dejson["xds"]), admin=conn.extra_dejson["admin"])


def metrics(conn: Any) -> PrometheusMetrics:
    """Return the client that counts requests, errors and latencies per version."""
    from tidegate.clients.prometheus import PrometheusMetrics

    return PrometheusMetrics(http_url(conn))


def registry(conn: Any) -> Registry:
    """Return the model registry."""
    from tidegate.clients.registry import Registry

    return Registry(http_url(conn))


def kubernetes(conn: Any) -> Access:
    """Return how a Kubernetes connection reaches its cluster; its extra fields are those of Airflow's own.

    They are in_cluster, kube_config_path, cluster_context and namespace; without any, $KUBECONFIG or ~/.kube/config.
    """
    from tidegate.clients.kubernetes import Access

    extra = conn.extra_dejson
    path = extra.get("kube_config_path")
    return Access(
        namespace=extra.get("namespace") or "default",
        kubeconfig=Path(path) if path else None,
        context=extra.get("cluster_context"),
        in_cluster=bool(extra.get("in_cluster", False)),
    )


def serving(conn: Any, lake: Lake, server: Server) -> ModelServer:
    """Return the model server backend that a delivery's serve.server names.

    Raises:
        SetupError: it is tfserving, and the connection names no slots in its extra field `tfserving`.
    """
    from tidegate.clients.tfserving import TfServing, pool_of
    from tidegate.clients.triton import TritonServer
    from tidegate.delivery import share_sampled
    from tidegate.stack.supervision import Supervision

    extra = conn.extra_dejson
    if server == "tfserving":
        pool = pool_of(
            extra.get("tfserving"),
            f"the extra field tfserving of connection {SERVING} (embedded stack: var/tfserving.json)",
        )
        return TfServing(pool, lake, Path(extra["targets"]))
    supervision = Supervision(
        socket=Path(extra["supervisor"]), user=conn.login, password=conn.password, conf_dir=Path(extra["conf_dir"])
    )
    return TritonServer(
        supervision=supervision,
        python=Path(extra["python"]),
        folder=Path(extra["models"]),
        lake=lake,
        prometheus_targets=Path(extra["targets"]),
        sample=share_sampled,
    )
