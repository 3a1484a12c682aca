"""Reference files: Parquet and CSV become rows of the slice schema with their positions, or a clear error."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidegate.contract import Column, Contract
from tidegate.contract.arrow import slice_schema
from tidegate.errors import DataError
from tidegate.ingest.hdfs import File, _list, decode

CSV_RULES = Contract(
    "airports",
    "1",
    (Column("faa", "string", "string"), Column("alt", "string", "int32", lexical_form=r"\d+")),
    "airports.yaml",
    "0" * 64,
)
PARQUET_RULES = Contract("planes", "1", (Column("seats", "int32", "int32"),), "planes.yaml", "0" * 64)


def parquet(table: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def test_csv_keeps_texts_as_they_are_and_tells_null_from_empty() -> None:
    found = decode("/r/a.csv", b'alt,faa,other\n007,"",x\n,JFK,y\n', CSV_RULES)

    assert found.schema == slice_schema(CSV_RULES)
    rows = [{name: row[name] for name in ("faa", "alt", "_position")} for row in found.to_pylist()]
    assert rows == [
        {"faa": "", "alt": "007", "_position": "/r/a.csv#0"},
        {"faa": "JFK", "alt": None, "_position": "/r/a.csv#1"},
    ]


def test_a_csv_line_of_the_wrong_width_is_kept_with_its_place_and_its_text() -> None:
    found = decode("/r/a.csv", b"faa,alt\nJFK,13\nLGA,22,7\nEWR,18\nBOS\n", CSV_RULES).to_pylist()

    assert [(row["faa"], row["_position"]) for row in found if row["_error"] is None] == [
        ("JFK", "/r/a.csv#0"),
        ("EWR", "/r/a.csv#2"),
    ]
    assert [(row["_position"], row["_error"], row["_bytes"]) for row in found if row["_error"]] == [
        ("/r/a.csv#1", "undecodable:3_fields_for_2", b"LGA,22,7"),
        ("/r/a.csv#3", "undecodable:1_fields_for_2", b"BOS"),
    ]


def test_parquet_is_read_with_positions_and_narrowed_only_without_loss() -> None:
    found = decode("/r/p.parquet", parquet(pa.table({"seats": pa.array([55, None], pa.int64())})), PARQUET_RULES)

    assert found.column("seats").to_pylist() == [55, None]
    assert found.column("_position").to_pylist() == ["/r/p.parquet#0", "/r/p.parquet#1"]
    with pytest.raises(DataError, match=r"/r/p\.parquet is not what planes\.yaml says"):
        decode("/r/p.parquet", parquet(pa.table({"seats": [2**40]})), PARQUET_RULES)


def test_a_file_without_a_column_of_the_contract_is_refused() -> None:
    with pytest.raises(DataError, match="seats"):
        decode("/r/p.parquet", parquet(pa.table({"chairs": [1]})), PARQUET_RULES)
    with pytest.raises(DataError, match="alt"):
        decode("/r/a.csv", b"faa\nJFK\n", CSV_RULES)


@pytest.mark.parametrize("name", ["/r/p.parquet", "/r/a.csv"])
def test_a_file_that_cannot_be_read_is_named(name: str) -> None:
    with pytest.raises(DataError, match="not what"):
        decode(name, b"", PARQUET_RULES if name.endswith("parquet") else CSV_RULES)


class FakeFs:
    def __init__(self, files: dict[str, int]):
        self.files = files

    def exists(self, path: str) -> bool:
        return any(name.startswith(path) for name in self.files)

    def find(self, path: str, detail: bool) -> dict[str, dict[str, int]]:
        return {name: {"size": size, "modification_time": 1000} for name, size in self.files.items()}


def test_the_list_is_sorted_and_leaves_out_what_is_hidden_or_being_written() -> None:
    fs = FakeFs({"/r/b.csv": 2, "/r/a.parquet": 1, "/r/_SUCCESS": 0, "/r/.tmp/c.csv": 3, "/r/d.parquet.crc": 4})

    assert _list(fs, "/r") == [File("/r/a.parquet", 1, 1000), File("/r/b.csv", 2, 1000)]


def test_a_missing_path_is_named_with_the_remedy() -> None:
    with pytest.raises(DataError, match="HDFS has no path /r; create it"):
        _list(FakeFs({}), "/r")
