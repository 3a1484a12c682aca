"""What a JSON message becomes: a raw row, or its bytes and the reason why not."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.contract import Column, Contract
from tidegate.contract.arrow import slice_schema
from tidegate.contract.decode import decode_json

PLACE = Column(
    "place",
    "struct",
    "struct",
    fields=(
        Column("lat", "float64", "float64"),
        Column("tags", "list", "list", items=Column("item", "string", "string")),
    ),
)
RULES = Contract(
    "weather",
    "1",
    (
        Column("origin", "string", "string"),
        Column("temp", "float64", "float64"),
        Column("count", "int32", "int32"),
        Column("ok", "bool", "bool"),
        Column("id", "int64", "int64"),
        Column("price", "decimal", "decimal", digits=(8, 2)),
        Column("at", "timestamp", "timestamp"),
        Column("day", "date", "date"),
        Column("blob", "bytes", "bytes"),
        PLACE,
    ),
    "weather.yaml",
    "0" * 64,
)


def test_a_good_message_becomes_a_row_with_its_position() -> None:
    value = b'{"origin": "JFK", "temp": 39, "count": 3, "ok": true, "unknown": [1]}'
    found = decode_json(value, "weather/0/7", RULES)

    expected = {"origin": "JFK", "temp": 39.0, "count": 3, "ok": True, "_position": "weather/0/7"}
    assert {name: value for name, value in found.items() if value is not None} == expected


def test_a_missing_field_is_null() -> None:
    assert decode_json(b"{}", "p", RULES) == {
        "origin": None,
        "temp": None,
        "count": None,
        "ok": None,
        **dict.fromkeys(("id", "price", "at", "day", "blob", "place")),
        "_position": "p",
    }


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b'{"origin": "JFK"', "not_json"),
        (b"", "not_json"),
        (b"\xff\xfe", "not_utf8"),
        (b"[1]", "not_a_json_object"),
        (b"[" * 100_000, "not_json"),
        (None, "tombstone"),
        (b'{"origin": 5}', "origin_is_no_string"),
        (b'{"origin": "\\ud800"}', "origin_is_no_string"),
        (b'{"temp": "39.02"}', "temp_is_no_float64"),
        (b'{"temp": true}', "temp_is_no_float64"),
        (b'{"temp": 1' + b"0" * 400 + b"}", "temp_is_no_float64"),
        (b'{"count": 1.5}', "count_is_no_int32"),
        (b'{"count": 2147483648}', "count_is_no_int32"),
        (b'{"ok": 1}', "ok_is_no_bool"),
        (b'{"count": 1, "count": 2}', "repeated_key"),
        (b'{"other": {"a": 1, "a": 1}}', "repeated_key"),
        (b'{"temp": NaN}', "nan_or_infinity"),
        (b'{"other": [-Infinity]}', "nan_or_infinity"),
        (b'{"temp": 1e400}', "temp_is_no_float64"),
        (b'{"id": 9223372036854775808}', "id_is_no_int64"),
        (b'{"id": 1.0}', "id_is_no_int64"),
        (b'{"price": 1.005}', "price_is_no_decimal"),
        (b'{"price": 100000000}', "price_is_no_decimal"),
        (b'{"at": "2013-01-01T00:00:00"}', "at_is_no_timestamp"),
        (b'{"at": "2013-01-01T00:00:00.1234567Z"}', "at_is_no_timestamp"),
        (b'{"at": 1357020000}', "at_is_no_timestamp"),
        (b'{"day": "20130101"}', "day_is_no_date"),
        (b'{"blob": "no base64!"}', "blob_is_no_bytes"),
        (b'{"place": [1]}', "place_is_no_struct"),
        (b'{"place": {"tags": ["a", 1]}}', "place.tags[]_is_no_string"),
    ],
)
def test_an_undecodable_message_is_kept_as_bytes_with_the_reason(value: bytes | None, reason: str) -> None:
    assert decode_json(value, "weather/0/7", RULES) == {
        "_position": "weather/0/7",
        "_error": f"undecodable:{reason}",
        "_bytes": value,
    }


def test_each_type_is_read_from_its_own_form() -> None:
    value = (
        b'{"id": -9223372036854775808, "price": 999999.990, "at": "2013-01-01T06:00:00+06:00", "day": "2012-02-29", '
        b'"blob": "/w==", "place": {"lat": 1, "tags": ["a", null]}}'
    )
    found = decode_json(value, "p", RULES)
    row = pa.Table.from_pylist([found], schema=slice_schema(RULES)).to_pylist()[0]

    assert row["id"] == -(2**63)
    assert row["price"] == Decimal("999999.99")
    assert row["at"] == datetime(2013, 1, 1, tzinfo=UTC)
    assert row["day"] == date(2012, 2, 29)
    assert row["blob"] == b"\xff"
    assert row["place"] == {"lat": 1.0, "tags": ["a", None]}


@given(st.binary(max_size=200))
def test_whatever_comes_is_a_row_or_kept_as_it_came(value: bytes) -> None:
    found = decode_json(value, "p", RULES)
    assert found.get("_bytes") == value or "_error" not in found


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.decimals(allow_nan=False).map(str),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["lat", "tags", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(RULES.names), JSON, max_size=5))
def test_what_is_decoded_always_fits_the_slice(message: dict[str, object]) -> None:
    import json

    found = decode_json(json.dumps(message).encode(), "p", RULES)
    assert pa.Table.from_pylist([found], schema=slice_schema(RULES)).num_rows == 1
