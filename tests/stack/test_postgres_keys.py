"""Windows by a key that only grows: each row is in exactly one, whatever commits when."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pyarrow.parquet as pq
import pytest

from tidegate.contract import Column, Contract
from tidegate.delivery import PostgresSource
from tidegate.errors import DataError, Unavailable
from tidegate.handoff import Slice, Window
from tidegate.ingest import postgres, postgres_parts
from tidegate.ingest.slices import Target, publish
from tidegate.lake import Lake
from tidegate.stack.config import StackConfig
from tidegate.units import utc
from tidegate.validate import validate

pytestmark = pytest.mark.stack

COLUMNS = (Column("id", "int64", "int64", required=True, key=1), Column("v", "string", "string"))
RULES = Contract("events", "1", COLUMNS, "events.yaml", "0" * 64)
BEGIN = utc("2026-01-01")


def day(number: int, days: int = 1) -> Window:
    return Window(start=BEGIN + timedelta(days=number), end=BEGIN + timedelta(days=number + days))


def nothing(_: float) -> None:
    """Nobody needs time to pass."""


class Table:
    """A table whose key is a sequence's, its writers, and our reader."""

    def __init__(self, dsn: str, lake: Lake):
        self.dsn, self.lake = dsn, lake
        self.name = f"events_{uuid.uuid4().hex[:8]}"

    def writer(self) -> Any:
        return psycopg2.connect(self.dsn, application_name="writer")

    def insert(self, connection: Any, text: str = "x") -> int:
        with connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO {self.name} (v) VALUES (%s) RETURNING id", [text])
            return int(cursor.fetchone()[0])

    def commit(self, count: int = 1) -> None:
        with closing(self.writer()) as connection, connection:
            for _ in range(count):
                self.insert(connection)

    def read(
        self, window: Window, sleep: Callable[[float], None] = nothing, contract: Contract = RULES,
        refresh: bool = False, **other: Any,
    ) -> Slice:  # fmt: skip
        spec = PostgresSource(connection="c", table=self.name, key="id", since=BEGIN, patience=60.0, **other)
        target = Target("d", "s", contract, window, self.lake)
        return publish(target, postgres.reading(spec=spec, dsn=self.dsn, sleep=sleep, **vars(target)), refresh=refresh)

    def ids(self, found: Slice) -> list[int]:
        rows = pq.read_table(self.lake.local(found.key, "raw.parquet"))
        return [int(row["id"]) for row in rows.to_pylist()]


@pytest.fixture
def table(server: StackConfig, tmp_path: Path) -> Iterator[Table]:
    found = Table(server.postgres_dsn("flights"), Lake(f"file://{tmp_path}/lake"))
    with closing(psycopg2.connect(found.dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {found.name} (id bigserial PRIMARY KEY, v text)")
    yield found
    with closing(psycopg2.connect(found.dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE {found.name}")


def test_a_lower_key_that_is_committed_later_is_in_the_slice_and_a_naive_reader_loses_it(table: Table) -> None:
    with closing(table.writer()) as slow:
        low = table.insert(slow)
        table.commit()
        high = low + 1

        with closing(table.writer()) as naive, naive.cursor() as cursor:
            cursor.execute(f"SELECT id FROM {table.name} WHERE id > 0 ORDER BY id")
            seen = [row[0] for row in cursor.fetchall()]
        first = table.read(day(0), lambda _: slow.commit())
        second = table.read(day(1))

    with closing(table.writer()) as naive, naive.cursor() as cursor:
        cursor.execute(f"SELECT id FROM {table.name} WHERE id > %s ORDER BY id", [max(seen)])
        assert (seen, cursor.fetchall()) == ([high], [])  # max(id) as the next begin: `low` is in neither
    assert (table.ids(first), table.ids(second)) == ([low, high], [])
    assert (first.position["after"], first.position["upto"]) == (None, high)
    assert first.position["horizon"]["awaited"] >= 1  # the naive reader may be on its way out


def test_a_transaction_that_has_only_drawn_a_number_is_waited_for(table: Table) -> None:
    table.commit()
    with closing(table.writer()) as slow:
        with slow.cursor() as cursor:
            cursor.execute("SELECT nextval(pg_get_serial_sequence(%s, 'id'))", [table.name])
            drawn = cursor.fetchone()[0]
        table.commit()

        def write(_: float) -> None:
            with slow, slow.cursor() as cursor:
                cursor.execute(f"INSERT INTO {table.name} VALUES (%s) ON CONFLICT DO NOTHING", [drawn])

        assert table.ids(table.read(day(0), write)) == [drawn - 1, drawn, drawn + 1]


def test_windows_meet_and_stay_as_they_were_frozen(table: Table) -> None:
    table.commit(3)
    first = table.read(day(0))
    table.commit(2)
    second, third = table.read(day(1)), table.read(day(2))
    table.commit(1)
    again = table.read(day(1), refresh=True)
    assert [table.ids(each) for each in (first, second, third)] == [[1, 2, 3], [4, 5], []]
    assert (again.digest, again.position) == (second.digest, second.position)
    assert table.ids(table.read(day(3))) == [6]


def test_an_empty_table_and_deleted_rows_move_no_bound_back(table: Table) -> None:
    assert table.read(day(0)).position["upto"] is None
    table.commit(2)
    assert table.ids(table.read(day(1))) == [1, 2]
    with closing(table.writer()) as connection, connection, connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM {table.name}")
    empty = table.read(day(2))
    assert (empty.rows, empty.position["after"], empty.position["upto"]) == (0, 2, 2)


def test_rows_of_any_time_are_clean_in_a_window_by_key(table: Table) -> None:
    with closing(table.writer()) as connection, connection, connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table.name} ADD t timestamptz NOT NULL DEFAULT '2019-05-05Z'")
    table.commit(3)
    timed = replace(RULES, columns=(*COLUMNS, Column("t", "timestamp", "timestamp", event_time=True)))
    found = table.read(day(0), contract=timed)
    assert validate(found, timed, table.lake).clean == 3


def test_after_leaves_out_what_lies_before_it(table: Table) -> None:
    table.commit(5)
    assert table.ids(table.read(day(0), after=3)) == [4, 5]


def test_windows_out_of_order_are_refused_with_what_to_read_first(table: Table) -> None:
    with pytest.raises(Unavailable, match=r"read the window that begins at 2026-01-01 00:00 UTC first"):
        table.read(day(1))
    table.read(day(0, days=2))
    with pytest.raises(DataError, match=r"begins within windows that were read.*begins at 2026-01-03 00:00 UTC"):
        table.read(day(1))
    with pytest.raises(DataError, match=r"begins before the source's `since`"):
        table.read(day(-1))
    assert len(table.lake.keys("slices")) == 1


def test_windows_read_at_once_lie_one_after_another(table: Table) -> None:
    table.commit(10)

    def tried(window: Window) -> list[int]:
        while True:
            try:
                return table.ids(table.read(window, time.sleep))
            except Unavailable:  # those before it are not read yet
                table.commit()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(tried, [day(n) for n in (3, 2, 1, 0)]))
    together = [key for keys in reversed(found) for key in keys]
    assert together == list(range(1, len(together) + 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("ALTER SEQUENCE {}_id_seq CACHE 20", r"has CACHE 20 .*ALTER SEQUENCE .* CACHE 1"),
        ("ALTER TABLE {} ALTER id DROP DEFAULT, ALTER id TYPE text; INSERT INTO {} VALUES ('a')", "no whole number"),
    ],
)
def test_a_key_whose_order_is_not_that_of_time_is_refused(table: Table, change: str, message: str) -> None:
    with closing(table.writer()) as connection, connection, connection.cursor() as cursor:
        cursor.execute(change.replace("{}", table.name))
    with pytest.raises(DataError, match=message):
        table.read(day(0))


def test_parts_of_a_key_are_read_side_by_side(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(table.writer()) as connection, connection, connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {table.name} (v) SELECT 'x' FROM generate_series(1, 20000); ANALYZE {table.name}")
    monkeypatch.setattr(postgres_parts, "ROWS", 3_000)
    with closing(table.writer()) as connection, connection.cursor() as cursor:
        spec = PostgresSource(connection="c", table=table.name, key="id", since=BEGIN)
        whole = postgres_parts.whole(spec, day(0), {"after": None, "upto": 20000})
        assert len(postgres_parts.parts(cursor, spec, whole)) == 6
    assert table.ids(table.read(day(0), connections=3)) == list(range(1, 20001))
