"""The services of the embedded stack, a module each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegate.stack.services import airflow, envoy, guard, hdfs, kafka, mlflow, monitoring, postgres, quality, relay

if TYPE_CHECKING:
    from tidegate.stack.config import StackConfig
    from tidegate.stack.service import Service


def every(cfg: StackConfig) -> tuple[Service, ...]:
    """All services and start-up steps, in the order in which people should see them."""
    return (
        postgres.service(cfg),
        *hdfs.services(cfg),
        kafka.service(cfg),
        envoy.service(cfg),
        *monitoring.services(cfg),
        *guard.services(cfg),
        quality.service(cfg),
        relay.service(cfg),
        mlflow.service(cfg),
        *airflow.services(cfg),
    )
