"""A large window is read by several connections in one snapshot, and its bytes are those of a reading by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tidegate.contract import Column, Contract
from tidegate.delivery import PostgresSource
from tidegate.handoff import Slice, Window
from tidegate.ingest import postgres, postgres_parts
from tidegate.ingest.slices import Target, publish
from tidegate.lake import Lake
from tidegate.stack.config import StackConfig
from tidegate.units import utc

pytestmark = pytest.mark.stack

COLUMNS = (Column("id", "int64", "int64", key=1), Column("t", "timestamp", "timestamp", event_time=True))
RULES = Contract("events", "1", COLUMNS, "events.yaml", "0" * 64)
DAY = Window(start=utc("2026-01-01"), end=utc("2026-01-02"))
ROWS = 250_000


@pytest.fixture
def dsn(server: StackConfig) -> Iterator[str]:
    """A database whose table `many` has rows at 200,000 different times, and gaps between them."""
    found = server.postgres_dsn("flights")
    with closing(psycopg2.connect(found)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(
                "CREATE TABLE many AS SELECT n AS id, '2026-01-01Z'::timestamptz + (n % 200000) * interval '0.3 s' "
                f"AS t FROM generate_series(1, {ROWS}) n; CREATE INDEX ON many (t); ANALYZE many"
            )
            yield found
            cursor.execute("DROP TABLE many")


def read(dsn: str, folder: Path, connections: int) -> Slice:
    spec = PostgresSource(connection="c", table="many", time="t", connections=connections)
    target = Target("d", "s", RULES, DAY, Lake(f"file://{folder}/{connections}"))
    return publish(target, postgres.reading(spec=spec, dsn=dsn, **vars(target)))


def intervals(dsn: str, connections: int = 3) -> list[Any]:
    spec = PostgresSource(connection="c", table="many", time="t", connections=connections)
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        found = postgres_parts.parts(cursor, spec, postgres_parts.whole(spec, DAY, {}))
    return [(each.low, each.high) for each in found]


def test_parts_read_side_by_side_give_the_bytes_of_a_reading_by_one(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_parts, "ROWS", 20_000)
    cut = intervals(dsn)
    assert len(cut) > 8
    assert (cut[0][0], cut[-1][1]) == (DAY.start, DAY.end)
    assert all(earlier[1] == later[0] for earlier, later in pairwise(cut))

    one, three = read(dsn, tmp_path, 1), read(dsn, tmp_path, 3)
    assert one.rows == three.rows == ROWS
    assert one.digest == three.digest


def test_rows_committed_while_the_parts_are_read_are_in_none_of_them(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_parts, "ROWS", 20_000)
    exact = postgres.readings

    def meanwhile(*given: Any) -> Any:
        with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO many SELECT {ROWS} + n, '2026-01-01 12:00Z' FROM generate_series(1, 5) n")
        return exact(*given)

    monkeypatch.setattr(
        postgres, "readings", meanwhile
    )  # the snapshot is taken, the other connections are not yet made
    assert read(dsn, tmp_path, 3).rows == ROWS


def test_a_window_far_wider_than_its_rows_is_cut_where_they_lie(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_parts, "ROWS", 20_000)
    last = DAY.start + timedelta(seconds=0.3 * 200_000)
    assert all(DAY.start < low < last for low, _ in intervals(dsn)[1:])


def test_a_window_whose_rows_have_gone_since_the_planner_counted_them_is_read_as_one(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_parts, "ROWS", 20_000)
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM many")
    assert intervals(dsn) == [(DAY.start, DAY.end)]


def test_a_table_without_an_index_on_its_time_is_read_as_one(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_parts, "ROWS", 20_000)
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("DROP INDEX many_t_idx")
    assert intervals(dsn) == [(DAY.start, DAY.end)]


def test_a_small_window_is_read_as_one(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_parts, "ROWS", ROWS)
    assert intervals(dsn) == [(DAY.start, DAY.end)]
