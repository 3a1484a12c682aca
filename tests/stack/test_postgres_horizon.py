"""A window of a table is read when every transaction is over that was open as it ended: no row is lost to a commit."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pyarrow.parquet as pq
import pytest
from psycopg2.extensions import ISOLATION_LEVEL_REPEATABLE_READ

from tidegate.contract import Column, Contract
from tidegate.delivery import PostgresSource
from tidegate.errors import DataError, Unavailable
from tidegate.handoff import Slice, Window
from tidegate.ingest import postgres
from tidegate.ingest.slices import Target, publish
from tidegate.lake import Lake
from tidegate.stack.config import StackConfig
from tidegate.units import utc

pytestmark = pytest.mark.stack

COLUMNS = (Column("id", "int64", "int64", required=True, key=1), Column("t", "timestamp", "timestamp", event_time=True))
RULES = Contract("events", "1", COLUMNS, "events.yaml", "0" * 64)
DAY = Window(start=utc("2026-01-01"), end=utc("2026-01-02"))


class Table:
    """A table of events, its writers, and our reader."""

    def __init__(self, dsn: str, lake: Lake):
        self.dsn, self.lake = dsn, lake
        self.name = f"events_{uuid.uuid4().hex[:8]}"
        self.writer = psycopg2.connect(dsn, application_name="writer")

    def insert(self, number: int) -> None:
        with self.writer.cursor() as cursor:
            cursor.execute(f"INSERT INTO {self.name} VALUES (%s, '2026-01-01 12:00Z')", [number])

    def ids(self, found: Slice) -> list[int]:
        return [int(i) for i in pq.read_table(self.lake.local(found.key, "raw.parquet")).column("id").to_pylist()]

    def read(self, sleep: Callable[[float], None], patience: float = 60.0, window: Window = DAY, **other: Any) -> Slice:
        target = Target("d", "s", RULES, window, self.lake)
        spec = PostgresSource(connection="c", table=self.name, time="t", patience=patience)
        dsn = other.get("dsn", self.dsn)
        return publish(target, postgres.reading(spec=spec, dsn=dsn, sleep=sleep, **vars(target)))

    def naive(self) -> list[int]:
        with closing(psycopg2.connect(self.dsn)) as connection, connection.cursor() as cursor:
            connection.set_session(isolation_level=ISOLATION_LEVEL_REPEATABLE_READ, readonly=True)
            cursor.execute(f"SELECT id FROM {self.name} WHERE t >= '2026-01-01Z' AND t < '2026-01-02Z' ORDER BY id")
            return [row[0] for row in cursor.fetchall()]


@pytest.fixture
def table(server: StackConfig, tmp_path: Path) -> Iterator[Table]:
    found = Table(server.postgres_dsn("flights"), Lake(f"file://{tmp_path}/lake"))
    with closing(psycopg2.connect(found.dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {found.name} (id bigint, t timestamptz)")
    found.insert(1)
    found.writer.commit()
    with closing(found.writer):
        yield found


def never(_: float) -> None:
    raise AssertionError("there was nothing to wait for")


def test_a_row_committed_after_the_read_began_is_in_the_slice_and_a_naive_reader_loses_it(table: Table) -> None:
    table.insert(2)
    naive: list[int] = []

    def commit(_: float) -> None:
        naive.extend(table.naive())
        table.writer.commit()

    found = table.read(commit)

    assert naive == [1]
    assert table.ids(found) == [1, 2]
    horizon = found.position["horizon"]
    assert horizon["awaited"] == 1
    assert horizon["xmin"] <= horizon["xmax"]
    assert (horizon["in_progress"], horizon["waited_s"] > 0) == (0, True)


def test_a_transaction_that_has_written_nothing_yet_is_waited_for_if_it_is_as_old_as_the_window(table: Table) -> None:
    with closing(psycopg2.connect(table.dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        today = Window(start=utc("2026-01-01"), end=cursor.fetchone()[0])
    with table.writer.cursor() as cursor:
        cursor.execute("SELECT now()")  # it has begun, and has no id yet

    def write(_: float) -> None:
        if table.writer.info.transaction_status:
            table.insert(2)
            table.writer.commit()

    assert table.ids(table.read(write, window=today)) == [1, 2]


def test_a_rolled_back_row_is_not_in_the_slice(table: Table) -> None:
    table.insert(2)
    assert table.ids(table.read(lambda _: table.writer.rollback())) == [1]


def test_a_reader_that_began_after_the_window_ended_keeps_nobody_waiting(table: Table) -> None:
    with table.writer.cursor() as cursor:
        cursor.execute("SELECT 1")
    assert table.read(never).position["horizon"]["awaited"] == 0


def test_a_writer_in_another_database_keeps_nobody_waiting(server: StackConfig, table: Table) -> None:
    with closing(psycopg2.connect(server.postgres_dsn("tidegate"))) as elsewhere, elsewhere.cursor() as cursor:
        cursor.execute("SELECT pg_current_xact_id()")
        theirs = cursor.fetchone()[0]
        horizon = table.read(never).position["horizon"]
    assert (horizon["awaited"], horizon["xmin"] <= int(theirs)) == (0, True)


def test_a_transaction_that_is_prepared_meanwhile_is_waited_for(table: Table) -> None:
    table.writer.tpc_begin(table.writer.xid(1, table.name, "a"))
    table.insert(2)
    steps = iter([table.writer.tpc_prepare, lambda: table.ids, table.writer.tpc_commit])

    def step(_: float) -> None:
        next(steps)()

    found = table.read(step)
    assert table.ids(found) == [1, 2]
    assert list(steps) == []


def test_a_prepared_transaction_beyond_the_patience_is_named_with_its_remedy(table: Table) -> None:
    with table.writer.cursor() as cursor:
        table.insert(2)
        cursor.execute(f"PREPARE TRANSACTION '{table.name}'")
    try:
        with pytest.raises(Unavailable, match=rf"prepared transaction '{table.name}'.*ROLLBACK PREPARED"):
            table.read(never, patience=0.0)
    finally:
        table.writer.rollback()
        table.writer.autocommit = True
        with table.writer.cursor() as cursor:
            cursor.execute(f"ROLLBACK PREPARED '{table.name}'")


def test_a_transaction_beyond_the_patience_is_named_and_nothing_is_published(table: Table) -> None:
    table.insert(2)
    pid = table.writer.info.backend_pid
    with pytest.raises(
        Unavailable,
        match=rf"after 0 s \(patience 0 s\) 1 open transactions may still commit rows into it "
        rf"\(pid {pid} \(postgres, writer, idle in transaction\), open for \d+ s\).*pg_terminate_backend\({pid}\)",
    ):
        table.read(never, patience=0.0)
    assert table.lake.keys("slices") == []


def test_a_window_that_has_not_ended_is_not_read(table: Table) -> None:
    with pytest.raises(Unavailable, match=r"ends in \d+ s by the server's clock, more than the patience of 60 s"):
        table.read(never, window=Window(start=utc("2026-01-01"), end=utc("2999-01-01")))


def test_a_role_that_sees_no_other_roles_transactions_waits_for_them_all_the_same(table: Table) -> None:
    role = f"reader_{uuid.uuid4().hex[:8]}"
    with closing(psycopg2.connect(table.dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'p'; GRANT SELECT ON {table.name} TO {role}")
    dsn = psycopg2.extensions.make_dsn(table.dsn, user=role, password="p")
    table.insert(2)

    assert table.ids(table.read(lambda _: table.writer.commit(), dsn=dsn)) == [1, 2]


def test_a_standby_is_refused_for_it_does_not_see_what_is_open_on_its_primary(
    standby: StackConfig, table: Table
) -> None:
    with pytest.raises(DataError, match=r"is read from a standby.*name the primary"):
        table.read(never, dsn=standby.postgres_dsn("postgres"))
    assert table.lake.keys("slices") == []
