"""Rows of COPY's binary format become rows of a slice, and one bad value takes its own row aside."""

from __future__ import annotations

import json
import struct
from decimal import Context, Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tidegate.contract import Column, Contract
from tidegate.ingest.postgres_binary import Rows
from tidegate.ingest.postgres_columns import Reading
from tidegate.ingest.postgres_rows import table

LAST = 2**63 - 1


def packed(*values: bytes | None) -> bytes:
    parts = [struct.pack(">i", -1) if v is None else struct.pack(">i", len(v)) + v for v in values]
    return struct.pack(">h", len(values)) + b"".join(parts)


def numeric(text: str) -> bytes:
    """Return a number as Postgres sends it: digits to the base 10,000."""
    if text == "NaN":
        return struct.pack(">hhHh", 0, 0, 0xC000, 0)
    plain = text.removeprefix("-")
    before, _, after = plain.partition(".")
    before = before.rjust(-(-len(before) // 4) * 4, "0")
    digits = before + after.ljust(-(-len(after) // 4) * 4, "0")
    places = [int(digits[at : at + 4]) for at in range(0, len(digits), 4)]
    weight = len(before) // 4 - 1
    while places and places[0] == 0:
        places.pop(0)
        weight -= 1
    while places and places[-1] == 0:
        places.pop()
    sign = 0x4000 if text != plain else 0
    return struct.pack(f">hhHh{len(places)}h", len(places), weight if places else 0, sign, len(after), *places)


def rows(lines: list[bytes], *readings: Reading) -> list[dict[str, Any]]:
    contract = Contract("c", "1", tuple(each.column for each in readings), "c.yaml", "0" * 64)
    block = Rows.of(lines, [np.array([len(line)]) for line in lines])
    found: list[dict[str, Any]] = table(block, 5, list(readings), contract).to_pylist()
    return found


def reading(kind: Any, table_type: str, **other: Any) -> Reading:
    return Reading(Column("v", kind, kind, **other), table_type, is_enum=False)


TEXT = Reading(Column("s", "string", "string"), "text", is_enum=False)
MONEY = reading("decimal", "numeric", digits=(20, 2))


def test_a_bad_value_takes_its_own_row_aside_with_all_its_values() -> None:
    lines = [packed(numeric("1"), b"x"), packed(numeric("NaN"), b'"a\nb"'), packed(numeric("-3.25"), None)]
    first, bad, last = rows(lines, MONEY, TEXT)
    assert (str(first["v"]), first["s"], first["_error"], first["_position"]) == ("1.00", "x", None, "row=5")
    assert (bad["v"], bad["s"], bad["_error"]) == (None, None, "undecodable:v_is_no_decimal")
    assert (bad["_bytes"], bad["_position"]) == (b'{"v": "NaN", "s": "\\"a\\nb\\""}', "row=6")
    assert (str(last["v"]), last["s"], last["_error"]) == ("-3.25", None, None)


@pytest.mark.parametrize(
    ("kind", "table_type", "field", "shown"),
    [
        ("date", "date", struct.pack(">i", 2**31 - 1), "infinity"), ("string", "text", b"\xff", "\ufffd"),
        ("date", "date", struct.pack(">i", -2**31), "-infinity"),
        ("timestamp", "timestamptz", struct.pack(">q", -LAST - 1), "-infinity"),
        ("time", "time", struct.pack(">q", 86_400_000_000), "24:00:00"),
        ("int8", "int4", struct.pack(">i", 300), "300"),
        ("decimal", "numeric", numeric("0.0000000001"), "0.0000000001"),
    ],
)  # fmt: skip
def test_a_bad_key_is_the_rows_position_as_it_stands(kind: Any, table_type: str, field: bytes, shown: str) -> None:
    (bad,) = rows([packed(field)], reading(kind, table_type, key=1))
    assert (bad["_position"], bad["v"]) == (f"v={shown}", None)
    assert bad["_error"].startswith("undecodable:v_is_no")


@pytest.mark.parametrize(
    ("kind", "table_type", "field", "shown"),
    [
        ("bool", "bool", b"\x01", "true"), ("time", "time", struct.pack(">q", 43_200_000_000), "12:00:00.000000"),
        ("float64", "float8", struct.pack(">d", 0.5), "0.5"),
        ("decimal", "numeric", numeric("1.5"), "1.500000000"),
        ("bytes", "bytea", b"\x00\xff", "\\x00ff"), ("uint8", "text", b"7", "7"),
        ("timestamp", "timestamptz", struct.pack(">q", 0), "2000-01-01 00:00:00.000000Z"),
        ("list", "_int4", b"[1, 2]", "[1, 2]"),
    ],
)  # fmt: skip
def test_a_key_of_any_type_is_a_position(kind: Any, table_type: str, field: bytes, shown: str) -> None:
    items = Column("item", "int32", "int32") if kind == "list" else None
    (row,) = rows([packed(field)], reading(kind, table_type, key=1, items=items))
    assert (row["_position"], row["_error"]) == (f"v={shown}", None)


def test_a_key_of_two_columns_is_a_position_also_where_one_is_null() -> None:
    second = Reading(Column("s", "string", "string", key=2), "text", is_enum=False)
    found = rows([packed(b"\0\0\0\1", b"a"), packed(None, b"b")], reading("int32", "int4", key=1), second)
    assert [row["_position"] for row in found] == ["v=1 s=a", "v=NULL s=b"]


@pytest.mark.parametrize(("field", "value"), [(None, None), (b"", "")])
def test_null_and_the_empty_text_are_told_apart_also_in_a_row_of_one_column(
    field: bytes | None, value: str | None
) -> None:
    assert [row["s"] for row in rows([packed(field)] * 2, TEXT)] == [value, value]


@given(st.lists(st.none() | st.binary(), min_size=1))
def test_bytes_come_back_as_they_are(values: list[bytes | None]) -> None:
    assert [row["v"] for row in rows([packed(each) for each in values], reading("bytes", "bytea"))] == values


@given(st.lists(st.none() | st.decimals(allow_nan=False, allow_infinity=False, places=2), min_size=1))
def test_numbers_of_any_size_are_exact_or_aside_with_all_their_digits(values: list[Any]) -> None:
    found = rows([packed(None if v is None else numeric(f"{v:f}")) for v in values], MONEY)
    for value, row in zip(values, found, strict=True):
        if value is None or abs(value) < 10**18:
            assert (row["v"], row["_error"]) == (value, None)
        else:
            assert json.loads(row["_bytes"]) == {"v": f"{value:f}"}


@given(st.integers(0, 18), st.lists(st.tuples(st.integers(-(10**20), 10**20), st.integers(0, 24)), min_size=1))
@example(scale=2, values=[(123456789012345678, 2), (7, 2), (-7, 3)])  # over as many groups of digits as there may be
def test_numbers_are_exact_wherever_the_point_is_of_them_and_of_the_column(
    scale: int, values: list[tuple[int, int]]
) -> None:
    numbers = [Decimal(digits).scaleb(-places, Context(prec=50)) for digits, places in values]
    kind = reading("decimal", "numeric", digits=(18, scale))
    found = rows([packed(numeric(f"{number:f}")) for number in numbers], kind)
    for number, row in zip(numbers, found, strict=True):
        scaled = number.scaleb(scale, Context(prec=50))
        fits = scaled == scaled.to_integral_value() and abs(scaled) < 10**18
        assert (row["v"] == number) if fits else (row["v"] is None and row["_error"] is not None)


@given(st.lists(st.none() | st.integers(-LAST - 1, LAST), min_size=1))
def test_any_instant_is_a_value_or_a_row_with_a_reason(moments: list[int | None]) -> None:
    lines = [packed(None if moment is None else struct.pack(">q", moment)) for moment in moments]
    for row, moment in zip(rows(lines, reading("timestamp", "timestamptz")), moments, strict=True):
        assert (row["v"] is None) == (moment is None or row["_error"] is not None)
        assert (row["_bytes"] is None) == (row["_error"] is None)


@given(st.lists(st.binary(max_size=20), min_size=1))
def test_any_bytes_of_a_text_become_a_value_or_a_row_with_a_reason(fields: list[bytes]) -> None:
    lines = [packed(field) for field in fields]
    for kind in ("string", "int32", "float64", "timestamp"):
        found = rows(lines, reading(kind, "text"))
        for field, row in zip(fields, found, strict=True):
            aside = row["_error"] is not None
            assert (row["_bytes"] is not None) == aside == (row["v"] is None)
            if not aside and kind == "string":
                assert row["v"].encode() == field
