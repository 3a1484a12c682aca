"""The SELECT sees its sources and nothing else, keeps within its memory, spills to disk and leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidegate.dataset import select
from tidegate.dataset.engine import Engine, opened
from tidegate.delivery import DatasetSpec
from tidegate.errors import DataError, NoSpace, SpecError
from tidegate.units import utc

SECRET = pa.table({"secret": [1]})


def spec(**settings: Any) -> DatasetSpec:
    return DatasetSpec(sql="d.sql", label="late", event_time="t", **settings)


def run(folder: Path, sql: str, rows: Any = None, **settings: Any) -> Any:
    (folder / "d.sql").write_text(sql)
    table = (
        rows if rows is not None else pa.table({"t": [utc("2013-01-01")] * 3, "late": [0, 1, 0], "x": [1.0, 2.0, 3.0]})
    )
    return select({"rows": table}, folder / "d.sql", spec(**settings))


@pytest.mark.parametrize(
    "source",
    [
        "read_csv('/etc/passwd')",
        "read_text('/etc/passwd')",
        "'/etc/passwd'",
        "glob('/etc/*')",
        "read_parquet('{folder}/other.parquet')",
        "'http://127.0.0.1:9/a.parquet'",
        "SECRET",
        "secret_table",
    ],
)
def test_the_select_reads_no_other_file_no_network_and_no_variable(tmp_path: Path, source: str) -> None:
    secret_table = SECRET
    pq.write_table(secret_table, tmp_path / "other.parquet")
    pq.write_table(secret_table, tmp_path / "rows.parquet")
    with opened({"rows": [tmp_path / "rows.parquet"]}) as engine:
        assert engine.one("SELECT * FROM rows") == (1,)
        with pytest.raises(Exception, match=r"disabled by configuration|does not exist|No function"):
            engine.one(f"SELECT * FROM {source.format(folder=tmp_path)}")


@pytest.mark.parametrize(
    "setting", ["memory_limit = '9GB'", "enable_external_access = true", "allowed_paths = ['/etc']"]
)
def test_nothing_in_it_can_be_set_again(tmp_path: Path, setting: str) -> None:
    with opened({}) as engine, pytest.raises(Exception, match=r"locked|disabled"):
        engine.connection.execute(f"SET {setting}")


def test_slices_of_an_older_contract_lack_a_column_and_are_read_with_nulls(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"b": ["x"], "a": [2]}), tmp_path / "2.parquet")
    with opened({"rows": [tmp_path / "1.parquet", tmp_path / "2.parquet"]}) as engine:
        assert engine.connection.execute("SELECT a, b FROM rows ORDER BY a").fetchall() == [(1, None), (2, "x")]


def test_a_path_with_quotes_is_a_path(tmp_path: Path) -> None:
    odd = tmp_path / "it's a=b [1] *.parquet"
    pq.write_table(pa.table({"a": [1]}), odd)
    with opened({'odd "name"': [odd]}) as engine:
        assert engine.one('SELECT a FROM "odd ""name"""') == (1,)


@pytest.mark.parametrize(
    ("sql", "line", "said"),
    [
        ("SELECT t, late,\n random() AS x FROM rows", 2, r"answers differently each time.*random"),
        ("SELECT t, late, x + year(now()) AS x FROM rows", 1, "now"),
        ("SELECT t, late,\n\n x + year(current_date) AS x FROM rows", 3, "current_date"),
        ("SELECT t, late, x FROM rows USING SAMPLE 50%", 1, "a sample differs"),
        ("SELECT t, late, x\nFROM (SELECT * FROM rows\nORDER BY uuid())", 3, "uuid"),
    ],
)
def test_what_answers_differently_each_time_is_refused_at_its_line(
    tmp_path: Path, sql: str, line: int, said: str
) -> None:
    with pytest.raises(SpecError, match=said) as refused:
        run(tmp_path, sql)
    assert f"d.sql:{line}:" in str(refused.value)


def test_a_value_that_cannot_be_computed_is_said_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"d\.sql:\d+: .*Could not convert string 'no number'"):
        run(tmp_path, "SELECT t, late, (CASE WHEN x > 2 THEN 'no number' ELSE '1' END)::INT AS x FROM rows")


def test_more_than_memory_that_cannot_spill_is_said_with_the_remedy(tmp_path: Path) -> None:
    sql = "SELECT t, late, length(s) AS x FROM rows, (SELECT string_agg(repeat('x', 1000), '') AS s FROM range(200000))"
    with pytest.raises(DataError, match=r"does not fit in 64MB.*raise dataset\.memory"):
        run(tmp_path, sql, memory="64MB")


def test_a_value_that_cannot_be_computed_is_said_between_two_batches_too() -> None:
    rows = "SELECT CASE WHEN i = 500000 THEN error('odd') ELSE i::VARCHAR END AS x FROM range(1000000) r(i)"
    with opened({}) as engine:
        batches = engine.batches(rows, 65536)
        assert next(batches).num_rows == 65536
        with pytest.raises(duckdb.Error, match="odd"):
            list(batches)


@pytest.mark.parametrize(
    ("said", "kind", "remedy"),
    [
        ("Out of Memory Error: failed to pin block of size 256.0 KiB", DataError, r"raise dataset\.memory"),
        ("IO Error: Could not write file", NoSpace, "free disk space"),
    ],
)
def test_memory_or_disk_that_ends_between_two_batches_is_named(said: str, kind: type[Exception], remedy: str) -> None:
    def some() -> Iterator[Any]:
        yield pa.record_batch({"x": [1]})
        raise OSError(said)  # as Arrow says it: seen with a join and a sort of six million rows in 128MB

    result = SimpleNamespace(to_arrow_reader=lambda _rows: some())
    with pytest.raises(kind, match=remedy), opened({}):
        list(Engine(SimpleNamespace(sql=lambda _query: result), {}).batches("SELECT", 1))


_FULL = """
import resource, sys
from tidegate.dataset.engine import Engine, opened
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
with opened({}, "64MB") as engine:
    rows = "SELECT hash(i) AS h, repeat('x', 100) AS s FROM range(3000000) r(i) ORDER BY h"
    for table in engine.batches(rows, 65536):
        pass
"""


def test_a_disk_that_takes_no_more_is_tried_again_later_and_the_place_is_named() -> None:
    done = subprocess.run([sys.executable, "-c", _FULL], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert "NoSpace: rows beyond dataset.memory go to " in last
    assert last.endswith("free disk space, or set TMPDIR")


# a child process, so that its peak memory is its own: it sorts four times what DuckDB may hold
_CHILD = """
import json, sys
from pathlib import Path
from tests.peak import peak_mib
from tidegate.dataset import engine
from tidegate.dataset.parts import write_parts
from tidegate.dataset.query import prepare
from tidegate.delivery import DatasetSpec
from tidegate.handoff import Window
from tidegate.units import utc
import pyarrow as pa

folder, rows, memory = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
sql = folder / "d.sql"
sql.write_text(
    "SELECT TIMESTAMP '2013-01-01' + to_seconds((i * 7919) % 7776000) AS t, i % 7 = 0 AS late, "
    "hash(i)::DOUBLE AS a, hash(i + 1)::DOUBLE AS b, hash(i + 2)::DOUBLE AS c, hash(i + 3)::VARCHAR AS d, "
    f"hash(i + 4)::VARCHAR AS e FROM range({rows}) r(i)"
)
spec = DatasetSpec(sql="d.sql", label="late", event_time="t", memory=memory, leakage={"allow": list("abcde")})
window = Window(start=utc("2013-01-01"), end=utc("2013-04-01"))
with engine.opened({}, memory) as opened:
    query = prepare(opened, sql, spec)
    place = query.schema.get_field_index("late")
    schema = query.schema.set(place, pa.field("late", pa.int8()))
    spilled = []
    def tables():
        spill = Path(opened.one("SELECT current_setting('temp_directory')")[0])
        for table in query.batches():
            spilled.append(sum(path.stat().st_size for path in spill.rglob("*")))
            yield table
    train, test = folder / "train.parquet", folder / "test.parquet"
    counts = write_parts(tables(), schema, "t", window, utc("2013-03-01"), train, test)
told = {"peak_mib": peak_mib(), "spilled_mib": max(spilled) / 2**20, "train": counts.train, "test": counts.test}
print(json.dumps(told))
"""


def built(folder: Path, rows: int, memory: str) -> dict[str, Any]:
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(folder), str(rows), memory], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)  # and nothing else on it: no progress bar
    return found


def test_rows_beyond_memory_spill_to_disk_and_make_the_same_bytes(tmp_path: Path) -> None:
    small, large = built(tmp_path / "small", 1_000_000, "64MB"), built(tmp_path / "large", 1_000_000, "2GB")
    assert small["spilled_mib"] > 32
    assert large["spilled_mib"] == 0
    assert small["peak_mib"] < min(512, large["peak_mib"])
    assert small["train"] + small["test"] == 1_000_000
    for name in ("train.parquet", "test.parquet"):
        assert (tmp_path / "small" / name).read_bytes() == (tmp_path / "large" / name).read_bytes()
    groups = pq.ParquetFile(tmp_path / "small" / "train.parquet").metadata
    assert [groups.row_group(n).num_rows for n in range(2)] == [65536, 65536]


@pytest.mark.nightly
def test_a_dataset_of_gigabytes_stays_within_512_mib(tmp_path: Path) -> None:
    found = built(tmp_path / "rows", 15_000_000, "128MB")
    print(found)
    assert found["peak_mib"] < 512
    assert found["spilled_mib"] > 1024
    assert found["train"] + found["test"] == 15_000_000
