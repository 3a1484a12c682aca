"""Lines of COPY's CSV become rows: parsed together, or, where one is bad, decoded so that it alone goes aside."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tidegate.contract import Column, Contract
from tidegate.ingest.postgres_columns import Reading
from tidegate.ingest.postgres_rows import table


def rows(lines: list[bytes], *readings: Reading) -> list[dict[str, Any]]:
    contract = Contract("c", "1", tuple(each.column for each in readings), "c.yaml", "0" * 64)
    found: list[dict[str, Any]] = table(lines, 5, list(readings), contract).to_pylist()
    return found


def reading(kind: Any, table_type: str, **other: Any) -> Reading:
    return Reading(Column("v", kind, kind, **other), table_type, is_enum=False)


def test_a_bad_value_takes_its_own_row_aside_with_its_line() -> None:
    first, bad, last = rows([b"1,x\n", b'NaN,"a\nb"\n', b"3,\n"], reading("decimal", "numeric"), TEXT)
    assert (first["v"], first["s"], first["_error"], first["_position"]) == (1, "x", None, "row=5")
    assert (bad["v"], bad["s"], bad["_error"]) == (None, None, "undecodable:v_is_no_decimal")
    assert (bad["_bytes"], bad["_position"]) == (b'NaN,"a\nb"', "row=6")
    assert (last["v"], last["s"], last["_error"]) == (3, None, None)


TEXT = Reading(Column("s", "string", "string"), "text", is_enum=False)


def test_a_bad_key_is_the_rows_position_as_it_stands() -> None:
    good, bad = rows([b"2013-01-01\n", b"infinity\n"], reading("date", "date", key=1))
    assert (good["_position"], bad["_position"]) == ("v=2013-01-01", "v=infinity")
    good, bad = rows([b"a\n", b"\xff\n"], reading("string", "text", key=1))
    assert (good["_position"], bad["_position"]) == ("v=a", "v=\ufffd")


@pytest.mark.parametrize(
    ("kind", "table_type", "line", "shown"),
    [
        ("bool", "bool", b"t", "true"), ("time", "time", b"12:00:00", "12:00:00.000000"),
        ("float64", "float8", b"0.5", "0.5"),
        ("decimal", "numeric", b"1.5", "1.500000000"),
        ("bytes", "bytea", b"\\x00ff", "\\x00ff"), ("uint8", "text", b"7", "7"),
        ("timestamp", "timestamptz", b"2013-01-01 06:00:00+00", "2013-01-01 06:00:00.000000Z"),
        ("list", "_int4", b'"[1, 2]"', "[1, 2]"),
    ],
)  # fmt: skip
def test_a_key_of_any_type_is_a_position(kind: Any, table_type: str, line: bytes, shown: str) -> None:
    items = Column("item", "int32", "int32") if kind == "list" else None
    (row,) = rows([line + b"\n"], reading(kind, table_type, key=1, items=items))
    assert (row["_position"], row["_error"]) == (f"v={shown}", None)


@pytest.mark.parametrize(("line", "value"), [(b"\n", None), (b'""\n', "")])
def test_null_and_the_empty_text_are_told_apart_also_in_a_row_of_one_column(line: bytes, value: str | None) -> None:
    assert [row["s"] for row in rows([line, line], TEXT)] == [value, value]


@given(st.lists(st.none() | st.binary(), min_size=1))
def test_bytes_come_back_from_their_digits(values: list[bytes | None]) -> None:
    lines = [b"\n" if value is None else b"\\x" + value.hex().encode() + b"\n" for value in values]
    assert [row["v"] for row in rows(lines, reading("bytes", "bytea"))] == values


@given(st.lists(st.binary(max_size=20).filter(lambda text: not set(text) & set(b'",\r\n\\')), min_size=1))
@example([b"\xef\xbb\xbf"])  # a byte order mark that begins a block is a part of its value
def test_any_bytes_become_a_value_or_a_row_with_a_reason(fields: list[bytes]) -> None:
    lines = [field + b"\n" for field in fields]
    for kind, table_type in (("int32", "int4"), ("timestamp", "timestamptz"), ("float64", "text"), ("string", "text")):
        found = rows(lines, reading(kind, table_type))
        assert len(found) == len(lines)
        for line, row in zip(lines, found, strict=True):
            aside = row["_error"] is not None
            assert row["_bytes"] == (line[:-1] if aside else None)
            assert not (aside and row["v"] is not None)
            assert aside or (row["v"] is None) == (line == b"\n")
