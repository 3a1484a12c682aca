"""A Postgres that dies, hangs up or changes under the reader: named errors, and the same bytes when read again."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pyarrow.parquet as pq
import pytest

from tests.stack.conftest import postgres_alone
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

DAY = Window(start=utc("2026-01-01"), end=utc("2026-01-02"))
ROWS = 120_000  # 50 MB: more than what waits between server and reader, so that a COPY is never over at its first block


def rules(*columns: Column) -> Contract:
    key = Column("id", "int64", "int64", required=True, key=1)
    return Contract(
        "c", "1", (key, Column("t", "timestamp", "timestamp", event_time=True), *columns), "c.yaml", "0" * 64
    )


TEXT = rules(Column("v", "string", "string"))


class Table:
    """A table of a day, and the slice that is made of it."""

    def __init__(self, dsn: str, folder: Path):
        self.dsn, self.name = dsn, f"f_{uuid.uuid4().hex[:8]}"
        self.lake = Lake(f"file://{folder}/lake")

    def run(self, *statements: str) -> None:
        with closing(psycopg2.connect(self.dsn)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement.replace("{}", self.name))

    def fill(self, rows: int = ROWS) -> None:
        self.run(
            f"CREATE TABLE {{}} AS SELECT n AS id, '2026-01-01Z'::timestamptz + n * interval '0.5 s' AS t, "
            f"repeat('x', 400) || n AS v FROM generate_series(1, {rows}) n",
            "CREATE INDEX ON {} (t)",
            "ANALYZE {}",
        )

    def target(self, contract: Contract = TEXT, lake: Lake | None = None) -> Target:
        return Target("d", "s", contract, DAY, lake or self.lake)

    def reading(self, target: Target, dsn: str | None = None) -> postgres.TableReading:
        spec = PostgresSource(connection="c", table=self.name, time="t")
        return postgres.reading(spec=spec, dsn=dsn or self.dsn, **vars(target))

    def read(
        self, contract: Contract = TEXT, lake: Lake | None = None, dsn: str | None = None, refresh: bool = False
    ) -> Slice:
        target = self.target(contract, lake)
        return publish(target, self.reading(target, dsn), refresh=refresh)

    def rows(self, found: Slice) -> list[dict[str, Any]]:
        return pq.read_table(self.lake.local(found.key, "raw.parquet")).to_pylist()


@pytest.fixture
def table(server: StackConfig, tmp_path: Path) -> Iterator[Table]:
    found = Table(server.postgres_dsn("flights"), tmp_path)
    yield found
    found.run("DROP VIEW IF EXISTS {} CASCADE" if is_view(found) else "DROP TABLE IF EXISTS {} CASCADE")


def is_view(table: Table) -> bool:
    with closing(psycopg2.connect(table.dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT relkind = 'v' FROM pg_class WHERE relname = %s", [table.name])
        return bool((cursor.fetchone() or [False])[0])


def half_way(monkeypatch: pytest.MonkeyPatch, then: Callable[[], None]) -> None:
    """Do something once, when the first block of rows has become a table."""
    made = postgres.postgres_rows.table
    left = [then]

    def table(*given: Any) -> Any:
        with contextlib.suppress(IndexError):
            left.pop()()
        return made(*given)

    monkeypatch.setattr(postgres.postgres_rows, "table", table)


def test_a_server_that_is_killed_in_mid_copy_is_read_again_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_parts, "ROWS", 20_000)  # two connections read
    var = tmp_path / "server"
    with postgres_alone(var) as cfg:
        table = Table(cfg.postgres_dsn("flights"), tmp_path)
        table.fill()
        whole = table.read(lake=Lake(f"file://{tmp_path}/other"))
        postmaster = psutil.Process(int((var / "postgres" / "data" / "postmaster.pid").read_text().split()[0]))

        def kill() -> None:
            every = [postmaster, *postmaster.children()]
            for process in every:
                process.kill()
            psutil.wait_procs(every)

        half_way(monkeypatch, kill)
        with pytest.raises(Unavailable, match=r"Postgres at 127.0.0.1:\d+/flights did not answer"):
            table.read()
        assert table.lake.keys("slices") == []
        assert not [each for each in threading.enumerate() if each.name == "tidegate-copy"]
    with postgres_alone(var):
        assert table.read().digest == whole.digest


@pytest.mark.parametrize("command", ["pg_terminate_backend", "pg_cancel_backend"])
def test_a_backend_that_is_ended_in_mid_copy_is_weather(
    table: Table, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    table.fill()
    other = f"SELECT {command}(pid) FROM pg_stat_activity WHERE query LIKE 'COPY%' AND datname = current_database()"
    half_way(monkeypatch, lambda: table.run(other))
    with pytest.raises(Unavailable, match=r"terminat|did not answer|cancel"):
        table.read()
    assert table.lake.keys("slices") == []
    assert table.read().rows == ROWS


def test_a_statement_timeout_names_the_setting_to_raise(table: Table) -> None:
    table.fill()
    dsn = psycopg2.extensions.make_dsn(table.dsn, options="-c statement_timeout=20")
    with pytest.raises(Unavailable, match=r"statement timeout.*raise statement_timeout for the role"):
        table.read(dsn=dsn)


def test_a_server_without_a_free_connection_is_weather(table: Table) -> None:
    table.fill(10)
    role = f"narrow_{uuid.uuid4().hex[:8]}"
    table.run(f"CREATE ROLE {role} LOGIN PASSWORD 'p' CONNECTION LIMIT 1", f"GRANT SELECT ON {{}} TO {role}")
    dsn = psycopg2.extensions.make_dsn(table.dsn, user=role, password="p")
    with closing(psycopg2.connect(dsn)), pytest.raises(Unavailable, match="too many connections"):
        table.read(dsn=dsn)
    table.run(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@pytest.mark.parametrize("code", ["40001", "40P01", "53300", "55P03", "57P01", "57P02", "57P03", "08006", "25P03"])
def test_what_passes_by_itself_is_retryable_and_the_rest_is_not(table: Table, code: str) -> None:
    table.fill(10)
    raising = "CREATE FUNCTION raise_{}() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE SQLSTATE '%s'; END $$"
    table.run(
        "ALTER TABLE {} RENAME TO old_{}", raising % code, "CREATE VIEW {} AS SELECT id, t, raise_{}() AS v FROM old_{}"
    )
    try:
        with pytest.raises(Unavailable, match=rf"cannot be read now: .*SQLSTATE {code}"):
            table.read()
        table.run((raising % "22012").replace("CREATE", "CREATE OR REPLACE", 1))
        with pytest.raises(DataError, match="cannot be read: "):
            table.read()
    finally:
        table.run("DROP VIEW {}", "DROP FUNCTION raise_{}", "DROP TABLE old_{}")


def test_without_the_right_to_read_the_remedy_is_a_grant(table: Table) -> None:
    table.fill(10)
    role = f"blind_{uuid.uuid4().hex[:8]}"
    table.run(f"CREATE ROLE {role} LOGIN PASSWORD 'p'")
    with pytest.raises(DataError, match=r"permission denied for table.*grant SELECT"):
        table.read(dsn=psycopg2.extensions.make_dsn(table.dsn, user=role, password="p"))
    table.run(f"DROP ROLE {role}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("ALTER TABLE {} DROP COLUMN v", r"has no column v but "),
        ("ALTER TABLE {} RENAME v TO w", r"has no column v but .*w"),
        ("DROP TABLE {}", r"does not exist; create it or grant SELECT"),
        ("ALTER TABLE {} ALTER v TYPE numeric USING 1", None),
        ("ALTER TABLE {} RENAME TO old_{}; CREATE VIEW {} AS SELECT * FROM old_{}", None),
    ],
)
def test_what_changed_between_freezing_and_reading_is_named_or_read_as_it_is(
    table: Table, change: str, message: str | None
) -> None:
    table.fill(10)
    reading = table.reading(table.target())
    position = reading.freeze()
    table.run(change)
    if message:
        with pytest.raises(DataError, match=message):
            list(reading.rows(position, {}))
    else:
        (found,) = reading.rows(position, {})
        assert (found.num_rows, found.column("v").null_count, found.column("_error").null_count) == (10, 0, 10)
    table.run("DROP VIEW IF EXISTS {}" if is_view(table) else "DROP TABLE IF EXISTS {}", "DROP TABLE IF EXISTS old_{}")


def test_who_alters_the_table_in_mid_window_waits_for_the_reader(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    table.fill()
    altering = threading.Thread(target=table.run, args=("ALTER TABLE {} ALTER v TYPE int USING 7",))

    def begin() -> None:
        altering.start()
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = %s::regclass"
        with closing(psycopg2.connect(table.dsn)) as connection, connection.cursor() as cursor:
            for _ in iter(lambda: cursor.execute(waits, [table.name]) or cursor.fetchone()[0], 1):
                pass

    half_way(monkeypatch, begin)
    found = table.read()
    altering.join()
    assert (found.rows, table.rows(found)[-1]["v"]) == (ROWS, "x" * 400 + str(ROWS))
    assert table.rows(table.read(refresh=True))[0]["v"] == "7"


def test_a_reader_that_waits_for_who_alters_the_table_gives_up_and_says_so(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.fill(10)
    monkeypatch.setattr("tidegate.ingest.postgres_edge._LOCK_WAIT", 50)
    with closing(psycopg2.connect(table.dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(f"LOCK TABLE {table.name} IN ACCESS EXCLUSIVE MODE")
        reading = table.reading(table.target())
        with pytest.raises(Unavailable, match=r"lock timeout \(SQLSTATE 55P03\); try again later"):
            list(reading.rows({}, {}))


def test_instants_are_the_same_whatever_zone_they_were_written_in_also_where_clocks_change(table: Table) -> None:
    moments = {
        "2026-01-01 23:59:60Z": datetime(2026, 1, 2, tzinfo=UTC),  # Postgres counts a leap second as the next one
        "2026-03-29 02:30 Europe/Berlin": datetime(2026, 3, 29, 1, 30, tzinfo=UTC),  # an hour that never was
        "2026-10-25 02:30 Europe/Berlin": datetime(2026, 10, 25, 1, 30, tzinfo=UTC),  # an hour that was twice
        "2026-10-25 02:30+02": datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
        "2026-01-01 12:00:00.123456+05:45": datetime(2026, 1, 1, 6, 15, 0, 123456, tzinfo=UTC),
        "2026-01-01 12:00 America/St_Johns": datetime(2026, 1, 1, 15, 30, tzinfo=UTC),
    }
    table.run("CREATE TABLE {} (id bigint, t timestamptz, v timestamptz)")
    for number, text in enumerate(moments):
        table.run(f"INSERT INTO {{}} VALUES ({number}, '2026-01-01Z', '{text}')")
    contract = rules(Column("v", "timestamp", "timestamp"))
    plain, odd = (
        table.read(contract, dsn=psycopg2.extensions.make_dsn(table.dsn, options=f"-c timezone={zone}"), refresh=True)
        for zone in ("UTC", "Australia/Lord_Howe")
    )
    assert [row["v"] for row in table.rows(plain)] == list(moments.values())
    assert plain.digest == odd.digest


def test_a_value_of_100_megabytes_takes_its_row_aside_with_its_begin(table: Table) -> None:
    table.run(
        "CREATE TABLE {} (id bigint, t timestamptz, v text, b bytea, j jsonb)",
        "INSERT INTO {} VALUES (1, '2026-01-01Z', 'a', '\\x00', '{\"a\": 1}')",
        "INSERT INTO {} SELECT 2, '2026-01-01Z', repeat('0123456789', 10 << 20), '\\x00', '{ }'",
        "INSERT INTO {} SELECT 3, '2026-01-01Z', 'c', decode(repeat('ab', 20 << 20), 'hex'), '{ }'",
        "INSERT INTO {} SELECT 4, '2026-01-01Z', 'd', '', jsonb_build_object('b', repeat('y', 20 << 20))",
        "INSERT INTO {} SELECT 5, '2026-01-01Z', repeat('z', 1 << 20), '\\x00', NULL",
    )
    contract = rules(
        Column("v", "string", "string"), Column("b", "bytes", "bytes"),
        Column("j", "struct", "struct", fields=(Column("a", "int64", "int64"),)),
    )  # fmt: skip
    found = table.read(contract)
    judged = validate(found, contract, table.lake)
    assert (judged.clean, judged.reasons) == (
        2, {f"undecodable:{name}_is_longer_than_16_MiB": 1 for name in ("v", "b", "j")},
    )  # fmt: skip
    rows = table.rows(found)
    assert [(row["id"], len(row["v"])) for row in rows if row["_error"] is None] == [(1, 1), (5, 1 << 20)]
    long = next(row for row in rows if row["_position"] == "id=2")
    assert long["_bytes"].startswith(b'{"id": 2, "t": "2026-01-01T00:00:00Z", "v": "0123456789')
    assert len(long["_bytes"]) < 2000
