"""The data rooms against the real stack: a slice from each source, poison in quarantine, the same bytes twice."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pyarrow.parquet as pq
import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from typer.testing import CliRunner

from examples.flights import load as loader
from tidegate.cli import app
from tidegate.contract import load_contract
from tidegate.contract.infer import contract_text
from tidegate.dataset import build
from tidegate.delivery import HdfsSource, KafkaSource, PostgresSource, delivery_named, project_root
from tidegate.errors import DataError, Unavailable
from tidegate.files.sample import from_messages
from tidegate.handoff import Slice, Window
from tidegate.ingest import hdfs, kafka, postgres, sampling
from tidegate.ingest.slices import Reading, Target, publish
from tidegate.keys import windows
from tidegate.lake import Lake
from tidegate.stack.config import StackConfig
from tidegate.units import utc
from tidegate.validate import validate

pytestmark = pytest.mark.stack

JANUARY = Window(start=utc("2013-01-01"), end=utc("2013-02-01"))
DAY = Window(start=utc("2013-01-02"), end=utc("2013-01-03"))
LONG_AGO = Window(start=utc("1999-01-01"), end=utc("1999-02-01"))


class Sources:
    """Reads each source of the example from the running stack."""

    def __init__(self, stack: StackConfig, topic: str):
        self.stack, self.topic = stack, topic
        self.where = loader.Sources(
            stack.postgres_dsn("flights"), stack.kafka, "127.0.0.1", stack.ports["hdfs-namenode"]
        )

    def read(self, name: str, window: Window, lake: Lake, **other: Any) -> Slice:
        target = Target("flights", name, other.get("contract") or load_contract(name), window, lake)
        return publish(target, self.reading(name, vars(target), **other))

    def reading(self, name: str, common: dict[str, Any], **other: Any) -> Reading:
        if name == "flights":
            spec = PostgresSource(connection="c", table=other.get("table", "flights"), time="time_hour")
            return postgres.reading(**common, spec=spec, dsn=self.where.postgres_dsn)
        if name == "weather":
            topic = KafkaSource(connection="c", topic=other.get("topic", self.topic))
            return kafka.reading(**common, spec=topic, bootstrap=self.where.kafka)
        path = HdfsSource(connection="c", path=other.get("path", f"/reference/{name}"))
        return hdfs.reading(**common, spec=path, host=self.where.hdfs_host, port=self.where.hdfs_port)


@pytest.fixture(scope="module")
def sources(stack: StackConfig) -> Sources:
    found = Sources(stack, f"weather-{uuid.uuid4().hex[:8]}")
    loader.load_flights(found.where.postgres_dsn, (1, 2, 3))
    loader.load_weather(found.where.kafka, (1, 2, 3), found.topic)
    loader.load_reference(found.where.hdfs_host, found.where.hdfs_port)
    return found


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(f"file://{tmp_path}/lake")


@pytest.mark.parametrize(
    ("name", "read", "reasons"),
    [
        ("flights", 26865, {"tailnum:pattern": 41}),
        ("weather", 2211, {}),
        ("planes", 3322, {}),
        ("airports", 1458, {"lat:maximum": 1, "tzone:pattern": 2}),
    ],
)
def test_each_source_gives_its_real_january(
    sources: Sources, lake: Lake, name: str, read: int, reasons: dict[str, int]
) -> None:
    raw = sources.read(name, JANUARY, lake)
    found = validate(raw, load_contract(name), lake)

    assert raw.rows == read == found.clean + found.quarantined
    assert found.reasons == reasons


def test_loading_again_adds_nothing(sources: Sources) -> None:
    where = sources.where
    assert loader.load_flights(where.postgres_dsn, (1,)) == 0
    assert loader.load_weather(where.kafka, (1, 2, 3), sources.topic) == 0
    assert loader.load_reference(where.hdfs_host, where.hdfs_port) == {"planes": 0, "airports": 0}


@pytest.mark.parametrize("name", ["flights", "weather", "planes", "airports"])
def test_the_same_window_read_twice_gives_the_same_bytes(sources: Sources, tmp_path: Path, name: str) -> None:
    lakes = [Lake(f"file://{tmp_path}/{number}") for number in (1, 2)]
    slices = [sources.read(name, DAY, lake) for lake in lakes]
    digests = [validate(raw, load_contract(name), lake).digest for raw, lake in zip(slices, lakes, strict=True)]

    assert slices[0].digest == slices[1].digest
    assert digests[0] == digests[1]


def test_the_dataset_of_three_months_is_built_twice_alike(sources: Sources, tmp_path: Path) -> None:
    delivery = delivery_named("flights")
    quarter = Window(start=utc("2013-01-01"), end=utc("2013-04-01"))
    built = []
    for number in (1, 2):
        lake = Lake(f"file://{tmp_path}/{number}")
        for window in windows(quarter, delivery.window):
            for name in delivery.sources:
                validate(sources.read(name, window, lake), load_contract(name), lake)
        built.append(build(delivery, quarter, lake, project_root() / delivery.folder))

    assert built[0] == built[1]
    assert (built[0].train_rows, built[0].test_rows) == (49788, 27923)


@pytest.mark.parametrize("name", ["flights", "weather"])
def test_an_empty_window_is_a_slice_with_zero_rows(sources: Sources, lake: Lake, name: str) -> None:
    found = validate(sources.read(name, LONG_AGO, lake), load_contract(name), lake)
    assert (found.slice.rows, found.clean, found.quarantined) == (0, 0, 0)


@pytest.fixture
def topic(stack: StackConfig) -> Iterator[str]:
    name = f"poison-{uuid.uuid4().hex[:8]}"
    loader.create_topics(stack.kafka, {name: 1})
    yield name
    with closing(KafkaAdminClient(bootstrap_servers=stack.kafka)) as admin:
        admin.delete_topics([name])


def send(stack: StackConfig, topic: str, values: list[bytes]) -> None:
    moment = int(DAY.start.timestamp() * 1000)
    with closing(KafkaProducer(bootstrap_servers=stack.kafka, acks="all")) as producer:
        futures = [producer.send(topic, value, timestamp_ms=moment + n) for n, value in enumerate(values)]
        producer.flush()
        for future in futures:
            future.get(timeout=10)


def test_a_poisoned_message_is_quarantined_and_the_others_pass(
    stack: StackConfig, sources: Sources, topic: str, lake: Lake
) -> None:
    real = [row for row in loader.weather((1,)) if row["time_hour"].startswith("2013-01-02")][:4]
    good = [json.dumps(row).encode() for row in real]
    bad_time = json.dumps({**real[0], "time_hour": "2013-01-02 06:00"}).encode()
    never_was = json.dumps({**real[0], "time_hour": "2013-02-30T06:00:00Z"}).encode()
    send(stack, topic, [good[0], bad_time, good[1], b'{"origin": "EWR", "tem', never_was, good[2], good[0], good[3]])
    raw = sources.read("weather", DAY, lake, topic=topic)
    found = validate(raw, load_contract("weather"), lake)

    assert (raw.rows, found.clean, found.quarantined) == (8, 4, 4)
    kept = pq.read_table(lake.local(found.key, "quarantine.parquet")).to_pylist()
    assert [(row["position"], row["reason"]) for row in kept] == [
        (f"{topic}/0/1", "time_hour:lexical_form"),
        (f"{topic}/0/3", "undecodable:not_json"),
        (f"{topic}/0/4", "time_hour:no_such_value"),
        (f"{topic}/0/6", "origin+time_hour:duplicate"),
    ]
    assert json.loads(kept[0]["row"])["time_hour"] == "2013-01-02 06:00"
    assert kept[1]["bytes"] == b'{"origin": "EWR", "tem'


def test_timestamps_sent_as_texts_where_a_number_was_expected_leave_quarantine_by_a_replay(
    stack: StackConfig, sources: Sources, topic: str, lake: Lake
) -> None:
    shipped = load_contract("weather")
    number: dict[str, Any] = {"raw": "int64", "lexical_form": None, "cast": "decimal", "event_time": False}
    columns = tuple(replace(c, **number) if c.name == "time_hour" else c for c in shipped.columns)
    before = replace(shipped, version="0.9.0", digest="0" * 64, columns=columns)
    real = [row for row in loader.weather((1,)) if row["time_hour"].startswith("2013-01-02")][:4]
    send(stack, topic, [json.dumps(row).encode() for row in real])
    found = validate(sources.read("weather", DAY, lake, topic=topic, contract=before), before, lake)
    assert found.reasons == {"undecodable:time_hour_is_no_int64": 4}

    replayed = CliRunner().invoke(app, ["quarantine", "replay", "flights", "weather", DAY.id, "--lake", lake.url])
    assert replayed.exit_code == 0, replayed.output
    assert f"by weather {shipped.version} (before: 0.9.0): 4 rows now clean, 0 still in quarantine" in replayed.stdout
    clean = pq.read_table(lake.local(found.key, "clean.parquet")).column("time_hour").to_pylist()
    assert clean == [int(utc(row["time_hour"]).timestamp()) for row in real]


def test_messages_that_the_topic_no_longer_keeps_are_an_error_not_a_gap(
    stack: StackConfig, sources: Sources, topic: str, lake: Lake
) -> None:
    send(stack, topic, [b"{}"] * 5)
    with closing(KafkaAdminClient(bootstrap_servers=stack.kafka)) as admin:
        admin.delete_records({TopicPartition(topic, 0): 3})
    with pytest.raises(DataError, match=rf"'{topic}' partition 0: .*only those from 3 on are kept.*retention\.ms"):
        sources.read("weather", DAY, lake, topic=topic)
    assert lake.keys("slices") == []


@pytest.mark.parametrize(
    ("name", "other", "message"),
    [
        ("flights", {"table": "no_such_table"}, "no_such_table"),
        ("weather", {"topic": "no-such-topic"}, "no topic 'no-such-topic'; create it"),
        ("planes", {"path": "/no/such/path"}, "no path /no/such/path; create it"),
    ],
)
def test_a_table_topic_or_path_that_is_missing_is_named(
    sources: Sources, lake: Lake, name: str, other: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        sources.read(name, DAY, lake, **other)
    assert lake.keys("slices") == []


def test_a_column_retyped_at_the_source_sends_its_rows_aside(stack: StackConfig, sources: Sources, lake: Lake) -> None:
    table = f"odd_{uuid.uuid4().hex[:8]}"
    with closing(psycopg2.connect(stack.postgres_dsn("flights"))) as connection:
        with connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE TABLE {table} AS SELECT * FROM flights WHERE time_hour < '2013-01-02 13:00Z'")
            cursor.execute(f"ALTER TABLE {table} ALTER COLUMN distance TYPE text USING 'far'")
        try:
            raw = sources.read("flights", DAY, lake, table=table)
        finally:
            with connection, connection.cursor() as cursor:
                cursor.execute(f"DROP TABLE {table}")
    found = validate(raw, load_contract("flights"), lake)
    assert raw.rows > 0
    assert (found.clean, found.reasons) == (0, {"undecodable:distance_is_no_int32": raw.rows})


def _wrong_password(sources: Sources, lake: Lake) -> None:
    dsn = f"postgresql://postgres:wrong@127.0.0.1:{sources.stack.ports['postgres']}/flights"
    spec = PostgresSource(connection="c", table="flights", time="time_hour")
    target = Target("d", "s", load_contract("flights"), DAY, lake)
    publish(target, postgres.reading(spec=spec, dsn=dsn, **vars(target)))


def test_a_wrong_password_is_permanent_and_not_printed(sources: Sources, lake: Lake) -> None:
    with pytest.raises(DataError, match="refuses the connection") as caught:
        _wrong_password(sources, lake)
    assert "wrong" not in str(caught.value)


def _http_as_kafka(sources: Sources, lake: Lake) -> None:
    port = sources.stack.ports["hdfs-namenode-http"]
    spec = KafkaSource(connection="c", topic="weather")
    target = Target("d", "s", load_contract("weather"), DAY, lake)
    publish(target, kafka.reading(spec=spec, bootstrap=f"127.0.0.1:{port}", timeout=3.0, **vars(target)))


def _http_as_hdfs(sources: Sources, lake: Lake) -> None:
    port = sources.stack.ports["hdfs-namenode-http"]
    spec = HdfsSource(connection="c", path="/reference/planes")
    target = Target("d", "s", load_contract("planes"), DAY, lake)
    publish(target, hdfs.reading(spec=spec, host="127.0.0.1", port=port, timeout=3.0, **vars(target)))


@pytest.mark.parametrize("read", [_http_as_kafka, _http_as_hdfs])
def test_the_wrong_port_is_named_with_its_time_out_within_seconds(
    sources: Sources, lake: Lake, read: Callable[[Sources, Lake], None]
) -> None:
    port = sources.stack.ports["hdfs-namenode-http"]
    begun = time.monotonic()
    with pytest.raises(Unavailable, match=rf"127\.0\.0\.1:{port} .*time-out 3 s"):
        read(sources, lake)
    assert time.monotonic() - begun < 15


def test_a_first_contract_is_inferred_from_a_table_and_from_a_topic(sources: Sources, tmp_path: Path) -> None:
    table = sampling.postgres(sources.where.postgres_dsn, "public.flights", 500)
    messages = from_messages(sampling.kafka(sources.where.kafka, sources.topic, 500), 500)
    kinds = {}
    for name, seen in (("flights", table), ("weather", messages)):
        assert seen.num_rows == 500
        (tmp_path / f"{name}.yaml").write_text(contract_text(name, seen, "the stack"), encoding="utf-8")
        kinds[name] = {c.name: (c.raw, c.clean) for c in load_contract(name, tmp_path).columns}

    ours = {c.name: (c.raw, c.clean) for c in load_contract("flights").columns}
    assert kinds["flights"] == ours
    assert kinds["weather"]["time_hour"] == ("string", "timestamp")
    with pytest.raises(DataError, match=r"'nowhere' cannot be read"):
        sampling.postgres(sources.where.postgres_dsn, "nowhere", 1)
    with pytest.raises(DataError, match="no topic 'nowhere'"):
        list(sampling.kafka(sources.where.kafka, "nowhere", 1))
