"""Kafka: what is frozen and kept, what is waited for, and what messages become beside their values."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tidegate.contract import Column, Contract
from tidegate.delivery import KafkaSource
from tidegate.errors import DataError, Unavailable
from tidegate.handoff import Window
from tidegate.ingest import kafka_decode, kafka_rows
from tidegate.ingest.kafka import KafkaReading, Offsets
from tidegate.ingest.kafka_broker import Topic
from tidegate.ingest.kafka_ranges import Bounds, Lost
from tidegate.lake import Lake
from tidegate.units import utc

RULES = Contract("w", "1", (Column("n", "int64", "int64"),), "w.yaml", "0" * 64)
JANUARY = Window(start=utc("2013-01-01"), end=utc("2013-02-01"))
FEBRUARY = Window(start=utc("2013-02-01"), end=utc("2013-03-01"))


@dataclass
class FakeBroker:
    """A topic of one partition whose windows have the bounds that it is given."""

    found: Bounds = field(default_factory=lambda: Bounds(0, 1, 5))
    id: str = "a"
    ends: list[int] = field(default_factory=lambda: [100])

    def topic(self, name: str) -> Topic:
        return Topic(name, self.id, (0,))

    def bounds(self, topic: Topic, start: datetime, end: datetime, begun: Mapping[int, int], _: float) -> Any:
        return {0: self.found}

    def decided(self, topic: Topic) -> dict[int, int]:
        return {0: self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]}

    def writers(self, topic: str, partition: int) -> str:
        return "somebody"

    def lost(self, topic: str, gone: Lost) -> DataError:
        return DataError(f"lost {gone.first} to {gone.kept}")


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self, now: float):
        self.now, self.slept = now, 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds


def reading(lake: Path, broker: Any, window: Window = JANUARY, clock: Clock | None = None, **spec: Any) -> KafkaReading:
    clock = clock or Clock(utc("2014-01-01").timestamp())
    source = KafkaSource(connection="c", topic=spec.pop("topic", "weather"), **spec)
    return KafkaReading(
        source, RULES, window, broker, Offsets(Lake(f"file://{lake}"), "d", "s"), None, clock, clock.sleep
    )


def test_what_was_frozen_stays_whatever_the_topic_says_later(tmp_path: Path) -> None:
    broker = FakeBroker()
    position = reading(tmp_path, broker).freeze()
    broker.found = Bounds(3, 3, 9)

    assert position == {
        "kind": "kafka", "topic": "weather", "topic_id": "a", "format": "json", "partitions": {"0": [1, 5]},
    }  # fmt: skip
    assert reading(tmp_path, broker).freeze() == position


def test_a_window_begins_where_the_one_before_ended(tmp_path: Path) -> None:
    broker = FakeBroker()
    reading(tmp_path, broker).freeze()
    broker.found = Bounds(0, 7, 9)

    assert reading(tmp_path, broker, FEBRUARY).freeze()["partitions"] == {"0": [5, 9]}
    other = reading(tmp_path, broker, FEBRUARY, topic="other")
    assert other.freeze()["partitions"] == {"0": [7, 9]}  # windows of another topic are no neighbours


def test_offsets_of_a_window_that_are_gone_are_an_error_and_freeze_nothing(tmp_path: Path) -> None:
    broker = FakeBroker()
    reading(tmp_path, broker).freeze()
    broker.found = Bounds(7, 7, 9)
    with pytest.raises(DataError, match="lost 5 to 7"):
        reading(tmp_path, broker, FEBRUARY).freeze()
    assert len(Offsets(Lake(f"file://{tmp_path}"), "d", "s").windows()) == 1


def test_a_topic_made_anew_is_refused_until_its_id_is_written(tmp_path: Path) -> None:
    anew = FakeBroker(id="b", found=Bounds(0, 0, 2))
    for number, window in enumerate((JANUARY, FEBRUARY)):
        lake = tmp_path / str(number)
        reading(lake, FakeBroker()).freeze()
        with pytest.raises(DataError, match=r"made anew.*id a, this one has id b.*write topic_id: b"):
            reading(lake, anew, window).freeze()
        assert reading(lake, anew, window, topic_id="b").freeze()["topic_id"] == "b"


def test_a_window_is_read_when_it_and_its_lateness_are_over(tmp_path: Path) -> None:
    clock = Clock(JANUARY.end.timestamp() + 100)
    reading(tmp_path, FakeBroker(), clock=clock).freeze()
    assert clock.slept == 500
    early = Clock(FEBRUARY.end.timestamp() - 60)
    with pytest.raises(Unavailable, match=r"2013-03-01 00:00\) UTC of topic 'weather' ends in 60 s, and is read 600 s"):
        reading(tmp_path, FakeBroker(), FEBRUARY, early).freeze()
    assert early.slept == 0


def test_an_open_transaction_is_waited_for_and_then_named(tmp_path: Path) -> None:
    clock = Clock(utc("2014-01-01").timestamp())
    reading(tmp_path, FakeBroker(ends=[3, 4, 5]), clock=clock).freeze()
    assert clock.slept == 2
    with pytest.raises(Unavailable, match=r"'weather' partition 0: a transaction is open since offset 3, .*somebody"):
        reading(tmp_path, FakeBroker(ends=[3], found=Bounds(0, 5, 9)), FEBRUARY, clock, patience=7).freeze()
    assert clock.slept == 9
    assert len(Offsets(Lake(f"file://{tmp_path}"), "d", "s").windows()) == 1


def test_large_windows_are_cut_by_offsets_and_small_ones_are_one_part(tmp_path: Path) -> None:
    cut = reading(tmp_path, FakeBroker())
    assert cut.parts({"partitions": {"0": [1, 5], "10": [0, 2], "2": [3, 3]}}) == [
        {"ranges": [{"partition": 0, "first": 1, "end": 5}, {"partition": 10, "first": 0, "end": 2}]}
    ]
    parts = cut.parts({"partitions": {"1": [5, 5 + (1 << 23) + 1], "0": [0, 1 << 23]}})
    assert [(part["partition"], part["first"], part["end"]) for part in parts] == [
        (0, 0, 1 << 23), (1, 5, 5 + (1 << 23)), (1, 5 + (1 << 23), 6 + (1 << 23)),
    ]  # fmt: skip


@dataclass(frozen=True)
class Message:
    """What the client gives of one message."""

    offset_: int
    value_: bytes | None = b'{"n": 1}'
    key_: bytes | None = None
    headers_: Any = None
    stamp: tuple[int, int] = (1, int(JANUARY.start.timestamp() * 1000))

    def offset(self) -> int:
        return self.offset_

    def value(self) -> bytes | None:
        return self.value_

    def __len__(self) -> int:
        return len(self.value_ or b"")

    def key(self) -> bytes | None:
        return self.key_

    def headers(self) -> Any:
        return self.headers_

    def timestamp(self) -> tuple[int, int]:
        return self.stamp


def table(messages: list[Message], **spec: Any) -> Any:
    batch = kafka_rows.Batch()
    batch.add(messages)
    decoder = kafka_decode.decoder(KafkaSource(connection="c", topic="w", **spec), RULES)
    return batch.table("w/0/", JANUARY.start, decoder)


def test_each_message_keeps_its_key_headers_and_times(tmp_path: Path) -> None:
    early = int(JANUARY.start.timestamp() * 1000) - 1
    one, two = table(
        [Message(7, key_=b"\xff", headers_=[("a", b"1"), ("a", None)]), Message(9, None, stamp=(2, early))]
    ).to_pylist()

    assert one == {
        "n": 1, "_position": "w/0/7", "_error": None, "_bytes": None, "_key": b"\xff",
        "_headers": [{"name": "a", "value": b"1"}, {"name": "a", "value": None}], "_timestamp": JANUARY.start,
        "_timestamp_type": "create", "_late": False,
    }  # fmt: skip
    assert (two["_position"], two["_error"], two["_timestamp_type"], two["_late"]) == (
        "w/0/9", "undecodable:tombstone", "append", True,
    )  # fmt: skip


def test_the_late_ones_are_counted_for_the_manifest_and_one_without_a_time_is_not_late() -> None:
    early = int(JANUARY.start.timestamp() * 1000) - 1
    found = table([Message(n, stamp=(1, early)) for n in range(3)] + [Message(3, stamp=(0, -1))])
    assert found.schema.metadata == {b"late": b"3", b"skipped": b"0"}
    assert found.to_pylist()[3]["_timestamp"] is None


def test_tombstones_that_are_no_rows_are_counted_also_where_nothing_else_came() -> None:
    messages = [Message(0, None), Message(1), Message(2, None)]
    (batch,) = kafka_rows.batches(iter([messages]), skip=True)
    decoder = kafka_decode.decoder(KafkaSource(connection="c", topic="w"), RULES)
    found = batch.table("w/0/", JANUARY.start, decoder)
    assert (found.column("_position").to_pylist(), found.schema.metadata[b"skipped"]) == (["w/0/1"], b"2")

    (none,) = kafka_rows.batches(iter([messages[:1]]), skip=True)
    found = none.table("w/0/", JANUARY.start, decoder)
    assert (found.num_rows, found.schema, found.schema.metadata[b"skipped"]) == (0, decoder.schema, b"1")
    assert list(kafka_rows.batches(iter([[]]))) == []


def test_a_value_that_is_too_long_is_kept_as_its_start_with_size_and_digest() -> None:
    value = b'{"n": 1, "x": "' + b"y" * (16 << 20) + b'"}'
    good, long = table([Message(0), Message(1, value)]).to_pylist()

    assert (good["n"], long["_error"]) == (1, "undecodable:longer_than_16_MiB")
    assert long["_bytes"].startswith(value[: 1 << 16])
    assert long["_bytes"].endswith(
        f"\n... {len(value)} bytes in all, SHA-256 {hashlib.sha256(value).hexdigest()}".encode()
    )


def test_batches_are_bounded_by_number_and_by_bytes() -> None:
    def messages(count: int, size: int) -> Iterator[list[Message]]:
        yield []
        for n in range(count):
            yield [Message(n, b"x" * size)]

    assert [len(each.values) for each in kafka_rows.batches(messages(25_000, 1))] == [10_000, 10_000, 5_000]
    assert [len(each.values) for each in kafka_rows.batches(messages(20, 1 << 20))] == [8, 8, 4]


def test_reading_ahead_keeps_the_order_and_hands_on_what_goes_wrong() -> None:
    def fails() -> Iterator[int]:
        yield from range(5)
        raise DataError("gone")

    found: list[int] = []
    with pytest.raises(DataError, match="gone"):
        found.extend(kafka_rows.ahead(fails()))
    assert found == list(range(5))


def test_a_reader_that_stops_early_closes_what_it_read() -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    reader = kafka_rows.ahead(endless())
    assert next(reader) == 1
    reader.close()
    assert closed.is_set()
    assert not any(thread.name == "tidegate-ahead" for thread in threading.enumerate())


@pytest.mark.parametrize(("key", "value"), [("format", "avro"), ("registry", "r")])
def test_avro_and_its_registry_go_together(key: str, value: str) -> None:
    with pytest.raises(ValueError, match="go together"):
        KafkaSource.model_validate({"connection": "c", "topic": "t", key: value})


def test_raw_bytes_are_the_one_column_of_their_contract() -> None:
    rules = replace(RULES, columns=(Column("body", "bytes", "bytes"),))
    batch = kafka_rows.Batch()
    batch.add([Message(0, b"\xff\x00"), Message(1, None)])
    decoder = kafka_decode.decoder(KafkaSource(connection="c", topic="w", format="bytes"), rules)
    found = batch.table("w/0/", JANUARY.start, decoder).to_pylist()

    assert [row["body"] for row in found] == [b"\xff\x00", None]
    assert [row["_error"] for row in found] == [None, "undecodable:tombstone"]
    with pytest.raises(DataError, match=r"format bytes.*one column.*physicalType bytea.*has n"):
        kafka_decode.decoder(KafkaSource(connection="c", topic="w", format="bytes"), RULES)
