"""Reads one window of a Kafka topic: the window is frozen to an offset range per partition, then read by position.

Each window begins where the one before it ended (`kafka_ranges`), so that every message is in exactly one slice; one
that came late is in the slice read next, and marked. What was frozen stays so, also for a refresh. The lake is the
record of progress: nothing is committed to a group.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tidegate.errors import DataError, Unavailable
from tidegate.ingest import kafka_decode, kafka_ranges, kafka_rows
from tidegate.ingest.kafka_broker import TIMEOUT, Broker, Topic
from tidegate.ingest.kafka_ranges import Frozen
from tidegate.keys import window_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tidegate.contract import Contract
    from tidegate.delivery import KafkaSource
    from tidegate.handoff import Window
    from tidegate.ingest.kafka_ranges import Ranges
    from tidegate.ingest.kafka_registry import Registry
    from tidegate.lake import Lake

_PART = 1 << 23  # offsets of a part: at least some ten seconds of reading


def reading(
    *,
    delivery: str,
    source: str,
    spec: KafkaSource,
    contract: Contract,
    window: Window,
    bootstrap: str,
    lake: Lake,
    secure: Mapping[str, Any] = MappingProxyType({}),
    registry: Registry | None = None,
    timeout: float = TIMEOUT,
) -> KafkaReading:
    """Return how the topic's messages are read whose offsets lie in the window, by partition and offset.

    The source's position is {partition: [first offset, end offset)}; a row's is `topic/partition/offset`. What cannot
    be decoded to the contract's types is kept as bytes with the reason, for quarantine. `secure` are librdkafka's
    settings of a secured connection, `registry` has the schemas of Avro; `timeout` is how long the brokers may be
    silent, seconds. `lake` is where the frozen offsets of the source's windows are kept.

    Raises, when it is frozen or read:
        Unavailable: no broker or registry answers, the read stands still for `timeout`, the window is not over, or a
            transaction stays open in it for the source's `patience`.
        DataError: no such topic, another one of the same name, or offsets of the window are no longer kept.
    """
    held = Offsets(lake, delivery, source)
    return KafkaReading(spec, contract, window, Broker(bootstrap, timeout, secure), held, registry)


@dataclass(frozen=True)
class Offsets:
    """The frozen offsets of a source's windows, each published in the lake before the window is read."""

    lake: Lake
    delivery: str
    source: str

    def windows(self) -> list[Window]:
        """Return the windows that were frozen."""
        return [window_of(key) for key in self.lake.keys(f"offsets/{self.delivery}/{self.source}")]

    def of(self, window: Window) -> dict[str, Any] | None:
        """Return a window's position, or None where it was not frozen."""
        found = self.lake.manifest(self._key(window))
        return None if found is None else found["position"]

    def keep(self, window: Window, position: dict[str, Any]) -> None:
        """Keep a window's position for ever."""
        with self.lake.publish(self._key(window), position=position):
            pass

    def _key(self, window: Window) -> str:
        return f"offsets/{self.delivery}/{self.source}/{window.id}"


@dataclass(frozen=True)
class KafkaReading:
    """How a window of a topic is read; see `tidegate.ingest.slices.Reading`."""

    spec: KafkaSource
    contract: Contract
    window: Window
    broker: Broker
    held: Offsets
    registry: Registry | None = None
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep

    def freeze(self) -> dict[str, Any]:
        """Return the window's offsets per partition: those frozen before, or, once it is over, those of its time."""
        topic = self.broker.topic(self.spec.topic)
        known = self.held.of(self.window)
        if known is not None and self._is_of(known, topic):
            return {**known, "format": self.spec.format}
        self._over()
        before, after = self._neighbours(topic)
        begun = {number: end for number, (_, end) in before.ranges.items()} if before else {}
        bounds = self.broker.bounds(topic, self.window.start, self.window.end, begun, self.spec.lateness)
        ranges = kafka_ranges.ranges(self.window, bounds, before, after)
        gone = kafka_ranges.lost(ranges, bounds, before)
        if gone is not None:
            raise self.broker.lost(topic.name, gone)
        self._decided(topic, ranges)
        position = {
            "kind": "kafka",
            "topic": topic.name,
            "topic_id": topic.id,
            "partitions": {str(number): list(each) for number, each in ranges.items()},
        }
        self.held.keep(self.window, position)
        return {**position, "format": self.spec.format}

    def parts(self, position: dict[str, Any]) -> list[dict[str, Any]]:
        """Return runs of offsets of one partition each, by partition and offset."""
        cut = [
            {"partition": int(number), "first": at, "end": min(at + _PART, end)}
            for number, (first, end) in sorted(position["partitions"].items(), key=lambda item: int(item[0]))
            for at in range(first, end, _PART)
        ]
        whole = sum(part["end"] - part["first"] for part in cut)
        return cut if whole > _PART else [{"ranges": cut}]

    def rows(self, position: dict[str, Any], part: dict[str, Any]) -> Iterator[Any]:
        """Yield the messages of a part as tables of the raw slice."""
        topic = Topic(position["topic"], position["topic_id"], ())
        decoder = kafka_decode.decoder(self.spec, self.contract, self.registry)
        yield decoder.schema.empty_table()
        for each in part.get("ranges", [part]):
            partition = each["partition"]
            messages = self.broker.messages(topic, partition, each["first"], each["end"])
            for batch in kafka_rows.ahead(kafka_rows.batches(messages, skip=self.spec.tombstones == "skip")):
                yield batch.table(f"{topic.name}/{partition}/", self.window.start, decoder)

    def _over(self) -> None:
        """Wait until the window is over, and its lateness too."""
        left = self.window.end.timestamp() + self.spec.lateness - self.clock()
        if left > self.spec.lateness:
            raise Unavailable(
                f"window {self.window} of topic {self.spec.topic!r} ends in {left - self.spec.lateness:.0f} s, and is "
                f"read {self.spec.lateness:.0f} s later (the source's lateness); ask again then"
            )
        if left > 0:
            self.sleep(left)

    def _decided(self, topic: Topic, ranges: Ranges) -> None:
        """Wait until every transaction has ended that could still commit messages into the ranges."""
        until = self.clock() + self.spec.patience
        while True:
            decided = self.broker.decided(topic)
            late = [(number, end) for number, (_, end) in ranges.items() if decided[number] < end]
            if not late:
                return
            if self.clock() >= until:
                number, end = late[0]
                raise Unavailable(
                    f"topic {topic.name!r} partition {number}: a transaction is open since offset {decided[number]}, "
                    f"and the window ends at {end}; it was waited for for {self.spec.patience:.0f} s (the source's "
                    f"patience). It belongs to {self.broker.writers(topic.name, number)}: end that producer, or abort "
                    "it with kafka-transactions.sh"
                )
            self.sleep(1.0)

    def _neighbours(self, topic: Topic) -> tuple[Frozen | None, Frozen | None]:
        """Return the nearest windows before and after this one that were frozen of the same topic."""
        listed = self.held.windows()
        while True:
            nearest = [(each, self.held.of(each)) for each in kafka_ranges.neighbours(self.window, listed) if each]
            other = [each for each, position in nearest if position is None or not self._is_of(position, topic)]
            if not other:
                break
            listed = [each for each in listed if each not in other]
        frozen = [
            Frozen(each, {int(n): (first, end) for n, (first, end) in position["partitions"].items()})
            for each, position in nearest
            if position is not None
        ]
        return (
            next((each for each in frozen if each.window.end <= self.window.start), None),
            next((each for each in frozen if each.window.start >= self.window.end), None),
        )

    def _is_of(self, position: dict[str, Any], topic: Topic) -> bool:
        """Whether a position is of this topic; one of the same name that was made anew is refused until allowed."""
        if position["topic"] != topic.name:
            return False
        if position["topic_id"] == topic.id:
            return True
        if self.spec.topic_id == topic.id:
            return False
        raise DataError(
            f"topic {topic.name!r} was made anew: windows were read of the one with id {position['topic_id']}, this "
            f"one has id {topic.id}, and its offsets mean other messages; what the old one held beyond those windows "
            f"is gone. To begin with the new one, write topic_id: {topic.id} at the source"
        )
