"""Sends requests to retrain to the topic that `requests__<delivery>` drains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegate.errors import Unavailable

if TYPE_CHECKING:
    from tidegate.handoff import Request

TIMEOUT_S = 15.0


def send(request: Request, bootstrap: str, topic: str) -> str:
    """Send a request and return where it stands, as topic/partition@offset; sending twice is trained once.

    Raises:
        Unavailable: no broker took it within 15 seconds.
    """
    from kafka import KafkaProducer
    from kafka.errors import KafkaError

    body = request.model_dump_json(exclude={"delivery"}, exclude_none=True).encode()
    try:
        producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", max_block_ms=int(TIMEOUT_S * 1000))
        try:
            kept = producer.send(topic, body, key=request.request_id.encode()).get(timeout=TIMEOUT_S)
        finally:
            producer.close(timeout=TIMEOUT_S)
    except KafkaError as error:
        raise Unavailable(
            f"Kafka at {bootstrap} took no request into topic {topic!r} within {TIMEOUT_S:.0f} s ({error}); it is "
            "tried again, see whether the broker runs"
        ) from error
    return f"{kept.topic}/{kept.partition}@{kept.offset}"
