"""Every common type of a table comes into the slice exactly, or its row alone goes aside with a reason."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg2
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2.extras import execute_values

from tidegate.contract import Column, Contract
from tidegate.delivery import PostgresSource
from tidegate.errors import DataError
from tidegate.handoff import Window
from tidegate.ingest import postgres
from tidegate.ingest.postgres_columns import order, readings
from tidegate.ingest.postgres_copy import copied
from tidegate.ingest.slices import Target, publish
from tidegate.lake import Lake
from tidegate.stack.config import StackConfig
from tidegate.units import utc
from tidegate.validate import validate

pytestmark = pytest.mark.stack

DAY = Window(start=utc("2026-01-01"), end=utc("2026-01-02"))
KEY = Column("id", "int64", "int64", required=True, key=1)
TIME = Column("t", "timestamp", "timestamp", event_time=True)
OBJECT = Column("v", "struct", "struct", fields=(Column("a", "int64", "int64"), Column("b", "decimal", "decimal")))


class Gone:
    """What a value is expected to become: its row aside, for this reason."""

    def __init__(self, reason: str):
        self.reason = reason


def column(kind: Any, **other: Any) -> Column:
    return Column("v", kind, kind, **other)


def listed(kind: Any) -> Column:
    return Column("v", "list", "list", items=Column("item", kind, kind))


CASES: list[tuple[str, Column, list[tuple[str, Any]]]] = [
    ("smallint", column("int16"), [("-32768", -32768), ("32767", 32767), ("NULL", None)]),
    ("integer", column("int8"), [("127", 127), ("128", Gone("undecodable:v_is_no_int8")), ("NULL", None)]),
    ("bigint", column("int64"), [("-9223372036854775808", -(2**63)), ("9223372036854775807", 2**63 - 1)]),
    ("numeric(20,0)", column("uint64"), [
        ("18446744073709551615", 2**64 - 1),
        ("-1", Gone("undecodable:v_is_no_uint64"))]),
    ("numeric(38,10)", column("decimal", digits=(38, 10)), [
        ("1234567890123456789012345678.0123456789", Decimal("1234567890123456789012345678.0123456789")),
        ("-0.0000000001", Decimal("-0.0000000001")), ("'NaN'", Gone("undecodable:v_is_no_decimal")), ("NULL", None)]),
    ("numeric", column("decimal", digits=(10, 2)), [
        ("0.10", Decimal("0.10")), ("0.125", Gone("undecodable:v_is_no_decimal")),
        ("123456789.5", Gone("undecodable:v_is_no_decimal")), ("'Infinity'", Gone("undecodable:v_is_no_decimal")),
        ("'-Infinity'", Gone("undecodable:v_is_no_decimal")), ("'NaN'", Gone("undecodable:v_is_no_decimal"))]),
    ("numeric", column("string"), [("1e-300", "0." + "0" * 299 + "1"), ("'NaN'", "NaN"), ("1.50", "1.50")]),
    ("double precision", column("float64"), [
        ("0.1", 0.1), ("5e-324", 5e-324), ("1.7976931348623157e308", 1.7976931348623157e308), ("'-0'", -0.0),
        ("'NaN'", Gone("v:not_finite")), ("'Infinity'", Gone("v:not_finite")), ("'-Infinity'", Gone("v:not_finite"))]),
    ("real", column("float32"), [("16777216", 16777216.0), ("'0.5'", 0.5), ("'NaN'", Gone("v:not_finite"))]),
    ("boolean", column("bool"), [("true", True), ("false", False), ("NULL", None)]),
    ("text", column("string"), [
        ("''", ""), ("NULL", None), ("'NULL'", "NULL"), ("'\\.'", "\\."), ("E'a,\"b\"\\r\\n\\tc'", 'a,"b"\r\n\tc'),
        ("'  x '", "  x "), ("E'\\u00e9\\U0001F30A'", "\u00e9\U0001f30a")]),
    ("text", column("int32"), [
        ("'12'", 12), ("' 12'", Gone("undecodable:v_is_no_int32")), ("'0x10'", Gone("undecodable:v_is_no_int32")),
        ("'1e3'", Gone("undecodable:v_is_no_int32")), ("''", Gone("undecodable:v_is_no_int32")), ("NULL", None)]),
    ("char(4)", column("string"), [("'ab'", "ab  "), ("'abcd'", "abcd")]),
    ("uuid", column("string"), [("'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")]),
    ("mood", column("string", enum=("sad", "ok")), [("'sad'", "sad"), ("'wild'", Gone("v:enum")), ("NULL", None)]),
    ("cents", column("decimal", digits=(12, 2)), [("19.99", Decimal("19.99")), ("NULL", None)]),
    ("bytea", column("bytes"), [
        ("'\\x00ff0a22'", b'\x00\xff\n"'), ("''", b""), ("NULL", None), ("'\\x2c'", b","),
        ("decode(repeat('ab', 5000), 'hex')", b"\xab" * 5000)]),
    ("timestamptz", column("timestamp"), [
        ("'2026-01-01 01:02:03.000001+02'", datetime(2025, 12, 31, 23, 2, 3, 1, UTC)),
        ("'0001-01-01 00:00:00Z'", datetime(1, 1, 1, tzinfo=UTC)),
        ("'9999-12-31 23:59:59.999999Z'", datetime(9999, 12, 31, 23, 59, 59, 999999, UTC)),
        ("'infinity'", Gone("undecodable:v_is_no_timestamp")), ("'-infinity'", Gone("undecodable:v_is_no_timestamp")),
        ("'0044-03-15 12:00:00Z BC'", Gone("undecodable:v_is_no_timestamp")),
        ("'10000-01-01Z'", Gone("undecodable:v_is_no_timestamp")), ("NULL", None)]),
    ("timestamp", column("local_timestamp"), [
        ("'2026-03-29 02:30:00.5'", datetime(2026, 3, 29, 2, 30, 0, 500000)),
        ("'infinity'", Gone("undecodable:v_is_no_local_timestamp"))]),
    ("timestamp", column("timestamp"), [("'2026-03-29 02:30'", Gone("undecodable:v_is_no_timestamp"))]),
    ("date", column("date"), [
        ("'2024-02-29'", date(2024, 2, 29)), ("'infinity'", Gone("undecodable:v_is_no_date")),
        ("'0044-03-15 BC'", Gone("undecodable:v_is_no_date"))]),
    ("time", column("time"), [
        ("'23:59:59.999999'", time(23, 59, 59, 999999)), ("'24:00'", Gone("undecodable:v_is_no_time"))]),
    ("timetz", column("string"), [("'12:00+02'", "12:00:00+02")]),
    ("interval", column("string"), [
        ("'1 year 2 mons -3 days 04:05:06.000007'", "1 year 2 mons -3 days +04:05:06.000007"), ("'0'", "00:00:00")]),
    ("integer[]", listed("int32"), [
        ("'{1,NULL,3}'", [1, None, 3]), ("'{}'", []), ("NULL", None),
        ("'{{1,2},{3,4}}'", Gone("undecodable:v[]_is_no_int32"))]),
    ("text[]", listed("string"), [("ARRAY['', 'a,\"b', NULL, 'NULL']", ["", 'a,"b', None, "NULL"])]),
    ("numeric[]", listed("decimal"), [
        ("ARRAY[0.1, 1e20]", [Decimal("0.1"), Decimal("1e20")]),
        ("ARRAY['NaN'::numeric]", Gone("undecodable:v[]_is_no_decimal"))]),
    ("float8[]", listed("float64"), [
        ("ARRAY[0.1, 1e300]", [0.1, 1e300]), ("ARRAY['Infinity'::float8]", Gone("undecodable:v[]_is_no_float64"))]),
    ("timestamptz[]", listed("timestamp"), [
        ("ARRAY['2026-01-01 00:00+01'::timestamptz]", [datetime(2025, 12, 31, 23, tzinfo=UTC)])]),
    ("jsonb", OBJECT, [
        ("'{\"a\": 9223372036854775807, \"b\": 0.1}'", {"a": 2**63 - 1, "b": Decimal("0.1")}),
        ("'{}'", {"a": None, "b": None}),
        ("'[1]'", Gone("undecodable:v_is_no_struct")),
        ("'{\"a\": 9223372036854775808}'", Gone("undecodable:v.a_is_no_int64")),
        ("NULL", None)]),
    ("json", OBJECT, [
        ("'{\"a\": 1, \"a\": 2}'", Gone("undecodable:v_is_repeated_key")), ("'{ \"a\" : 1 }'", {"a": 1, "b": None})]),
    ("json", column("string"), [("'{ \"a\" : 1.0 }'", '{ "a" : 1.0 }'), ("'null'", "null"), ("NULL", None)]),
    ("json", listed("string"), [("'[\"\\ud800\"]'", Gone("undecodable:v[]_is_no_string")), ("'[\"x\"]'", ["x"])]),
    ("pair", replace(OBJECT, fields=(Column("a", "int64", "int64"), Column("b", "string", "string"))), [
        ("ROW(1, 'x')::pair", {"a": 1, "b": "x"})]),
]  # fmt: skip


class Database:
    """One database, and a table in it per case."""

    def __init__(self, dsn: str, folder: Path):
        self.dsn, self.folder = dsn, folder

    def run(self, *statements: str) -> None:
        with closing(psycopg2.connect(self.dsn)) as connection, connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def read(self, table: str, contract: Contract, dsn: str | None = None) -> tuple[Any, Any, Lake]:
        lake = Lake(f"file://{self.folder}/{uuid.uuid4().hex}")
        spec = PostgresSource(connection="c", table=table, time="t")
        target = Target("d", "s", contract, DAY, lake)
        raw = publish(target, postgres.reading(spec=spec, dsn=dsn or self.dsn, **vars(target)))
        return raw, pq.read_table(lake.local(raw.key, "raw.parquet")), lake


def rules(*columns: Column) -> Contract:
    return Contract("values", "1", columns, "values.yaml", "0" * 64)


@pytest.fixture(scope="module")
def database(server: StackConfig, tmp_path_factory: pytest.TempPathFactory) -> Database:
    found = Database(server.postgres_dsn("flights"), tmp_path_factory.mktemp("types"))
    found.run(
        "CREATE TYPE mood AS ENUM ('sad', 'ok', 'wild')",
        "CREATE DOMAIN amount AS numeric(12,2)", "CREATE DOMAIN cents AS amount CHECK (VALUE >= 0)",
        "CREATE TYPE pair AS (a bigint, b text)",
    )  # fmt: skip
    return found


@pytest.fixture
def table(database: Database) -> Iterator[str]:
    name = f"v_{uuid.uuid4().hex[:8]}"
    yield name
    database.run(f"DROP TABLE IF EXISTS {name}")


@pytest.mark.parametrize(("kind", "wanted", "cases"), CASES, ids=[f"{kind}-{c.raw}" for kind, c, _ in CASES])
def test_a_value_is_exact_or_its_row_goes_aside_with_its_reason(
    database: Database, table: str, kind: str, wanted: Column, cases: list[tuple[str, Any]]
) -> None:
    database.run(f"CREATE TABLE {table} (id bigint, t timestamptz, v {kind})")
    for number, (literal, _) in enumerate(cases):
        database.run(f"INSERT INTO {table} VALUES ({number}, '2026-01-01 12:00Z', {literal})")
    contract = rules(KEY, TIME, wanted)
    raw, rows, lake = database.read(table, contract)
    judged = validate(raw, contract, lake)
    gone = pq.read_table(lake.local(judged.key, "quarantine.parquet")).to_pylist()
    clean = pq.read_table(lake.local(judged.key, "clean.parquet")).to_pylist()

    exact = {n: value for n, (_, value) in enumerate(cases) if not isinstance(value, Gone)}
    reasons = {f"id={n}": value.reason for n, (_, value) in enumerate(cases) if isinstance(value, Gone)}
    print(f"\n{kind:17} -> {wanted.raw:16} {len(exact)} exact, aside: {sorted(set(reasons.values())) or '-'}", end="")
    assert {row["id"]: row["v"] for row in clean} == exact
    assert {row["position"]: row["reason"] for row in gone} == reasons
    assert all(row["bytes"] for row in gone if row["reason"].startswith("undecodable:"))
    assert rows.num_rows == len(cases)


def test_minus_zero_and_nan_are_kept_in_the_raw_slice(database: Database, table: str) -> None:
    database.run(
        f"CREATE TABLE {table} AS SELECT n AS id, '2026-01-01Z'::timestamptz AS t, v FROM "
        "(VALUES (1, '-0'::float8), (2, 'NaN'), (3, '-Infinity'), (4, NULL)) x (n, v)"
    )
    _, rows, _ = database.read(table, rules(KEY, TIME, column("float64")))
    minus, nan, infinite, nothing = rows.column("v").to_pylist()
    assert (math.copysign(1, minus), math.isnan(nan), infinite, nothing) == (-1.0, True, -math.inf, None)


@pytest.mark.parametrize(
    ("kind", "raw", "remedy"),
    [
        ("numeric(10,2)", "float64", r"numeric\(precision, scale\)"), ("bigint", "float64", "bigint"),
        ("double precision", "float32", "double"), ("integer", "float32", "integer or double"),
    ],
)  # fmt: skip
def test_numbers_that_the_contracts_type_would_round_are_refused(
    database: Database, table: str, kind: str, raw: Any, remedy: str
) -> None:
    database.run(f"CREATE TABLE {table} (id bigint, t timestamptz, v {kind})")
    with pytest.raises(DataError, match=rf"'v' of table '{table}'.*{raw} would lose digits; .*{remedy}"):
        database.read(table, rules(KEY, TIME, column(raw)))


def test_a_column_that_the_table_lacks_is_named(database: Database, table: str) -> None:
    database.run(f"CREATE TABLE {table} (id bigint, t timestamptz)")
    with pytest.raises(DataError, match=rf"'{table}' has no column v but id, t; add it"):
        database.read(table, rules(KEY, TIME, column("string")))


def test_one_bad_value_takes_one_row_of_many_aside(database: Database, table: str) -> None:
    database.run(
        f"CREATE TABLE {table} AS SELECT n AS id, '2026-01-01Z'::timestamptz AS t, n::numeric / 4 AS v "
        "FROM generate_series(1, 200000) n",
        f"UPDATE {table} SET v = 'NaN' WHERE id = 77777",
    )
    contract = rules(KEY, TIME, column("decimal", digits=(30, 20)))
    raw, rows, lake = database.read(table, contract)
    judged = validate(raw, contract, lake)
    assert (raw.rows, judged.clean, judged.reasons) == (200000, 199999, {"undecodable:v_is_no_decimal": 1})
    bad = rows.filter(rows.column("_error").is_valid()).to_pylist()
    assert [(row["_position"], row["_bytes"]) for row in bad] == [
        ("id=77777", b'{"id": 77777, "t": "2026-01-01T00:00:00Z", "v": "NaN"}')
    ]


def test_rows_of_one_column_are_rows_also_where_it_is_null(database: Database, table: str) -> None:
    database.run(
        f"CREATE TABLE {table} AS SELECT '2026-01-01Z'::timestamptz AS t, v "
        "FROM (VALUES ('a'), (NULL), (''), (NULL)) x (v)"
    )
    raw, rows, _ = database.read(table, rules(column("string")))
    assert raw.rows == 4
    assert sorted(rows.column("v").to_pylist(), key=str) == ["", None, None, "a"]


def test_rows_without_a_key_are_ordered_by_all_they_have_whatever_its_type(database: Database, table: str) -> None:
    kinds = ("uuid", "json", "interval", "mood", "point", "integer[]", "pair", "bytea")
    values = ("gen_random_uuid()", "'{}'", "'1 day'", "'ok'", "'(1,2)'", "'{1}'", "ROW(1,'x')", "'\\x00'")
    columns = [Column(f"c{n}", "bytes" if kind == "bytea" else "string", "string") for n, kind in enumerate(kinds)]
    database.run(
        f"CREATE TABLE {table} (t timestamptz, " + ", ".join(f"c{n} {kind}" for n, kind in enumerate(kinds)) + ")",
        *[f"INSERT INTO {table} VALUES ('2026-01-01Z', {', '.join(values)})"] * 5,
    )
    first, again = (database.read(table, rules(TIME, *columns))[0] for _ in range(2))
    assert first.rows == 5
    assert first.digest == again.digest


def test_rows_that_share_time_and_key_have_one_order_wherever_they_lie(database: Database, table: str) -> None:
    contract = rules(KEY, TIME, column("string"))
    digests = []
    for texts in (("a", "b", "c"), ("c", "a", "b")):
        database.run(
            f"DROP TABLE IF EXISTS {table}", f"CREATE TABLE {table} (id bigint, t timestamptz, v text)",
            *[f"INSERT INTO {table} VALUES (1, '2026-01-01Z', '{text}')" for text in texts],
        )  # fmt: skip
        digests.append(database.read(table, contract)[0].digest)
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("key", "rest"), [("PRIMARY KEY (id)", 0), ("UNIQUE (id)", 1), ("UNIQUE (t, id)", 1), ("PRIMARY KEY (v)", 1)]
)
def test_the_rest_of_a_row_orders_it_only_where_no_index_makes_time_and_key_unique(
    database: Database, table: str, key: str, rest: int
) -> None:
    database.run(f"CREATE TABLE {table} (id bigint, t timestamptz, v text, {key})")
    contract = rules(KEY, TIME, column("string"))
    with closing(psycopg2.connect(database.dsn)) as connection, connection.cursor() as cursor:
        found = readings(cursor, table, contract)
        assert len(order(cursor, table, "t", contract, found)) == 2 + rest


def test_the_roles_own_settings_change_no_value(database: Database, table: str) -> None:
    role = f"odd_{uuid.uuid4().hex[:8]}"
    database.run(
        f"CREATE TABLE {table} (id bigint, t timestamptz, f float8, d date, i interval, b bytea)",
        f"INSERT INTO {table} VALUES (1, '2026-01-01 12:00Z', 0.1::float8 + 0.2, '2026-02-01', '1 day', '\\x00')",
        f"CREATE ROLE {role} LOGIN PASSWORD 'p'", f"GRANT SELECT ON {table} TO {role}",
        f"ALTER ROLE {role} SET datestyle = 'German'", f"ALTER ROLE {role} SET extra_float_digits = -5",
        f"ALTER ROLE {role} SET intervalstyle = 'iso_8601'", f"ALTER ROLE {role} SET bytea_output = 'escape'",
        f"ALTER ROLE {role} SET timezone = 'Asia/Kathmandu'", f"ALTER ROLE {role} SET client_encoding = 'LATIN1'",
    )  # fmt: skip
    kinds: list[tuple[str, Any]] = [("f", "float64"), ("d", "date"), ("i", "string"), ("b", "bytes")]
    contract = rules(KEY, TIME, *(Column(name, kind, kind) for name, kind in kinds))
    theirs = psycopg2.extensions.make_dsn(database.dsn, user=role, password="p")
    plain, odd = database.read(table, contract)[0], database.read(table, contract, theirs)[0]
    assert plain.digest == odd.digest


def test_texts_that_are_no_utf8_go_aside(server: StackConfig, database: Database, table: str) -> None:
    with closing(psycopg2.connect(database.dsn)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {table} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    other = Database(psycopg2.extensions.make_dsn(database.dsn, dbname=table), database.folder)
    other.run(
        f"CREATE TABLE {table} (k text, t timestamptz)",
        f"INSERT INTO {table} VALUES ('good', '2026-01-01Z'), (E'b\\377d', '2026-01-01Z')",
    )
    contract = rules(Column("k", "string", "string", key=1), TIME)
    raw, rows, lake = other.read(table, contract)
    assert validate(raw, contract, lake).reasons == {"undecodable:k_is_not_utf8": 1}
    assert [row["_bytes"] for row in rows.to_pylist()] == [b'{"k": "b\xffd", "t": "2026-01-01T00:00:00Z"}', None]


def test_a_read_that_is_given_up_half_way_leaves_no_thread_waiting(database: Database, table: str) -> None:
    database.run(f"CREATE TABLE {table} AS SELECT repeat('x', 1000) AS v FROM generate_series(1, 40000)")
    with closing(psycopg2.connect(database.dsn)) as connection, connection.cursor() as cursor:
        blocks = copied([cursor], [f"COPY {table} TO STDOUT (FORMAT binary)".encode()])
        assert len(next(blocks)) > 1000
        blocks.close()


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
VALUES = st.fixed_dictionaries(
    {
        "f": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "n": st.none() | st.decimals(-(10**20), 10**20, allow_nan=False, places=9),
        "s": st.none() | TEXTS,
        "b": st.none() | st.binary(),
        "m": st.none() | st.datetimes(timezones=st.just(UTC)),
        "c": st.none() | st.times(),
        "a": st.none() | st.lists(st.none() | TEXTS),
    }
)  # fmt: skip
KINDS: dict[str, tuple[str, Column]] = {
    "f": ("float8", Column("f", "float64", "float64")),
    "n": ("numeric", Column("n", "decimal", "decimal", digits=(38, 9))),
    "s": ("text", Column("s", "string", "string")),
    "b": ("bytea", Column("b", "bytes", "bytes")),
    "m": ("timestamptz", Column("m", "timestamp", "timestamp")),
    "c": ("time", Column("c", "time", "time")),
    "a": ("text[]", Column("a", "list", "list", items=Column("item", "string", "string"))),
}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=st.lists(VALUES, max_size=8))
def test_generated_values_come_back_as_they_were_written(
    database: Database, table: str, written: list[dict[str, Any]]
) -> None:
    columns = ", ".join(f"{name} {kind}" for name, (kind, _) in KINDS.items())
    with closing(psycopg2.connect(database.dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE IF EXISTS {table}; CREATE TABLE {table} (id bigint, t timestamptz, {columns})")
        rows = [(n, "2026-01-01Z", *(row[name] for name in KINDS)) for n, row in enumerate(written)]
        if rows:
            execute_values(cursor, f"INSERT INTO {table} VALUES %s", rows)
    _, found, _ = database.read(table, rules(KEY, TIME, *(each for _, each in KINDS.values())))

    assert found.select(list(KINDS)).to_pylist() == written
    assert found.column("_error").null_count == len(written)
