"""The example delivery, as the demonstration uses it: load its sources, build its live traffic, ask for a retrain."""

from __future__ import annotations

import importlib
import json
import sys
from typing import TYPE_CHECKING, Any

from tidegate.delivery import project_root
from tidegate.errors import Unavailable
from tidegate.wire import kserve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate.handoff import Feature
    from tidegate.stack.config import StackConfig

TIMEOUT_S = 15


def load(cfg: StackConfig) -> Iterator[str]:
    """Load January to April into the sources; yield what each one gained."""
    flights = _flights()
    sources = flights.Sources(cfg.postgres_dsn("flights"), cfg.kafka, "127.0.0.1", cfg.ports["hdfs-namenode"])
    for name, rows in flights.load(sources).items():
        yield f"{name:<9} {rows:>7,} rows" if rows else f"{name:<9} loaded already"


def bodies(features: list[Feature]) -> list[bytes]:
    """Return a prepared request for every real flight of April, in the order in which they left."""
    rows = [row.features for row in _flights().april_rows()]
    return kserve.bodies(features, {feature.name: [row[feature.name] for row in rows] for feature in features})


def ask(cfg: StackConfig, topic: str, message: dict[str, Any]) -> None:
    """Send one request to retrain and wait until Kafka has it.

    Raises:
        Unavailable: Kafka did not take it within 15 s.
    """
    from kafka import KafkaProducer
    from kafka.errors import KafkaError

    producer = KafkaProducer(bootstrap_servers=cfg.kafka, acks="all")
    try:
        producer.send(topic, json.dumps(message).encode()).get(timeout=TIMEOUT_S)
    except KafkaError as error:
        raise Unavailable(f"Kafka at {cfg.kafka} did not take the request within {TIMEOUT_S} s: {error}") from error
    finally:
        producer.close()


def _flights() -> Any:
    root = str(project_root())
    if root not in sys.path:  # examples are the user's own files: beside the package, not in it
        sys.path.insert(0, root)
    return importlib.import_module("examples.flights.load")
