"""What is asked of Kafka's brokers: what a topic is, where its offsets lie, and the messages of a range of them.

The client is librdkafka. Its consumer is given offsets and commits none; a group is named to it because it must be, and
never comes to be.
"""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec, ResourceType

from tidegate.errors import DataError
from tidegate.ingest.edge import away, probe
from tidegate.ingest.kafka_ranges import Bounds, Lost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from tidegate.errors import Unavailable

log = logging.getLogger(__name__)

TIMEOUT = 20.0
_MESSAGES = 2_000  # taken at once, if they are small
_BYTES = 4 << 20  # taken at once, as far as the sizes of those before tell
_WAIT, _NEXT = 0.1, 0.005  # seconds for the first messages, and for more of them: a burst shall not pile up
_RETENTION = ("retention.ms", "retention.bytes", "cleanup.policy")
_AWAY = {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE, KafkaError._TIMED_OUT}
_CLIENT: dict[str, Any] = {
    "socket.connection.setup.timeout.ms": 5_000,
    "reconnect.backoff.max.ms": 1_000,  # a broker that is back shall not wait for us
    "log_level": 4,
}
_CONSUMER: dict[str, Any] = {
    "group.id": "tidegate-none",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",  # a lost range is an error, never a silent jump
    "enable.partition.eof": True,
    "allow.auto.create.topics": False,
    "check.crcs": True,
    "max.partition.fetch.bytes": 4 << 20,
    "fetch.max.bytes": 16 << 20,
    "receive.message.max.bytes": 256 << 20,  # the broker sends a message that is larger than asked for all the same
    "queued.max.messages.kbytes": 32 << 10,
    "queued.min.messages": 100_000,
    "fetch.queue.backoff.ms": 10,  # by default it stands still for a second when the queue is full
}


class Topic(NamedTuple):
    """A topic as it is now; one that is deleted and made again has another id."""

    name: str
    id: str
    partitions: tuple[int, ...]


@dataclass(frozen=True)
class Broker:
    """Kafka at its bootstrap servers; `timeout` is how long the brokers may be silent, seconds.

    `secure` are librdkafka's settings of the connection: security.protocol, sasl.*, ssl.*.
    """

    bootstrap: str
    timeout: float = TIMEOUT
    secure: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def topic(self, name: str) -> Topic:
        """Return a topic.

        Raises:
            Unavailable: no broker answers.
            DataError: there is no such topic.
        """
        self._probe()
        try:
            found = self._admin.describe_topics(TopicCollection([name]), request_timeout=self.timeout)[name].result()
        except KafkaException as error:
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise DataError(
                    f"Kafka at {self.bootstrap} has no topic {name!r}; create it, or mend the source's topic"
                ) from error
            raise self._away(error) from error
        return Topic(name, str(found.topic_id), tuple(sorted(each.id for each in found.partitions)))

    def bounds(
        self, topic: Topic, start: datetime, end: datetime, begun: Mapping[int, int], tolerance: float
    ) -> dict[int, Bounds]:
        """Return what each partition says of a window's start and end, transactions that are open included.

        The marker that ends a transaction bears the broker's time, and would end the windows of messages that bear
        old ones: where the record found is more than `tolerance` seconds too young, the first message is looked for,
        from the window's beginning in `begun` on where that is known.
        """
        kept, latest = self.kept(topic), self._latest(topic, IsolationLevel.READ_UNCOMMITTED)
        found: list[dict[int, int]] = []
        for moment in (start, end):
            asked = int(moment.timestamp() * 1000)
            at = {}
            for number, (offset, stamp) in self._offsets(topic, OffsetSpec.for_timestamp(asked)).items():
                at[number] = latest[number] if offset < 0 else offset
                if offset >= 0 and stamp > asked + tolerance * 1000:
                    first = max(offset, begun.get(number, 0))
                    at[number] = self._first_message(topic, number, first, latest[number], asked)
            found.append(at)
        return {number: Bounds(kept[number], found[0][number], found[1][number]) for number in topic.partitions}

    def _first_message(self, topic: Topic, partition: int, first: int, end: int, asked: int) -> int:
        for some in self.messages(topic, partition, first, end, isolation="read_uncommitted"):
            for message in some:
                if message.timestamp()[1] >= asked:
                    return int(message.offset())
        return end

    def decided(self, topic: Topic) -> dict[int, int]:
        """Return per partition the offset before which every transaction has ended (the last stable offset)."""
        return self._latest(topic, IsolationLevel.READ_COMMITTED)

    def kept(self, topic: Topic) -> dict[int, int]:
        """Return per partition the first offset that is kept."""
        return {number: offset for number, (offset, _) in self._offsets(topic, OffsetSpec.earliest()).items()}

    def _latest(self, topic: Topic, isolation: IsolationLevel) -> dict[int, int]:
        found = self._offsets(topic, OffsetSpec.latest(), isolation)
        return {number: offset for number, (offset, _) in found.items()}

    def retention(self, topic: str) -> str:
        """Return a topic's settings of retention as they are, as words."""
        resource = ConfigResource(ResourceType.TOPIC, topic)
        try:
            found = self._admin.describe_configs([resource], request_timeout=self.timeout)[resource].result()
        except KafkaException as error:
            return f"which cannot be read: {error.args[0].str()}"
        return ", ".join(f"{name}={found[name].value}" for name in _RETENTION if name in found)

    def writers(self, topic: str, partition: int) -> str:
        """Return who has a transaction open in a partition, as words."""
        from kafka import KafkaAdminClient
        from kafka import TopicPartition as Partition

        milliseconds = int(self.timeout * 1000)
        try:  # librdkafka's admin client has no question for it
            admin = KafkaAdminClient(bootstrap_servers=self.bootstrap.split(","), request_timeout_ms=milliseconds)
            try:
                asked = Partition(topic, partition)
                listed = admin.describe_producers([asked])[asked].active_producers
                open_ones = {each.producer_id for each in listed if each.current_transaction_start_offset >= 0}
                every = [each for held in admin.list_transactions().values() for each in held]
                names = sorted(each.transactional_id for each in every if each.producer_id in open_ones)
            finally:
                admin.close()
        except Exception as error:  # only the words of an error that is raised anyway depend on it
            return f"an unknown producer ({error})"
        return ", ".join(f"transactional.id {name!r}" for name in names) or "an unknown producer"

    def lost(self, topic: str, gone: Lost) -> DataError:
        """Return the error of offsets that are needed and no longer kept."""
        partition, first, end, kept = gone
        return DataError(
            f"topic {topic!r} partition {partition}: the window needs offsets {first} to {end}, but only those from "
            f"{kept} on are kept: {min(kept, end) - first} offsets are lost. The topic has {self.retention(topic)}; "
            "raise retention.ms and retention.bytes (-1 keeps all) and send the lost messages again to a new topic"
        )

    def messages(
        self,
        topic: Topic,
        partition: int,
        first: int,
        end: int,
        isolation: Literal["read_committed", "read_uncommitted"] = "read_committed",
        clock: Callable[[], float] = time.monotonic,
    ) -> Iterator[list[Any]]:
        """Yield the committed messages of one offset range, in their order; empty lists where it waits.

        Control records, aborted messages and those that compaction took are offsets without a message.

        Raises:
            Unavailable: the read stands still for `timeout`.
            DataError: offsets of the range are no longer kept, or the topic is gone.
        """
        if first >= end:
            return
        with self._consumer(TopicPartition(topic.name, partition, first), isolation) as consumer:
            at, moved, some = first, clock(), 8
            taken: list[Any] = []
            while at < end:
                taken = consumer.consume(min(some, end - at), _NEXT if taken else _WAIT)
                some = _next(some, taken)
                inside, now_at = self._sorted_out(topic, partition, taken, at, end)
                if now_at > at:
                    at, moved = now_at, clock()
                elif clock() - moved > self.timeout:
                    raise self._away(f"stands still at {topic.name}/{partition}/{at}")
                yield inside

    def _sorted_out(self, topic: Topic, partition: int, taken: list[Any], at: int, end: int) -> tuple[list[Any], int]:
        """Return the messages of the range, and the offset up to which it is read."""
        if taken and not any(each.error() for each in taken) and taken[-1].offset() < end:
            return taken, taken[-1].offset() + 1
        inside = []
        for each in taken:
            error = each.error()
            if error is None:
                at = min(each.offset() + 1, end)
                if each.offset() < end:
                    inside.append(each)
            elif error.code() == KafkaError._PARTITION_EOF:
                at = max(at, min(each.offset(), end))
            else:
                self._failed(topic, partition, at, end, error)
        return inside, at

    def _failed(self, topic: Topic, partition: int, at: int, end: int, error: Any) -> None:
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            kept = self.kept(topic._replace(partitions=(partition,)))[partition]
            if kept > at:
                raise self.lost(topic.name, Lost(partition, at, end, kept))
            raise self._away(f"cannot fetch {topic.name}/{partition}/{at}: {error.str()}")
        if error.code() in (
            KafkaError.UNKNOWN_TOPIC_OR_PART,
            KafkaError._UNKNOWN_PARTITION,
            KafkaError.UNKNOWN_TOPIC_ID,
        ):
            raise DataError(
                f"Kafka at {self.bootstrap} no longer has topic {topic.name!r} (id {topic.id}), of which "
                f"{at} to {end} of partition {partition} were still to be read; create it, or mend the source's topic"
            )
        if error.fatal() or not (error.retriable() or error.code() in _AWAY):
            raise self._away(f"cannot read {topic.name}/{partition}/{at}: {error.str()}")
        log.warning("Kafka at %s: %s; the read goes on from offset %d", self.bootstrap, error.str(), at)

    @contextmanager
    def _consumer(self, start: TopicPartition, isolation: str) -> Iterator[Consumer]:
        settings = {**self._client, **_CONSUMER, "isolation.level": isolation}
        consumer = Consumer(settings, logger=log)
        try:
            consumer.assign([start])
            yield consumer
        except KafkaException as error:
            raise self._away(error) from error
        finally:
            consumer.close()

    def _offsets(
        self, topic: Topic, asked: OffsetSpec, isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED
    ) -> dict[int, tuple[int, int]]:
        wanted = {TopicPartition(topic.name, number): asked for number in topic.partitions}
        try:
            found = self._admin.list_offsets(wanted, isolation_level=isolation, request_timeout=self.timeout)
            results = {each.partition: future.result() for each, future in found.items()}
            return {number: (each.offset, each.timestamp) for number, each in results.items()}
        except KafkaException as error:
            raise self._away(error) from error

    @cached_property
    def _admin(self) -> AdminClient:
        return AdminClient(self._client, logger=log)

    @property
    def _client(self) -> dict[str, Any]:
        return {**_CLIENT, **self.secure, "bootstrap.servers": self.bootstrap}

    def _probe(self) -> None:
        if "," not in self.bootstrap:
            host, _, port = self.bootstrap.rpartition(":")
            probe("Kafka", host, int(port), min(self.timeout, 5.0))

    def _away(self, why: object) -> Unavailable:
        said = why.args[0].str() if isinstance(why, KafkaException) else why
        return away("Kafka", self.bootstrap, self.timeout, said)


def _next(some: int, taken: list[Any]) -> int:
    """Return how many messages to take next: as many as are few bytes, and not many more than before."""
    size = sum(map(len, taken))
    fitting = _BYTES * len(taken) // size if size else some
    return max(1, min(4 * some, fitting, _MESSAGES))
