"""Reads one window of a Kafka topic: the window is frozen to an offset range per partition, then read by position.

Message timestamps freeze the window (`offsets_for_times`), so consecutive windows tile the log: every message belongs
to exactly one slice, and reading a window again gives the same messages. Nothing is committed to a group.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tidegate.contract.arrow import slice_schema
from tidegate.contract.decode import decode_json
from tidegate.errors import DataError
from tidegate.ingest.edge import away, probe
from tidegate.ingest.slices import AtOnce, publish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tidegate.contract import Contract
    from tidegate.delivery import KafkaSource
    from tidegate.handoff import Slice, Window
    from tidegate.ingest.slices import Reading
    from tidegate.lake import Lake

TIMEOUT = 20.0
_BATCH = 10_000


def read(
    *,
    delivery: str,
    source: str,
    spec: KafkaSource,
    contract: Contract,
    window: Window,
    bootstrap: str,
    lake: Lake,
    refresh: bool = False,
    timeout: float = TIMEOUT,
    clock: Callable[[], float] = time.monotonic,
) -> Slice:
    """Publish the topic's messages whose offsets lie in the window, by partition and offset.

    The source's position is {partition: [first offset, end offset)}; a row's is `topic/partition/offset`. What is no
    JSON object of the contract's types is kept as bytes with the reason, for quarantine. `timeout` is how long the
    brokers may be silent, seconds.

    Raises:
        Unavailable: no broker answers, or the read stands still for `timeout`.
        DataError: no such topic, or offsets of the window are no longer kept.
    """
    asked = reading(
        delivery=delivery,
        source=source,
        spec=spec,
        contract=contract,
        window=window,
        bootstrap=bootstrap,
        lake=lake,
        timeout=timeout,
        clock=clock,
    )
    return publish(
        delivery=delivery, source=source, contract=contract, window=window, lake=lake, refresh=refresh, reading=asked
    )


def reading(
    *,
    delivery: str,
    source: str,
    spec: KafkaSource,
    contract: Contract,
    window: Window,
    bootstrap: str,
    lake: Lake,
    timeout: float = TIMEOUT,
    clock: Callable[[], float] = time.monotonic,
) -> Reading:
    """Return how the window is read; see `read`."""

    def rows(position: dict[str, Any]) -> Iterator[Any]:
        consumer = _consumer(bootstrap, timeout)
        try:
            ranges = _ranges(consumer, spec.topic, window, bootstrap, timeout)
            offsets = {str(tp.partition): [first, end] for tp, (first, end) in ranges.items()}
            position.update(kind="kafka", topic=spec.topic, partitions=offsets)
            for partition, (first, end) in ranges.items():
                messages = _messages(consumer, partition, first, end, bootstrap, timeout, clock)
                for batch in messages:
                    yield pa.Table.from_pylist(
                        [decode_json(m.value, f"{m.topic}/{m.partition}/{m.offset}", contract) for m in batch],
                        schema=slice_schema(contract),
                    )
        finally:
            consumer.close(autocommit=False)

    return AtOnce(rows)


def _consumer(bootstrap: str, timeout: float) -> Any:
    from kafka import KafkaConsumer
    from kafka.errors import KafkaError

    host, _, port = bootstrap.split(",")[0].rpartition(":")
    if "," not in bootstrap:
        probe("Kafka", host, int(port), min(timeout, 5.0))
    milliseconds = int(timeout * 1000)
    try:
        return KafkaConsumer(
            bootstrap_servers=bootstrap.split(","),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",  # a lost range is an error, never a silent jump
            isolation_level="read_committed",
            allow_auto_create_topics=False,
            request_timeout_ms=milliseconds,
            bootstrap_timeout_ms=milliseconds,
            max_poll_records=_BATCH,
            max_partition_fetch_bytes=4 << 20,
        )
    except (KafkaError, OSError) as error:
        raise away("Kafka", bootstrap, timeout, error) from error


def _ranges(consumer: Any, topic: str, window: Window, bootstrap: str, timeout: float) -> dict[Any, tuple[int, int]]:
    from kafka import TopicPartition
    from kafka.errors import KafkaError

    milliseconds = int(timeout * 1000)
    try:
        numbers = consumer.partitions_for_topic(topic)
        if not numbers:
            raise DataError(f"Kafka at {bootstrap} has no topic {topic!r}; create it, or mend the source's topic")
        partitions = [TopicPartition(topic, number) for number in sorted(numbers)]
        consumer.assign(partitions)
        begins = consumer.beginning_offsets(partitions, timeout_ms=milliseconds)
        ends = consumer.end_offsets(partitions, timeout_ms=milliseconds)
        bounds = []
        for moment in (window.start, window.end):
            asked = dict.fromkeys(partitions, int(moment.timestamp() * 1000))
            found = consumer.offsets_for_times(asked, timeout_ms=milliseconds)
            bounds.append({tp: ends[tp] if found.get(tp) is None else found[tp].offset for tp in partitions})
    except KafkaError as error:
        raise away("Kafka", bootstrap, timeout, error) from error
    first, end = bounds
    for tp in partitions:
        # the first message kept is already of the window, or after it: what came before it may have been of it too
        if first[tp] == begins[tp] > 0:
            raise _lost(tp, 0, end[tp], begins[tp])
    return {tp: (first[tp], max(first[tp], end[tp])) for tp in partitions}


def _messages(
    consumer: Any, partition: Any, first: int, end: int, bootstrap: str, timeout: float, clock: Callable[[], float]
) -> Iterator[list[Any]]:
    """Yield the messages of one offset range; the position, not a last message, ends it (compaction, markers)."""
    from kafka.errors import KafkaError, OffsetOutOfRangeError

    consumer.assign([partition])
    consumer.seek(partition, first)
    moved, at = clock(), first
    try:
        while at < end:
            records = consumer.poll(timeout_ms=500, max_records=_BATCH).get(partition, [])
            inside = [record for record in records if record.offset < end]
            if inside:
                yield inside
            now_at = consumer.position(partition, timeout_ms=int(timeout * 1000))
            if now_at > at:
                moved, at = clock(), now_at
            elif clock() - moved > timeout:
                raise away("Kafka", bootstrap, timeout, f"stands still at {partition.topic}/{partition.partition}/{at}")
    except OffsetOutOfRangeError as error:
        kept = consumer.beginning_offsets([partition], timeout_ms=int(timeout * 1000))[partition]
        raise _lost(partition, first, end, kept) from error
    except KafkaError as error:
        raise away("Kafka", bootstrap, timeout, error) from error


def _lost(partition: Any, first: int, end: int, kept: int) -> DataError:
    return DataError(
        f"topic {partition.topic!r} partition {partition.partition}: the window needs offsets {first} to {end}, but "
        f"only those from {kept} on are kept; raise the topic's retention.ms and retention.bytes (-1 keeps all) and "
        "send the lost messages again to a new topic"
    )
