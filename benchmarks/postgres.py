"""How fast a Postgres table becomes Parquet with exact types: beside DuckDB, connectorx and ADBC, on the same rows.

`python -m benchmarks.postgres [--quick]` prints a table, writes var/bench/postgres.png, prints what each way makes of
values that are easily lost, and ends with a JSON object. Ours is the whole slice: rows in order, each with its
position, checked and published with its digest; the others write a bare file. Each way reads the table once per turn,
all in turns; the shortest counts. CPU is of the client and of the server's processes, which a busy machine distorts
less than the time. DuckDB runs in an environment of its own (`make env-peers`), and only where that is there.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import tempfile
import time
import uuid
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.alone import bars
from tests.stack.conftest import postgres_alone
from tidegate.contract import Column, Contract
from tidegate.delivery import PostgresSource, project_root
from tidegate.handoff import Window
from tidegate.ingest import postgres
from tidegate.ingest.slices import Target, publish
from tidegate.lake import Lake
from tidegate.units import utc

if TYPE_CHECKING:
    from collections.abc import Callable

os.environ["RUST_BACKTRACE"] = "0"  # connectorx panics at an interval
OURS, ONE = "Tidegate", "Tidegate, one connection"
DUCKDB, CONNECTORX, CONNECTORX_ONE, ADBC = "DuckDB COPY", "connectorx x2", "connectorx", "ADBC"
GOALS = {DUCKDB: ("P1a", 1.0), CONNECTORX_ONE: ("P1b", 2.0), CONNECTORX: ("P1b2", 2.0), ADBC: ("P1c", 2.0)}
WINDOW = Window(start=utc("2026-01-01"), end=utc("2026-02-01"))
KEY = Column("id", "int64", "int64", key=1)
TIME = Column("t", "timestamp", "timestamp", event_time=True)
RULES = Contract(
    "bench", "1",
    (
        KEY, TIME, Column("amount", "decimal", "decimal", digits=(12, 2)), Column("x", "float64", "float64"),
        Column("n", "int32", "int32"), Column("ok", "bool", "bool"), Column("code", "string", "string"),
        Column("name", "string", "string"),
    ),
    "bench.yaml", "0" * 64,
)  # fmt: skip
ROWS = """
CREATE TABLE bench (id bigint PRIMARY KEY, t timestamptz NOT NULL, amount numeric(12,2), x double precision, n integer,
    ok boolean, code text, name text);
INSERT INTO bench SELECT n, '2026-01-01Z'::timestamptz + n * interval '40 ms', (random() * 100000)::numeric(12,2),
    random(), (random() * 1000)::int, n % 3 = 0, 'N' || (n % 4000), CASE WHEN n % 40 > 0 THEN 'row' || n END
    FROM generate_series(1, {rows}) n;
CREATE INDEX ON bench (t);
"""
DUCK = """
import json, sys, time
from pathlib import Path
import duckdb, duckdb_extension_postgres_scanner as scanner
dsn, out, tables = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
found = {}
connection = duckdb.connect()
extension = next(Path(scanner.__file__).parent.glob("extensions/*/*.duckdb_extension"))
connection.execute(f"LOAD '{extension}'")
connection.execute(f"ATTACH '{dsn}' AS pg (TYPE postgres, READ_ONLY)")
for table in tables:
    began, busy = time.perf_counter(), time.process_time()
    try:
        connection.execute(f"COPY pg.{table} TO '{out}/{table}.parquet' (FORMAT parquet, COMPRESSION zstd)")
        found[table] = [time.perf_counter() - began, time.process_time() - busy]
    except Exception as error:
        found[table] = str(error)
print(json.dumps(found))
"""
NAN = "not a number"
FIDELITY: list[tuple[str, str, Column, list[Any]]] = [
    ("bigint", "9223372036854775807", Column("v", "int64", "int64"), [2**63 - 1]),
    ("numeric(38,10)", "1234567890123456789012345678.0123456789", Column("v", "decimal", "decimal", digits=(38, 10)),
     [Decimal("1234567890123456789012345678.0123456789"), "1234567890123456789012345678.0123456789"]),
    ("numeric", "0.1", Column("v", "decimal", "decimal", digits=(20, 10)), [Decimal("0.1"), "0.1"]),
    ("numeric", "'NaN'", Column("v", "decimal", "decimal", digits=(20, 10)), ["NaN", "nan"]),
    ("double precision", "'NaN'", Column("v", "float64", "float64"), [NAN]),
    ("double precision", "'-Infinity'", Column("v", "float64", "float64"), [-math.inf]),
    ("timestamptz", "'2026-01-01 01:02:03.000001+02'", Column("v", "timestamp", "timestamp"),
     [datetime(2025, 12, 31, 23, 2, 3, 1, UTC)]),
    ("timestamptz", "'infinity'", Column("v", "timestamp", "timestamp"), ["infinity"]),
    ("date", "'infinity'", Column("v", "date", "date"), ["infinity"]),
    ("date", "'0044-03-15 BC'", Column("v", "date", "date"), ["0044-03-15 BC", -735_160]),
    ("time", "'24:00'", Column("v", "time", "time"), ["24:00:00"]),
    ("interval", "'1 year 2 mons -3 days 04:05:06.000007'", Column("v", "string", "string"),
     ["1 year 2 mons -3 days +04:05:06.000007", (14, -3, 14_706_000_007_000)]),
    ("text", "''", Column("v", "string", "string"), [""]),
    ("bytea", "'\\x00ff'", Column("v", "bytes", "bytes"), [b"\x00\xff"]),
    ("uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", Column("v", "string", "string"),
     ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", bytes.fromhex("a0eebc999c0b4ef8bb6d6bb9bd380a11"),
      uuid.UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")]),
    ("integer[]", "'{1,NULL,3}'", Column("v", "list", "list", items=Column("item", "int32", "int32")), [[1, None, 3]]),
    ("jsonb", "'{\"a\": 9223372036854775808}'", Column("v", "string", "string"),
     ['{"a": 9223372036854775808}', '{"a":9223372036854775808}']),
]  # fmt: skip


class Bench:
    """A server with the rows, and the ways to read them."""

    def __init__(self, dsn: str, postmaster: psutil.Process, folder: Path):
        self.dsn, self.postmaster, self.folder = dsn, postmaster, folder

    def run(self, *statements: str) -> None:
        """Execute statements, each a transaction of its own."""
        with closing(psycopg2.connect(self.dsn)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)

    def served(self) -> float:
        """Return the CPU seconds of the server's processes that have ended."""
        times = self.postmaster.cpu_times()
        return float(times.children_user + times.children_system)

    def ours(self, table: str = "bench", contract: Contract = RULES, connections: int = 2) -> Path:
        """Publish a slice; return its file."""
        lake = Lake(f"file://{self.folder}/{uuid.uuid4().hex}")
        spec = PostgresSource(connection="c", table=table, time="t", connections=connections)
        target = Target("d", "s", contract, WINDOW, lake)
        found = publish(target, postgres.reading(spec=spec, dsn=self.dsn, **vars(target)))
        return lake.local(found.key, "raw.parquet")

    def connectorx(self, table: str = "bench", **partition: Any) -> Path:
        """Read by connectorx, write by pyarrow."""
        import connectorx

        read = connectorx.read_sql(self.dsn, f"SELECT * FROM {table}", return_type="arrow", **partition)
        out = self.folder / f"connectorx-{table}.parquet"
        pq.write_table(read, out, compression="zstd")
        return out

    def adbc(self, table: str = "bench") -> Path:
        """Read by ADBC in batches, write by pyarrow."""
        import adbc_driver_postgresql.dbapi as adbc

        out = self.folder / f"adbc-{table}.parquet"
        with adbc.connect(self.dsn) as connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {table}")
            reader = cursor.fetch_record_batch()
            with pq.ParquetWriter(out, reader.schema, compression="zstd") as writer:
                for batch in reader:
                    writer.write_batch(batch)
        return out

    def duckdb(self, tables: list[str]) -> dict[str, Any] | None:
        """Return seconds and CPU seconds, or the error, of DuckDB's COPY of each table; None where it is not there."""
        python = project_root() / ".envs" / "peers" / "bin" / "python"
        if not python.exists():
            return None
        command = [str(python), "-c", DUCK, self.dsn, str(self.folder), json.dumps(tables)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def timed(bench: Bench, call: Callable[[], Any]) -> list[float]:
    """Return wall seconds, the client's CPU seconds and the server's."""
    before = set(bench.postmaster.children())
    served, began, busy = bench.served(), time.perf_counter(), time.process_time()
    own = call()
    took = [time.perf_counter() - began, time.process_time() - busy]
    if isinstance(own, dict):
        took = own["bench"]
    psutil.wait_procs(set(bench.postmaster.children()) - before, timeout=5)  # a backend is counted when it has ended
    return [*took, bench.served() - served]


def measure(bench: Bench, times: int) -> dict[str, list[float]]:
    """Return the best turn of each way."""
    ways: dict[str, Callable[[], Any]] = {
        OURS: bench.ours, ONE: lambda: bench.ours(connections=1), DUCKDB: lambda: bench.duckdb(["bench"]),
        CONNECTORX: lambda: bench.connectorx(partition_on="id", partition_num=2), CONNECTORX_ONE: bench.connectorx,
        ADBC: bench.adbc,
    }  # fmt: skip
    if bench.duckdb([]) is None:
        del ways[DUCKDB]
    found: dict[str, list[float]] = {}
    for _ in range(times):
        for name, call in ways.items():
            took = timed(bench, call)
            found[name] = [min(pair) for pair in zip(took, found.get(name, took), strict=True)]
    return found


def fidelity(bench: Bench) -> list[list[str]]:
    """Return for each value easily lost what each way makes of it: exact, aside (kept in quarantine), or what it is."""
    tables = [f"f{number}" for number in range(len(FIDELITY))]
    for table, (kind, literal, _, _) in zip(tables, FIDELITY, strict=True):
        bench.run(
            f"CREATE TABLE {table} (id bigint, t timestamptz, v {kind})",
            f"INSERT INTO {table} VALUES (1, '2026-01-01Z', {literal})",
        )
    ducks = bench.duckdb(tables)
    listed = []
    for table, (kind, literal, column, right) in zip(tables, FIDELITY, strict=True):
        contract = Contract("f", "1", (KEY, TIME, column), "f.yaml", "0" * 64)
        said = [_said(lambda t=table, c=contract: bench.ours(t, c), right)]
        if ducks is not None:
            duck = ducks[table]
            said.append(
                f"refused: {duck}"[:60]
                if isinstance(duck, str)
                else _said(lambda t=table: bench.folder / f"{t}.parquet", right)
            )
        said += [_said(lambda t=table, way=way: way(t), right) for way in (bench.connectorx, bench.adbc)]
        listed.append([f"{kind} {literal}"[:44], *said])
    return listed


def _said(read: Callable[[], Path], right: list[Any]) -> str:
    try:
        path = read()
    except BaseException as error:  # connectorx panics
        return f"refused: {str(error).splitlines()[0] if str(error) else type(error).__name__}"[:44]
    table = pq.read_table(path)
    try:
        (row,) = table.to_pylist()
    except (ValueError, OverflowError):
        column = table.column("v")
        kind = pa.int32() if pa.types.is_date32(column.type) else pa.int64()
        number = column.cast(kind)[0].as_py()
        return "exact" if number in right else f"a number of no calendar: {number}"
    if row.get("_error") is not None:
        return "aside, kept" if json.loads(row["_bytes"])["v"] in right else f"aside as {row['_bytes']!r}"
    value = row["v"]
    if isinstance(value, float) and math.isnan(value):
        return "exact" if NAN in right else "NaN"
    same = any(value == each and isinstance(value, float) == isinstance(each, float) for each in right)
    return "exact" if same else f"changed: {value!r}"[:44]


def figures(found: dict[str, list[float]], rows: int) -> list[dict[str, Any]]:
    """Return the ratios as figures: rows a second of ours over a peer's."""
    listed = []
    for peer, (key, goal) in GOALS.items():
        if peer not in found:
            continue
        ratio, cpu = (found[peer][0] / found[OURS][0], sum(found[peer][1:]) / sum(found[OURS][1:]))
        listed.append(
            {
                "id": key, "what": "rows of 8 columns from Postgres to Parquet", "value": round(rows / found[OURS][0]),
                "unit": "rows/s", "peer": peer, "peer_value": round(rows / found[peer][0]), "ratio": round(ratio, 2),
                "goal": goal, "met": ratio >= goal, "cpu_ratio": round(cpu, 2),
            }
        )  # fmt: skip
    return listed


def plot(found: dict[str, list[float]], rows: int) -> str:
    """Draw rows a second of each; return the file's path."""
    rates = {name: rows / took[0] for name, took in found.items()}
    labels = [f"{rate / 1e6:.2f}M" for rate in rates.values()]
    return bars("postgres", rates, labels, "rows a second from Postgres to Parquet, 8 columns", height=3.2)


def main() -> None:
    """Measure, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="500,000 rows and fewer turns: within a minute")
    asked = parser.parse_args()
    rows, console = (500_000 if asked.quick else 2_000_000), Console(width=160)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, postgres_alone(Path(folder) / "server") as cfg:
        pid = int((Path(folder) / "server" / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
        bench = Bench(cfg.postgres_dsn("flights"), psutil.Process(pid), Path(folder))
        bench.run(*ROWS.format(rows=rows).split(";")[:-1], "VACUUM ANALYZE bench")
        found = measure(bench, 2 if asked.quick else 7)
        table = Table(title=f"{rows:,} rows, load {load:.1f} to {os.getloadavg()[0]:.1f}", title_justify="left")
        for name in ("", "seconds", "CPU: client", "server", "rows/s", "Tidegate is faster", "in CPU"):
            table.add_column(name, justify="right" if name else "left")
        for name, (wall, client, server) in found.items():
            ratios = wall / found[OURS][0], (client + server) / sum(found[OURS][1:])
            table.add_row(
                name, f"{wall:.2f}", f"{client:.2f}", f"{server:.2f}", f"{rows / wall:,.0f}",
                f"{ratios[0]:.2f}x", f"{ratios[1]:.2f}x",
            )  # fmt: skip
        console.print(table)
        if DUCKDB not in found:
            console.print("DuckDB was not there: make env-peers")
        ways = [OURS, *([DUCKDB] if DUCKDB in found else []), CONNECTORX_ONE, ADBC]
        kept = Table("value", *ways, title="What each makes of a value", title_justify="left")
        for line in fidelity(bench):
            kept.add_row(*line)
        console.print(kept)
    console.print(f"plot: {plot(found, rows)}", highlight=False, soft_wrap=True)
    print(json.dumps({"benchmark": "postgres", "quick": asked.quick, "figures": figures(found, rows)}))


if __name__ == "__main__":
    main()
