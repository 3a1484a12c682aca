"""A look at a table or a topic, for a person who writes a contract: some rows, never a slice."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

import psycopg2
import pyarrow as pa
from psycopg2 import sql

from tidegate.errors import DataError
from tidegate.ingest.edge import away

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT = 10.0
_TYPES: dict[str, Any] = {
    "smallint": pa.int16(), "integer": pa.int32(), "bigint": pa.int64(), "real": pa.float32(),
    "double precision": pa.float64(), "boolean": pa.bool_(), "date": pa.date32(), "bytea": pa.binary(),
    "time without time zone": pa.time64("us"), "timestamp without time zone": pa.timestamp("us"),
    "timestamp with time zone": pa.timestamp("us", "UTC"),
}  # fmt: skip


def postgres(dsn: str, table: str, rows: int) -> Any:
    """Return at most `rows` rows of a table; what has no type here is its text.

    Raises:
        Unavailable: the server does not answer.
        DataError: there is no such table, or it may not be read.
    """
    try:
        connection = psycopg2.connect(dsn, connect_timeout=round(TIMEOUT))
    except psycopg2.OperationalError as error:
        raise away("Postgres", table, TIMEOUT, str(error).strip().splitlines()[0]) from error
    name = sql.Identifier(*table.split("."))
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION READ ONLY; SET TIME ZONE 'UTC'")
            cursor.execute(
                "SELECT attname, format_type(atttypid, NULL), format_type(atttypid, atttypmod) FROM pg_attribute "
                "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
                [name.as_string(cursor)],
            )
            described = cursor.fetchall()
            chosen = sql.SQL(", ").join(_chosen(column, kind) for column, kind, _ in described)
            cursor.execute(sql.SQL("SELECT {} FROM {} LIMIT {}").format(chosen, name, sql.Literal(rows)))
            found = cursor.fetchall()
    except psycopg2.Error as error:
        said = str(error).strip().splitlines()[0]
        raise DataError(f"table {table!r} cannot be read: {said}; create it, or grant SELECT") from error
    finally:
        connection.close()
    columns = list(zip(*found, strict=True)) or [()] * len(described)
    types = [_type(kind, full) for _, kind, full in described]
    arrays = [pa.array([_value(v) for v in column], each) for column, each in zip(columns, types, strict=True)]
    return pa.table(arrays, names=[column for column, _, _ in described])


def _chosen(column: str, kind: str) -> sql.Composable:
    plain = sql.Identifier(column)
    return plain if kind in _TYPES or kind == "numeric" else sql.SQL("{}::text").format(plain)


def _type(kind: str, full: str) -> Any:
    if kind == "numeric":
        digits = full.partition("(")[2].rstrip(")").split(",")
        return pa.decimal128(int(digits[0]), int(digits[1])) if len(digits) == 2 else pa.decimal128(38, 9)
    return _TYPES.get(kind, pa.string())


def _value(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


def kafka(bootstrap: str, topic: str, rows: int) -> Iterator[bytes]:
    """Yield at most `rows` of a topic's oldest messages, of all partitions.

    Raises:
        Unavailable: no broker answers.
        DataError: there is no such topic.
    """
    from kafka import KafkaConsumer, TopicPartition
    from kafka.errors import KafkaError

    milliseconds = int(TIMEOUT * 1000)
    try:
        consumer = KafkaConsumer(
            bootstrap_servers=bootstrap.split(","), group_id=None, enable_auto_commit=False,
            allow_auto_create_topics=False, request_timeout_ms=milliseconds, bootstrap_timeout_ms=milliseconds,
        )  # fmt: skip
    except (KafkaError, OSError) as error:
        raise away("Kafka", bootstrap, TIMEOUT, error) from error
    try:
        numbers = consumer.partitions_for_topic(topic)
        if not numbers:
            raise DataError(f"Kafka at {bootstrap} has no topic {topic!r}; create it, or mend its name")
        partitions = [TopicPartition(topic, number) for number in sorted(numbers)]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        yield from itertools.islice(_messages(consumer, ends), rows)
    except KafkaError as error:
        raise away("Kafka", bootstrap, TIMEOUT, error) from error
    finally:
        consumer.close(autocommit=False)


def _messages(consumer: Any, ends: dict[Any, int]) -> Iterator[bytes]:
    until = time.monotonic() + TIMEOUT
    while any(consumer.position(tp) < end for tp, end in ends.items()) and time.monotonic() < until:
        for records in consumer.poll(timeout_ms=500).values():
            for record in records:
                if record.value is not None:
                    yield record.value
