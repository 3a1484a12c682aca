"""A topic's windows against a real broker: nothing is lost, nothing twice, and every fault has a name."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastavro
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic, ResourceType

from tidegate.contract import Column, Contract
from tidegate.delivery import KafkaSource
from tidegate.errors import DataError, Unavailable
from tidegate.handoff import Slice, Window
from tidegate.ingest import kafka, kafka_broker
from tidegate.ingest.kafka_registry import Registry
from tidegate.ingest.slices import Target, publish
from tidegate.lake import Lake
from tidegate.stack.config import ROOT
from tidegate.units import utc
from tidegate.validate import validate

pytestmark = pytest.mark.stack

DAYS = [Window(start=utc(f"2026-01-0{n}"), end=utc(f"2026-01-0{n + 1}")) for n in range(1, 6)]
RULES = Contract(
    "events",
    "1",
    (
        Column("n", "int64", "int64", required=True, key=1),
        Column("at", "timestamp", "timestamp", event_time=True, lateness=6 * 3600.0),
    ),
    "events.yaml",
    "0" * 64,
)
PLAIN = replace(RULES, columns=RULES.columns[:1])
MIB = 1 << 20


def stamp(moment: str) -> int:
    return int(utc(moment).timestamp() * 1000)


class Topic:
    """A topic of its own, its writer and our reader."""

    def __init__(self, broker: Any, lake: Lake):
        self.broker, self.lake, self.address = broker, lake, broker.address
        self.name = f"events-{uuid.uuid4().hex[:8]}"
        self.admin = AdminClient({"bootstrap.servers": self.address})
        self.make()
        self.producer = self.writer()

    def writer(self) -> Producer:
        return Producer({"bootstrap.servers": self.address, "message.max.bytes": 120 * MIB, "linger.ms": 5})

    def make(self, **config: str) -> None:
        made = NewTopic(self.name, 1, 1, config={"retention.ms": "-1", **config})
        self.admin.create_topics([made])[self.name].result()

    def remake(self) -> None:
        self.admin.delete_topics([self.name])[self.name].result()
        while self.name in self.admin.list_topics(timeout=10).topics:
            pass
        self.make()

    def send(self, moment: str, value: bytes | None, partition: int = 0, **other: Any) -> None:
        failed: list[Any] = []
        self.producer.produce(
            self.name, value, partition=partition, timestamp=stamp(moment), **other,
            on_delivery=lambda error, _: failed.append(error) if error else None,
        )  # fmt: skip
        assert self.producer.flush(30) == 0
        assert not failed

    def number(self, moment: str, n: int, partition: int = 0) -> None:
        self.send(moment, json.dumps({"n": n, "at": f"{moment}:00Z"}).encode(), partition)

    def read(
        self,
        window: Window,
        contract: Contract = RULES,
        refresh: bool = False,
        client: Any = None,
        timeout: float = 20.0,
        **spec: Any,
    ) -> Slice:
        target = Target("d", "s", contract, window, self.lake)
        reading = kafka.reading(
            spec=KafkaSource(connection="c", topic=self.name, **spec), bootstrap=self.address, registry=client,
            timeout=timeout, **vars(target),
        )  # fmt: skip
        return publish(target, reading, refresh=refresh)

    def table(self, found: Slice) -> Any:
        return pq.read_table(self.lake.local(found.key, "raw.parquet"))

    def numbers(self, found: Slice) -> list[int]:
        return [int(n) for n in self.table(found).column("n").to_pylist()]

    def delete_before(self, offset: int) -> None:
        for future in self.admin.delete_records([TopicPartition(self.name, 0, offset)]).values():
            future.result()

    def configure(self, **config: str) -> None:
        resource = ConfigResource(ResourceType.TOPIC, self.name, set_config=config)
        self.admin.alter_configs([resource])[resource].result()


@pytest.fixture
def topic(kafka_alone: Any, tmp_path: Path) -> Iterator[Topic]:
    found = Topic(kafka_alone, Lake(f"file://{tmp_path}/lake"))
    yield found
    found.admin.delete_topics([found.name])[found.name].exception()


def test_a_late_message_is_in_the_next_slice_marked_and_clean_within_its_lateness(topic: Topic) -> None:
    topic.number("2026-01-01T10:00", 1)
    first = topic.read(DAYS[0])
    topic.number("2026-01-01T23:00", 2)  # late, within the contract's six hours
    topic.number("2026-01-01T09:00", 3)  # later than that
    topic.number("2026-01-02T10:00", 4)
    second = topic.read(DAYS[1])

    assert topic.numbers(first) == [1]
    assert topic.numbers(second) == [2, 3, 4]
    assert topic.table(second).column("_late").to_pylist() == [True, True, False]
    assert topic.lake.require(second.key)["late"] == 2
    found = validate(second, RULES, topic.lake)
    assert (found.clean, found.reasons) == (2, {"at:outside_window": 1})


def test_windows_read_in_any_order_and_again_have_each_message_once(topic: Topic) -> None:
    for n, day in enumerate((1, 2, 1, 3, 2, 4)):
        topic.number(f"2026-01-0{day}T10:00", n)
    for window in (DAYS[2], DAYS[0]):
        topic.read(window)
    topic.number("2026-01-02T11:00", 6)
    slices = {window: topic.read(window) for window in (DAYS[3], DAYS[1], DAYS[2], DAYS[0])}
    held = [topic.numbers(slices[window]) for window in DAYS[:4]]

    assert held == [[0], [1, 2], [3, 4], [5, 6]]
    assert topic.read(DAYS[1], refresh=True) == slices[DAYS[1]]
    assert topic.lake.require(slices[DAYS[2]].key)["late"] == 1


def test_a_partition_added_later_is_read_from_its_beginning(topic: Topic) -> None:
    topic.number("2026-01-01T10:00", 1)
    topic.read(DAYS[0])
    topic.admin.create_partitions([NewPartitions(topic.name, 2)])[topic.name].result()
    topic.producer = topic.writer()  # the old one learns of it in minutes
    topic.number("2026-01-01T11:00", 2, partition=1)
    topic.number("2026-01-02T11:00", 3, partition=1)

    assert topic.numbers(topic.read(DAYS[1])) == [2, 3]


def test_a_topic_made_anew_is_an_error_until_it_is_allowed(topic: Topic) -> None:
    topic.number("2026-01-01T10:00", 1)
    topic.read(DAYS[0])
    topic.remake()
    topic.number("2026-01-02T10:00", 2)

    with pytest.raises(DataError, match=r"was made anew.*what the old one held.*write topic_id: \S+ at the source"):
        topic.read(DAYS[1])
    now = topic.admin.describe_topics(TopicCollection([topic.name]))[topic.name].result().topic_id
    assert topic.numbers(topic.read(DAYS[1], topic_id=str(now))) == [2]


def test_a_window_that_is_not_over_is_not_read(topic: Topic) -> None:
    ahead = Window(start=utc("2999-01-01"), end=utc("2999-01-02"))
    with pytest.raises(Unavailable, match=r"ends in \d+ s, and is read 600 s later"):
        topic.read(ahead)


def test_only_committed_messages_are_read_and_their_markers_end_no_window(topic: Topic) -> None:
    writer = Producer({"bootstrap.servers": topic.address, "transactional.id": topic.name})
    writer.init_transactions(20)
    for n, commits in ((1, True), (2, False), (3, True), (4, False), (5, True), (6, True)):
        writer.begin_transaction()
        moment = stamp("2026-01-01T10:00" if n < 5 else "2026-01-02T10:00")
        writer.produce(topic.name, json.dumps({"n": n}).encode(), timestamp=moment)
        writer.flush()
        writer.commit_transaction(20) if commits else writer.abort_transaction(20)
    found = [topic.read(window, PLAIN) for window in DAYS[:3]]

    assert [topic.numbers(each) for each in found] == [[1, 3], [5, 6], []]
    assert [each.position["partitions"]["0"] for each in found] == [[0, 8], [8, 12], [12, 12]]


def test_a_window_waits_for_an_open_transaction_and_names_its_producer(topic: Topic) -> None:
    writer = Producer({"bootstrap.servers": topic.address, "transactional.id": f"slow-{topic.name}"})
    writer.init_transactions(20)
    writer.begin_transaction()
    writer.produce(topic.name, b'{"n": 1}', timestamp=stamp("2026-01-01T10:00"))
    writer.flush()
    topic.send("2026-01-01T11:00", b'{"n": 2}')
    topic.send("2026-01-02T11:00", b'{"n": 3}')
    with pytest.raises(Unavailable, match=rf"open since offset 0, and the window ends at 2;.*'slow-{topic.name}'"):
        topic.read(DAYS[0], PLAIN, patience=0)
    assert topic.lake.keys("offsets") == []

    waited = threading.Timer(0.5, lambda: writer.commit_transaction(20))
    waited.start()
    assert topic.numbers(topic.read(DAYS[0], PLAIN)) == [1, 2]
    waited.join()


def test_key_headers_times_and_tombstones_are_kept(topic: Topic) -> None:
    topic.send("2026-01-01T10:00", b'{"n": 1}', key=b"k\xff", headers=[("a", b"1"), ("a", None)])
    topic.send("2026-01-01T10:01", None, key=b"gone")
    found = topic.read(DAYS[0], PLAIN)
    one, two = topic.table(found).to_pylist()

    assert (one["_key"], one["_headers"]) == (b"k\xff", [{"name": "a", "value": b"1"}, {"name": "a", "value": None}])
    assert (one["_timestamp"], one["_timestamp_type"]) == (utc("2026-01-01T10:00"), "create")
    assert (two["_key"], two["_error"], two["_bytes"]) == (b"gone", "undecodable:tombstone", None)
    assert validate(found, PLAIN, topic.lake).reasons == {"undecodable:tombstone": 1}

    again = topic.read(DAYS[0], PLAIN, refresh=True, tombstones="skip")
    assert (again.rows, topic.lake.require(again.key)["skipped"]) == (1, 1)


def test_what_compaction_took_is_no_gap(topic: Topic) -> None:
    topic.configure(
        **{"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.0", "segment.ms": "100", "retention.ms": "-1"}
    )
    for n in range(20):
        topic.send("2026-01-01T10:00", b'{"n": %d}' % n, key=b"same")
    topic.send("2026-01-03T10:00", b'{"n": 99}', key=b"other")
    found = topic.read(DAYS[0], PLAIN)

    assert found.position["partitions"] == {"0": [0, 20]}
    assert topic.numbers(found)[-1] == 19


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"{\xff}", "not_utf8"),
        (b'{"n": 1, "n": 2}', "repeated_key"),
        (b'{"n": NaN}', "nan_or_infinity"),
        (b'{"x": -Infinity, "n": 1}', "nan_or_infinity"),
        (b'{"n": 9223372036854775808}', "n_is_no_int64"),
        (b'{"n": "1"}', "n_is_no_int64"),
    ],
)
def test_a_bad_message_goes_to_quarantine_alone(topic: Topic, value: bytes, reason: str) -> None:
    for n in range(30):
        topic.producer.produce(topic.name, b'{"n": %d}' % n, timestamp=stamp("2026-01-01T10:00"))
    topic.send("2026-01-01T10:00", value)
    found = validate(topic.read(DAYS[0], PLAIN), PLAIN, topic.lake)

    assert (found.clean, found.reasons) == (30, {f"undecodable:{reason}": 1})
    assert pq.read_table(topic.lake.local(found.key, "quarantine.parquet")).column("bytes").to_pylist() == [value]


def test_offsets_gone_before_the_read_name_range_and_retention(topic: Topic) -> None:
    for n in range(5):
        topic.number("2026-01-01T10:00", n)
    topic.delete_before(3)
    with pytest.raises(
        DataError, match=rf"'{topic.name}' partition 0: .*only those from 3 on are kept: 3 offsets.*retention\.ms=-1"
    ):
        topic.read(DAYS[0])
    assert topic.lake.keys("") == []


def test_retention_that_overtakes_the_reader_is_an_error_and_never_a_gap(
    topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 3000
    for n in range(count):
        topic.producer.produce(topic.name, json.dumps({"n": n, "x": "y" * 20_000}), timestamp=stamp("2026-01-01T10:00"))
    assert topic.producer.flush(60) == 0
    sorted_out = kafka_broker.Broker._sorted_out

    def overtaken(self: Any, *arguments: Any) -> Any:
        found = sorted_out(self, *arguments)
        topic.delete_before(count - 1)
        return found

    monkeypatch.setattr(kafka_broker.Broker, "_sorted_out", overtaken)
    monkeypatch.setitem(kafka_broker._CONSUMER, "queued.max.messages.kbytes", 1024)
    monkeypatch.setitem(kafka_broker._CONSUMER, "max.partition.fetch.bytes", MIB)
    monkeypatch.setitem(kafka_broker._CONSUMER, "fetch.max.bytes", MIB)
    with pytest.raises(DataError, match=rf"only those from {count - 1} on are kept: \d+ offsets are lost.*retention"):
        topic.read(DAYS[0], PLAIN)
    assert topic.lake.keys("slices") == []


def test_a_broker_killed_in_mid_read_is_read_on_as_if_nothing_had_been(
    topic: Topic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(3000):
        topic.producer.produce(topic.name, json.dumps({"n": n, "x": "y" * 20_000}), timestamp=stamp("2026-01-01T10:00"))
    assert topic.producer.flush(60) == 0
    undisturbed = topic.read(DAYS[0], PLAIN)
    topic.lake = Lake(f"file://{tmp_path}/again")
    sorted_out, calls = kafka_broker.Broker._sorted_out, []

    def killing(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            topic.broker.kill()
            topic.broker.start()
        return sorted_out(self, *arguments)

    monkeypatch.setattr(kafka_broker.Broker, "_sorted_out", killing)
    monkeypatch.setitem(kafka_broker._CONSUMER, "queued.max.messages.kbytes", 1024)
    again = topic.read(DAYS[0], PLAIN, timeout=120)  # a busy machine takes its time to start a broker

    assert len(calls) > 2
    assert again == undisturbed


@pytest.mark.nightly
def test_a_broker_that_stays_away_in_mid_read_is_named_and_nothing_is_published(
    topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(3000):
        topic.producer.produce(topic.name, json.dumps({"n": n, "x": "y" * 20_000}), timestamp=stamp("2026-01-01T10:00"))
    assert topic.producer.flush(60) == 0
    sorted_out, calls = kafka_broker.Broker._sorted_out, []

    def killing(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            topic.broker.kill()
        return sorted_out(self, *arguments)

    monkeypatch.setattr(kafka_broker.Broker, "_sorted_out", killing)
    monkeypatch.setitem(kafka_broker._CONSUMER, "queued.max.messages.kbytes", 1024)
    try:
        with pytest.raises(
            Unavailable, match=rf"{topic.address} .*stands still at {topic.name}/0/\d+ \(time-out 3 s\)"
        ):
            topic.read(DAYS[0], PLAIN, timeout=3)
    finally:
        topic.broker.start()
    assert topic.lake.keys("slices") == []


def test_no_group_is_left_behind(topic: Topic) -> None:
    topic.number("2026-01-01T10:00", 1)
    topic.read(DAYS[0])
    assert [group.group_id for group in topic.admin.list_consumer_groups().result().valid] == []


READ = """
import sys
from tests.peak import peak_mib
from tests.stack.test_kafka import DAYS, PLAIN
from tidegate.delivery import KafkaSource
from tidegate.ingest import kafka
from tidegate.ingest.slices import Target, publish
from tidegate.lake import Lake
from tidegate.stack.config import ROOT
address, topic, lake = sys.argv[1:]
target = Target("d", "s", PLAIN, DAYS[0], Lake(lake))
spec = KafkaSource(connection="c", topic=topic)
found = publish(target, kafka.reading(spec=spec, bootstrap=address, **vars(target)))
print(found.rows, peak_mib())
"""


def read_apart(topic: Topic) -> tuple[int, int]:
    """Read the first day in a process of its own; return its rows and its peak memory, MiB."""
    done = subprocess.run(
        [sys.executable, "-c", READ, topic.address, topic.name, topic.lake.url],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows, peak = done.stdout.split()
    return int(rows), int(peak)


def test_a_window_of_large_and_many_messages_is_read_in_bounded_memory(topic: Topic) -> None:
    topic.configure(**{"retention.ms": "-1", "max.message.bytes": str(20 * MIB)})
    for n in range(200):
        topic.producer.produce(
            topic.name, b'{"n": %d, "x": "%s"}' % (n, b"y" * MIB), timestamp=stamp("2026-01-01T10:00")
        )
        topic.producer.flush(30)
    for n in range(100_000):
        topic.producer.produce(topic.name, b'{"n": %d}' % n, timestamp=stamp("2026-01-01T11:00"))
        if n % 10_000 == 0:
            topic.producer.flush(30)
    assert topic.producer.flush(60) == 0
    rows, peak = read_apart(topic)
    print(f"200 MiB in 100,200 messages: {peak} MiB at most")

    assert rows == 100_200
    assert peak < 512


@pytest.mark.nightly
def test_values_of_100_mb_are_put_aside_by_their_start_in_bounded_memory(topic: Topic) -> None:
    topic.configure(**{"retention.ms": "-1", "max.message.bytes": str(120 * MIB)})
    value = b'{"n": 1, "x": "' + b"y" * 100_000_000 + b'"}'
    for n in range(3):
        topic.number("2026-01-01T10:00", n)
        topic.send("2026-01-01T10:00", value)
    rows, peak = read_apart(topic)
    found = topic.read(DAYS[0], PLAIN)
    print(f"3 values of 100 MB: {peak} MiB at most")

    assert rows == 6
    assert topic.table(found).column("_error").to_pylist() == [None, "undecodable:longer_than_16_MiB"] * 3
    assert peak < 512


@pytest.mark.nightly
def test_avro_by_a_real_registry_is_read_by_each_writers_schema_and_replayed_without_it(
    topic: Topic, registry_alone: Any
) -> None:
    fields = [
        {"name": "n", "type": "long"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ]
    old = {"type": "record", "name": "event", "fields": fields}
    new = {**old, "fields": [{"name": "more", "type": ["null", "string"], "default": None}, *fields]}
    text = {"type": "record", "name": "event", "fields": [{"name": "n", "type": "string"}]}

    def send(schema: dict[str, Any], record: dict[str, Any], number: int | None = None) -> None:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, fastavro.parse_schema(schema), record)
        known = registry_alone.register(f"{topic.name}-{len(json.dumps(schema))}", schema) if number is None else number
        topic.send("2026-01-01T10:00", b"\0" + known.to_bytes(4, "big") + out.getvalue())

    at = utc("2026-01-01T10:00")
    send(old, {"n": 1, "at": at})
    send(new, {"n": 2, "at": at, "more": "x"})
    send(text, {"n": "3"})
    send(old, {"n": 4, "at": at}, number=99_999)
    topic.send("2026-01-01T10:00", b"{}")
    registry = Registry(registry_alone.url)
    found = topic.read(DAYS[0], format="avro", registry="schemas", client=registry)
    outcome = validate(found, RULES, topic.lake)

    assert topic.table(found).column("n").to_pylist() == [1, 2, None, None, None]
    assert (outcome.clean, outcome.reasons) == (
        2,
        {
            "undecodable:n_is_no_int64": 1,
            "undecodable:not_in_wire_format": 1,
            "undecodable:schema_99999_is_unknown": 1,
        },
    )
    registry_alone.kill()
    castable = Column("n", "string", "int64", required=True, key=1, lexical_form=r"\d+")
    later = replace(RULES, version="2", digest="1" * 64, columns=(castable, RULES.columns[1]))
    replayed = validate(found, later, topic.lake)
    assert (replayed.clean, replayed.reasons["undecodable:n_is_no_string"]) == (1, 2)
    with pytest.raises(Unavailable, match=r"schema registry at .* did not answer"):
        topic.read(DAYS[0], refresh=True, format="avro", registry="schemas", client=Registry(registry_alone.url))
