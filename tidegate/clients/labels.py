"""Labels that arrive later, from a Kafka topic: {"id": <the request's id>, "label": 0 or 1}.

Each message is given out once at most: the position is on disk before its labels are counted. Nothing is committed to
a group. A topic that is read for the first time is read from its end.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from tidegate.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_log = logging.getLogger(__name__)
_TIMEOUT_MS = 10_000  # brokers may be silent so long
_POLL_MS = 500
_MOST_ID = 1000  # characters


def decode(value: bytes | None) -> tuple[str, int] | None:
    """Return (request id, label) of a message; None if it is no label."""
    try:
        found = json.loads(value or b"")
        request_id, label = found["id"], found["label"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    fits = isinstance(request_id, str) and 0 < len(request_id) <= _MOST_ID
    return (request_id, int(label)) if fits and label in (0, 1) else None


class LabelTopic:
    """One topic, read on from where its kept position is.

    Args:
        bootstrap: Kafka's bootstrap servers, comma-separated.
        topic: the topic, all of its partitions.
        kept: the file of the position; its folder is made if need be.
    """

    def __init__(self, bootstrap: str, topic: str, kept: Path):
        self._bootstrap, self._topic, self._kept = bootstrap, topic, kept

    def read(self) -> Iterator[list[tuple[str, int] | None]]:
        """Yield what has arrived, an item for each message, and an empty list about twice a second; never ends.

        Raises:
            Unavailable: no broker answers, there is no such topic, or the position cannot be kept; read again later.
        """
        from kafka import KafkaConsumer
        from kafka.errors import KafkaError, OffsetOutOfRangeError

        consumer = None
        try:
            consumer = KafkaConsumer(
                bootstrap_servers=self._bootstrap.split(","),
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="none",
                isolation_level="read_committed",
                allow_auto_create_topics=False,
                request_timeout_ms=_TIMEOUT_MS,
                bootstrap_timeout_ms=_TIMEOUT_MS,
            )
            partitions = self._assign(consumer)
            while True:
                try:
                    polled = consumer.poll(timeout_ms=_POLL_MS)
                except OffsetOutOfRangeError:
                    _log.warning("labels of %s are lost: deleted before they were read", self._topic)
                    consumer.seek_to_beginning(*partitions)
                    continue
                if polled:
                    self._keep({part.partition: records[-1].offset + 1 for part, records in polled.items()})
                yield [decode(record.value) for records in polled.values() for record in records]
        except (KafkaError, OSError) as error:
            raise Unavailable(
                f"labels cannot be read from topic {self._topic!r} of Kafka at {self._bootstrap} ({error!r}): "
                "none is counted until it answers"
            ) from error
        finally:
            if consumer is not None:
                consumer.close(autocommit=False)

    def _assign(self, consumer: Any) -> list[Any]:
        from kafka import TopicPartition

        numbers = consumer.partitions_for_topic(self._topic)
        if not numbers:
            raise Unavailable(f"Kafka at {self._bootstrap} has no topic {self._topic!r}; create it")
        partitions = [TopicPartition(self._topic, number) for number in sorted(numbers)]
        consumer.assign(partitions)
        ends, kept = consumer.end_offsets(partitions), self._position()
        start = {part.partition: kept.get(part.partition, ends[part]) for part in partitions}
        for part in partitions:
            consumer.seek(part, start[part.partition])
        self._keep(start)
        return partitions

    def _position(self) -> dict[int, int]:
        try:
            found = json.loads(self._kept.read_text(encoding="utf-8"))
            return {int(partition): int(offset) for partition, offset in found.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError, TypeError) as error:
            _log.warning("%s cannot be read (%r): labels are read from the topic's end", self._kept, error)
            return {}

    def _keep(self, moved: dict[int, int]) -> None:
        position = self._position() | moved
        self._kept.parent.mkdir(parents=True, exist_ok=True)
        aside = self._kept.with_name(f".{self._kept.name}.new")
        aside.write_text(json.dumps(position), encoding="utf-8")
        aside.replace(self._kept)
