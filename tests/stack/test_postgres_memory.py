"""A slice of any size is read in 512 MiB: a process of its own reads a wide table of millions of rows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from tidegate.stack.config import StackConfig

pytestmark = [pytest.mark.stack, pytest.mark.nightly]

ROWS, TEXTS, NUMBERS = 3_000_000, 8, 8
LIMIT = 512  # MiB
READER = """
import sys
from tests.peak import peak_mib
from tidegate.contract import Column, Contract
from tidegate.delivery import PostgresSource
from tidegate.handoff import Window
from tidegate.ingest import postgres
from tidegate.ingest.slices import Target, publish
from tidegate.lake import Lake
from tidegate.units import utc

dsn, folder, texts, numbers = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
columns = [Column("id", "int64", "int64", key=1), Column("t", "timestamp", "timestamp", event_time=True)]
columns += [Column(f"s{n}", "string", "string") for n in range(texts)]
columns += [Column(f"n{n}", "decimal", "decimal", digits=(12, 2)) for n in range(numbers)]
contract = Contract("c", "1", tuple(columns), "c.yaml", "0" * 64)
window = Window(start=utc("2026-01-01"), end=utc("2026-02-01"))
target = Target("d", "s", contract, window, Lake(f"file://{folder}"))
spec = PostgresSource(connection="c", table="wide", time="t")
found = publish(target, postgres.reading(spec=spec, dsn=dsn, **vars(target)))
print(found.rows, peak_mib())
"""


@pytest.fixture
def wide(server: StackConfig) -> Iterator[str]:
    dsn = server.postgres_dsn("flights")
    texts = "".join(f", md5((n + {k})::text) || md5(n::text) AS s{k}" for k in range(TEXTS))
    numbers = "".join(f", (n * {k + 1} % 1000000)::numeric(12, 2) / 4 AS n{k}" for k in range(NUMBERS))
    with closing(psycopg2.connect(dsn)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(
                "CREATE UNLOGGED TABLE wide AS SELECT n::bigint AS id, '2026-01-01Z'::timestamptz + n * interval "
                f"'0.5 s' AS t{texts}{numbers} FROM generate_series(1, {ROWS}) n"
            )
            cursor.execute("CREATE INDEX ON wide (t); ANALYZE wide")
            yield dsn
            cursor.execute("DROP TABLE wide")


def test_millions_of_wide_rows_are_read_in_512_mib(wide: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", READER, wide, str(tmp_path), str(TEXTS), str(NUMBERS)], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows, peak = map(int, done.stdout.split())
    print(f"\n{rows:,} rows of {2 + TEXTS + NUMBERS} columns: at most {peak} MiB")
    assert rows == ROWS
    assert peak < LIMIT
