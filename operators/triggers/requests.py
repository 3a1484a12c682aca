"""Watches a Kafka topic for requests to retrain, at least once: an offset is committed after its event is stored."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent
from airflow.triggers.shared_stream import AdvanceItem, SharedStreamProducer

from operators.hooks import clients
from tidegate.errors import DataError

log = logging.getLogger(__name__)

POLL_MS = 500
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0


class KafkaRequestTrigger(BaseEventTrigger):
    """Fires an asset event per message of the topic, with (topic, partition, offset) for de-duplication."""

    def __init__(self, connection_id: str, topic: str, group: str):
        super().__init__()
        self.connection_id = connection_id
        self.topic = topic
        self.group = group

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what identifies this trigger: ids and names, no secrets, no times."""
        return (
            "operators.triggers.requests.KafkaRequestTrigger",
            {"connection_id": self.connection_id, "topic": self.topic, "group": self.group},
        )

    def shared_stream_key(self) -> Hashable:
        """Return the key under which several watchers of one topic share one consumer."""
        return ("tidegate-kafka", self.connection_id, self.topic, self.group)

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> SharedStreamProducer:
        """Return the consumer's owner; it connects only when the stream is opened."""
        return KafkaRequests(kwargs["connection_id"], kwargs["topic"], kwargs["group"])

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncIterator[TriggerEvent]:
        """Turn every message into one event: what is wrong with a message is said where requests are drained."""
        async for message in shared_stream:
            yield TriggerEvent(message)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Run alone, without a shared stream: used where a triggerer has no stream manager."""
        async for message, _ in KafkaRequests(self.connection_id, self.topic, self.group).open_stream():
            yield TriggerEvent(message)


class KafkaRequests(SharedStreamProducer):
    """Owns the consumer: polls in a thread of its own and commits what Airflow has stored."""

    def __init__(self, connection_id: str, topic: str, group: str):
        self.connection_id = connection_id
        self.topic = topic
        self.group = group
        self._consumer: Any = None
        # kafka-python is blocking and not thread-safe: every call on the consumer goes through this one thread
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"kafka-{topic}")

    async def open_stream(self) -> AsyncIterator[tuple[Any, Any]]:
        """Yield (message, position) for ever; a broker that is away is waited for with growing pauses."""
        pause = FIRST_PAUSE_S
        while True:
            try:
                await self._connect()
                async for item in self._messages():
                    pause = FIRST_PAUSE_S
                    yield item
            except Exception as error:  # any transient failure: the watcher must outlive it, and says so
                log.warning("topic %s: %s: %s; trying again in %.0f s", self.topic, type(error).__name__, error, pause)
            await self._disconnect()
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    async def _messages(self) -> AsyncIterator[tuple[Any, Any]]:
        while True:
            batches = await self._call(lambda: self._consumer.poll(timeout_ms=POLL_MS))
            for partition, records in batches.items():
                for record in records:
                    message = {
                        "topic": partition.topic,
                        "partition": partition.partition,
                        "offset": record.offset,
                        "value": (record.value or b"").decode("utf-8", "replace"),
                    }
                    yield message, (partition.topic, partition.partition, record.offset)

    async def advance(self, batch: Sequence[AdvanceItem]) -> None:
        """Commit up to the first event that Airflow has not stored; the broker sends that one again after a restart."""
        stored = [item.broker_payload for item in itertools.takewhile(lambda item: item.outcome.is_clean, batch)]
        if not stored or self._consumer is None:
            return
        topic, partition, offset = stored[-1]
        await self._call(lambda: self._commit(topic, partition, offset + 1))

    def _commit(self, topic: str, partition: int, offset: int) -> None:
        from kafka import TopicPartition
        from kafka.structs import OffsetAndMetadata

        self._consumer.commit({TopicPartition(topic, partition): OffsetAndMetadata(offset, "", -1)})

    def get_advance_lane(self, broker_payload: Any) -> Hashable:
        """Return the partition: its commits do not wait for other partitions."""
        return (broker_payload[0], broker_payload[1])

    async def aclose(self) -> None:
        """Leave the group and end the thread."""
        await self._disconnect()
        self._thread.shutdown(wait=False)

    async def _connect(self) -> None:
        bootstrap = clients.kafka_bootstrap(await clients.aconnection(self.connection_id))
        self._consumer = await self._call(lambda: self._open(bootstrap))

    def _open(self, bootstrap: str) -> Any:
        from kafka import KafkaConsumer

        consumer = KafkaConsumer(
            bootstrap_servers=bootstrap,
            group_id=self.group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            client_id="tidegate-requests",
        )
        if self.topic not in consumer.topics():  # subscribed, the consumer would ask for it ten times a second
            consumer.close()
            raise DataError(f"topic {self.topic!r} is not on {bootstrap}; create it, and it is watched from then on")
        consumer.subscribe([self.topic])
        return consumer

    async def _disconnect(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await self._call(lambda: consumer.close())

    async def _call(self, function: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)
