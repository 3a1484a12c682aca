"""Files as tables of a slice: each row once, as its values or as its bytes with the reason, or a named error."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tidegate.contract import Column, Contract, texts
from tidegate.contract.arrow import slice_schema
from tidegate.errors import DataError
from tidegate.files import commas, form_of, lines, read_file

RULES = Contract(
    "things",
    "1",
    (
        Column("name", "string", "string"),
        Column("n", "int64", "int64"),
        Column("x", "float64", "float64"),
        Column("at", "timestamp", "timestamp"),
    ),
    "things.yaml",
    "0" * 64,
)
HEADER = b"name,n,x,at\n"


def rows(path: Path, contract: Contract = RULES) -> list[dict[str, Any]]:
    tables = list(read_file(path, contract))
    assert all(table.schema == slice_schema(contract) for table in tables)
    return [row for table in tables for row in table.to_pylist()]


def written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(data))
    elif name.endswith(".zst"):
        with pa.output_stream(str(path), compression="zstd") as out:
            out.write(data)
    else:
        path.write_bytes(data)
    return path


def one(**values: Any) -> dict[str, Any]:
    return {**dict.fromkeys(("name", "n", "x", "at", "_position", "_error", "_bytes")), **values}


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.csv.zst"])
def test_csv_is_read_with_its_lines(tmp_path: Path, name: str) -> None:
    data = HEADER + b'"a ""b""\nc",1,0.5,2013-01-01T00:00:00Z\r\n\n"",-2,,\n'
    assert rows(written(tmp_path, name, data)) == [
        one(name='a "b"\nc', n=1, x=0.5, at=datetime(2013, 1, 1, tzinfo=UTC), _position=f"{name}:2"),
        one(name="", n=-2, _position=f"{name}:5"),
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.ndjson.zst"])
def test_json_lines_are_read_with_their_lines(tmp_path: Path, name: str) -> None:
    found = rows(written(tmp_path, name, b'{"name": "a", "n": 1}\n\n{"x": 2}'))
    assert found == [one(name="a", n=1, _position=f"{name}:1"), one(x=2.0, _position=f"{name}:3")]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"a,1,2", "3_fields_for_4"),
        (b"a,1,2,,5", "5_fields_for_4"),
        (b"\xff,1,2,", "not_utf8"),
        (b"\xff,1,2", "not_utf8"),
        (b"\xff,\xfe", "not_utf8"),
        (b"a,1.5,2,", "n_is_no_int64"),
        (b"a,0x10,2,", "n_is_no_int64"),
        (b"a,9223372036854775808,2,", "n_is_no_int64"),
        (b"a,1,two,", "x_is_no_float64"),
        (b"a,1,2,2013-02-30T00:00:00Z", "at_is_no_timestamp"),
        (b"a,1,2,2013-01-01T00:00:00", "at_is_no_timestamp"),
        (b"a\rb,1,2,", "no_csv_record"),
        (b',\r"a,1,2,', "no_csv_record"),
    ],
)
def test_a_csv_record_that_cannot_be_read_is_kept_as_its_bytes_with_its_line(
    tmp_path: Path, record: bytes, reason: str
) -> None:
    found = rows(written(tmp_path, "a.csv", HEADER + b"a,1,2,\n" + record + b"\nb,2,3,\n"))

    assert found[1] == one(_position="a.csv:3", _error=f"undecodable:{reason}", _bytes=record)
    assert [row["name"] for row in found] == ["a", None, "b"]


def test_a_quote_inside_a_field_is_a_character_and_swallows_nothing(tmp_path: Path) -> None:
    data = HEADER + b'5" pipe,1,2,\nb,2,3,\n"c,\n"",d",3,4,\n'
    assert [row["name"] for row in rows(written(tmp_path, "a.csv", data))] == ['5" pipe', "b", 'c,\n",d']


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize(
    "last", [b'e,"f\ng,h', b',,\re,"f\ng,h']
)  # the latter equals, at first, the parser's last line
def test_a_quote_that_is_never_closed_swallows_no_line_as_a_value(tmp_path: Path, last: bytes, end: bytes) -> None:
    names = Contract("t", "1", (Column("a", "string", "string"), Column("b", "string", "string")), "t.yaml", "0" * 64)
    found = rows(written(tmp_path, "a.csv", b"a,b\nc,d\n" + last + end), names)
    assert [(row["b"], row["_error"], row["_bytes"]) for row in found] == [
        ("d", None, None), (None, "undecodable:no_csv_record", last),
    ]  # fmt: skip


def test_a_block_may_end_in_a_quoted_field_after_a_quote_that_is_a_character(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = HEADER + b'5" pipe,1,2,\n"c,\n', b' d",3,4,\n'
    monkeypatch.setattr(commas, "chunks", lambda *_: iter([first, second]))
    assert [row["name"] for row in rows(written(tmp_path, "a.csv", first + second))] == ['5" pipe', "c,\n d"]


def test_records_are_cut_alike_wherever_the_blocks_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = HEADER + b'"a\n,""b",1,2,\r\nc,2\n\n"d\xc3\xa4",3,4,\n' * 20
    whole = rows(written(tmp_path, "a.csv", data))
    for size in (1, 2, 3, 7, 50):
        blocks = [data[at : at + size] for at in range(0, len(data), size)]
        monkeypatch.setattr(commas, "chunks", lambda *_, blocks=blocks: iter(blocks))
        assert rows(tmp_path / "a.csv") == whole
    assert len(whole) == 60


def test_a_json_line_longer_than_memory_allows_is_kept_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST", 100)
    monkeypatch.setattr(lines, "_KEPT", 10)
    data = b'{"name": "' + b"a" * 200 + b'"}\n{"n": 1}\n'
    blocks = [data[at : at + 30] for at in range(0, len(data), 30)]
    monkeypatch.setattr(lines, "chunks", lambda *_: iter(blocks))
    found = rows(written(tmp_path, "a.jsonl", data))

    assert found[0]["_bytes"] == b'{"name": "'
    assert "longer_than" in found[0]["_error"]
    assert found[1]["n"] == 1


def test_parquet_is_read_with_its_row_numbers_and_other_types_are_kept_out_row_by_row(tmp_path: Path) -> None:
    table = pa.table(
        {
            "at": pa.array([0, 1_500_000_001], pa.timestamp("ns", tz="Europe/Berlin")),
            "name": pa.array(["a", "b"]).dictionary_encode(),
            "n": pa.array(["1", None]),
            "x": pa.array([1, 2], pa.int32()),
            "unknown": [1, 2],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    found = rows(tmp_path / "a.parquet")

    assert found == [
        one(_position="a.parquet#0", _error="undecodable:n_is_no_int64"),
        one(_position="a.parquet#1", _error="undecodable:at_is_no_timestamp"),
    ]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"", "is empty: 0 bytes"),
        ("a.jsonl", b"", "is empty: 0 bytes"),
        ("a.csv.gz", gzip.compress(b""), "no header line"),
        ("a.jsonl.gz", gzip.compress(b""), "holds nothing"),
        ("a.parquet", b"PAR1 and then nothing", "cannot be read as .parquet"),
        ("a.csv", b"name,n,at\n", "no column x"),
        ("a.csv", b"name,n,x,at,n\n", "two columns n"),
        ("a.xml", b"<a/>", "says neither"),
        ("a.parquet.gz", b"..", "says neither"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_an_error_that_names_it(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        rows(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv.zst", "a.parquet"])
def test_a_truncated_file_is_an_error_and_no_short_slice(tmp_path: Path, name: str) -> None:
    if name.endswith(".parquet"):
        path = tmp_path / name
        pq.write_table(pa.Table.from_pylist([{"name": "a", "n": 1, "x": 1.0}] * 100), path)
    else:
        path = written(tmp_path, name, HEADER + b"a,1,2,\n" * 10_000)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"cannot be read.*write it anew"):
        rows(path)


def test_names_say_format_and_compression() -> None:
    assert form_of(Path("x/2013.01.csv.GZ")) == (".csv", "gzip")
    assert form_of(Path("a.json")) == (".json", None)


TEXTS = st.text(alphabet=st.sampled_from("ab\",\n\r\x00ä ;'"), max_size=6)


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=8))
def test_what_pythons_csv_writes_is_read_back_as_it_was(
    tmp_path_factory: Any, written_rows: list[tuple[str, str]]
) -> None:
    two = Contract("t", "1", (Column("a", "string", "string"), Column("b", "string", "string")), "t.yaml", "0" * 64)
    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([("a", "b"), *written_rows])
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(out.getvalue().encode())

    assert [(row["a"], row["b"]) for row in rows(path, two)] == written_rows


PIECES = (b'"', b'""', b",", b"\n", b"\r", b"\r\n", b"a", b"1", b"-2", b"+3", b"0x1", b" ", "ä".encode(), b"\xff")


@contextmanager
def slow_ways(*, one_by_one: bool) -> Iterator[None]:
    """Take no line for a record unseen and cast no text unseen; or, besides, have each record parsed alone."""
    are = commas._Records.are
    with (
        mock.patch.object(commas._Records, "of_lines", return_value=None),
        mock.patch.object(texts, "_CAST_AS_FORMED", {}),
        mock.patch.object(
            commas._Records, "are", lambda cut, fields: are(cut, fields) and (len(fields) == 1 or not one_by_one)
        ),
    ):
        yield


@given(st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join), st.integers(1, 12), st.booleans())
@example(b'a\rb\n"x\ny",1\n', 5, False)  # as many newlines as the parser finds records, and neither is the other's end
@example(b'x,\r"a\nb",1\n', 5, True)  # as many records as the parser finds, and they are others
def test_the_fast_ways_through_a_csv_file_and_the_slow_one_lead_to_the_same_rows(
    tmp_path_factory: Any, data: bytes, size: int, one_by_one: bool
) -> None:
    two = Contract("t", "1", (Column("a", "string", "string"), Column("n", "int64", "int64")), "t.yaml", "0" * 64)
    data = b"a,n\n" + data
    path = written(tmp_path_factory.mktemp("csv"), "a.csv", data)
    fast = rows(path, two)
    with slow_ways(one_by_one=one_by_one):
        assert rows(path, two) == fast
    blocks = [data[at : at + size] for at in range(0, len(data), size)]
    with mock.patch.object(commas, "chunks", return_value=blocks):
        assert rows(path, two) == fast


@given(st.binary(max_size=120), st.sampled_from(["a.csv", "a.jsonl"]))
def test_whatever_bytes_come_only_rows_kept_bytes_or_a_named_error_come_out(
    tmp_path_factory: Any, data: bytes, name: str
) -> None:
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes((HEADER if name == "a.csv" else b"") + data)
    try:
        found = rows(path)
    except DataError as error:
        found = []
        named = str(path) in str(error)
    else:
        named = True
    assert named
    assert all(row["_error"] is None or row["_bytes"] is not None for row in found)
