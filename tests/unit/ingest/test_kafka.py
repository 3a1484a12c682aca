"""Kafka: what a message becomes, and how a window is frozen to offsets and read by position."""

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from kafka.errors import OffsetOutOfRangeError
from kafka.structs import OffsetAndTimestamp

from tidegate.contract import Column, Contract
from tidegate.delivery import KafkaSource
from tidegate.errors import DataError, Unavailable
from tidegate.handoff import Slice, Window
from tidegate.ingest import kafka
from tidegate.lake import Lake
from tidegate.units import utc

RULES = Contract(
    "weather",
    "1",
    (
        Column("origin", "string", "string"),
        Column("temp", "float64", "float64"),
        Column("count", "int32", "int32"),
        Column("ok", "bool", "bool"),
    ),
    "weather.yaml",
    "0" * 64,
)
WINDOW = Window(start=utc("2013-01-01"), end=utc("2013-02-01"))
START, END = (int(moment.timestamp() * 1000) for moment in (WINDOW.start, WINDOW.end))
Message = namedtuple("Message", "topic partition offset timestamp value")


class FakeConsumer:
    """A topic in memory: per partition a list of (timestamp, value), or None where a record is no message."""

    def __init__(
        self, log: dict[int, list[tuple[int, bytes] | None]], begins: int = 0, kept_from: int = 0, deaf: bool = False
    ):
        self.log, self.begins, self.kept_from, self.deaf = log, begins, kept_from, deaf
        self.at: dict[Any, int] = {}
        self.closed = False

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return set(self.log) if topic == "weather" else None

    def assign(self, partitions: list[Any]) -> None:
        self.assigned = partitions

    def end_offsets(self, partitions: list[Any], timeout_ms: int) -> dict[Any, int]:
        return {tp: len(self.log[tp.partition]) for tp in partitions}

    def beginning_offsets(self, partitions: list[Any], timeout_ms: int) -> dict[Any, int]:
        return dict.fromkeys(partitions, self.kept_from if self.at else self.begins)

    def offsets_for_times(self, asked: dict[Any, int], timeout_ms: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for tp, moment in asked.items():
            records = list(enumerate(self.log[tp.partition]))[self.begins :]
            first = next(((o, r[0]) for o, r in records if r is not None and r[0] >= moment), None)
            found[tp] = OffsetAndTimestamp(*first, None) if first else None
        return found

    def seek(self, tp: Any, offset: int) -> None:
        self.at[tp] = offset

    def poll(self, timeout_ms: int, max_records: int) -> dict[Any, list[Message]]:
        (tp,) = self.assigned
        if self.at[tp] < self.kept_from:
            raise OffsetOutOfRangeError(str(tp))
        if self.deaf:
            return {}
        at = self.at[tp]
        records = self.log[tp.partition][at : at + 2]
        self.at[tp] = at + len(records)
        found = [Message(tp.topic, tp.partition, at + n, *r) for n, r in enumerate(records) if r is not None]
        return {tp: found} if found else {}

    def position(self, tp: Any, timeout_ms: int) -> int:
        return self.at[tp]

    def close(self, autocommit: bool) -> None:
        assert not autocommit
        self.closed = True


def message(moment: int, temp: float) -> tuple[int, bytes]:
    return moment, json.dumps({"origin": "JFK", "temp": temp}).encode()


def read(tmp_path: Path, consumer: FakeConsumer, monkeypatch: pytest.MonkeyPatch, topic: str = "weather") -> Slice:
    monkeypatch.setattr(kafka, "_consumer", lambda bootstrap, timeout: consumer)
    ticks = iter(range(0, 1000, 6))
    return kafka.read(
        delivery="flights",
        source="weather",
        spec=KafkaSource(connection="events", topic=topic),
        contract=RULES,
        window=WINDOW,
        bootstrap="127.0.0.1:9",
        lake=Lake(f"file://{tmp_path}"),
        clock=lambda: float(next(ticks)),
    )


def test_a_window_is_frozen_to_offsets_per_partition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = {
        0: [message(START - 1, 0), message(START, 1), message(END - 1, 2), message(END, 3)],
        1: [message(START, 4), message(START, 5)],
    }
    found = read(tmp_path, FakeConsumer(log), monkeypatch)

    assert found.rows == 4
    assert found.position == {"kind": "kafka", "topic": "weather", "partitions": {"0": [1, 3], "1": [0, 2]}}


def test_the_position_ends_the_read_where_the_last_records_are_no_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = read(tmp_path, FakeConsumer({0: [message(START, 1), None, None]}), monkeypatch)

    assert found.rows == 1


def test_a_window_after_the_end_of_the_topic_is_an_empty_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(tmp_path, FakeConsumer({0: [message(START - 5, 1)]}), monkeypatch)

    assert found.rows == 0
    assert found.position["partitions"] == {"0": [1, 1]}


def test_a_range_lost_while_it_is_read_names_topic_partition_range_and_retention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = {0: [message(START, n) for n in range(5)]}
    with pytest.raises(
        DataError, match=r"'weather' partition 0: the window needs offsets 0 to 5.* from 3 on .*retention\.ms"
    ):
        read(tmp_path, FakeConsumer(log, kept_from=3), monkeypatch)
    assert Lake(f"file://{tmp_path}").keys("slices") == []


def test_a_window_whose_first_messages_may_be_gone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = {0: [message(START, n) for n in range(5)]}
    with pytest.raises(DataError, match=r"'weather' partition 0: .*only those from 2 on are kept.*retention\.ms"):
        read(tmp_path, FakeConsumer(log, begins=2), monkeypatch)


def test_a_window_after_the_lost_range_can_still_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = {0: [message(START - 9, 0), message(START - 8, 1), message(START - 7, 2), message(START, 3)]}
    assert read(tmp_path, FakeConsumer(log, begins=2), monkeypatch).rows == 1


def test_a_missing_topic_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = FakeConsumer({0: []})
    with pytest.raises(DataError, match=r"127\.0\.0\.1:9 has no topic 'wether'; create it"):
        read(tmp_path, consumer, monkeypatch, topic="wether")
    assert consumer.closed


def test_a_read_that_stands_still_ends_at_its_time_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9 .*stands still at weather/0/0 \(time-out 20 s\)"):
        read(tmp_path, FakeConsumer({0: [message(START, 1)]}, deaf=True), monkeypatch)
