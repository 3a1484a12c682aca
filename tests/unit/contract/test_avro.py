"""What an Avro message becomes: a raw row of the contract's types, or its bytes, the reason and the writer's schema."""

from __future__ import annotations

import io
import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import fastavro
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.contract import Column, Contract
from tidegate.contract.arrow import slice_schema
from tidegate.contract.avro import decode_avro, parsed

FIELDS: list[dict[str, Any]] = [
    {"name": "id", "type": "long"},
    {"name": "temp", "type": ["null", "double"]},
    {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 8, "scale": 2}},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    {"name": "local", "type": {"type": "long", "logicalType": "local-timestamp-millis"}},
    {"name": "day", "type": {"type": "int", "logicalType": "date"}},
    {"name": "clock", "type": {"type": "int", "logicalType": "time-millis"}},
    {"name": "kind", "type": {"type": "enum", "name": "kind", "symbols": ["a", "b"]}},
    {"name": "uid", "type": {"type": "string", "logicalType": "uuid"}},
    {"name": "blob", "type": "bytes"},
    {"name": "tags", "type": {"type": "array", "items": "string"}},
    {"name": "place", "type": {"type": "record", "name": "place", "fields": [{"name": "lat", "type": "float"}]}},
    {"name": "unnamed", "type": {"type": "map", "values": "int"}},
]
SCHEMA = json.dumps({"type": "record", "name": "weather", "fields": FIELDS})
COLUMNS = (
    Column("id", "int64", "int64"),
    Column("temp", "float64", "float64"),
    Column("price", "decimal", "decimal", digits=(8, 2)),
    Column("at", "timestamp", "timestamp"),
    Column("local", "local_timestamp", "local_timestamp"),
    Column("day", "date", "date"),
    Column("clock", "time", "time"),
    Column("kind", "string", "string"),
    Column("uid", "string", "string"),
    Column("blob", "bytes", "bytes"),
    Column("tags", "list", "list", items=Column("item", "string", "string")),
    Column("place", "struct", "struct", fields=(Column("lat", "float64", "float64"),)),
    Column("missing", "string", "string"),
)
RULES = Contract("weather", "1", COLUMNS, "weather.yaml", "0" * 64)
ROW = {
    "id": -(2**63), "temp": None, "price": Decimal("123456.78"), "at": datetime(2013, 1, 1, 6, tzinfo=UTC),
    "local": datetime(2013, 1, 1, 6), "day": date(2012, 2, 29), "clock": time(6, 30), "kind": "a",
    "uid": UUID(int=7), "blob": b"\xff", "tags": ["x", ""], "place": {"lat": 0.5},
}  # fmt: skip


def written(record: dict[str, Any], schema: str = SCHEMA, number: int = 7) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, parsed(schema), record)
    return b"\0" + number.to_bytes(4, "big") + out.getvalue()


def decoded(value: bytes | None, contract: Contract = RULES, schema: str | None = SCHEMA) -> dict[str, Any]:
    return decode_avro(value, "w/0/7", contract, lambda number: schema if number == 7 else None)


def test_every_type_is_read_exactly() -> None:
    found = decoded(written({**ROW, "unnamed": {"a": 1}}))
    row = pa.Table.from_pylist([found], schema=slice_schema(RULES)).to_pylist()[0]

    kept = {"missing": None, "uid": str(UUID(int=7)), "_position": "w/0/7", "_error": None, "_bytes": None}
    assert row == {**ROW, **kept}


GOOD = written({**ROW, "unnamed": {}})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "tombstone"),
        (b"", "not_in_wire_format"),
        (b'{"id": 1}', "not_in_wire_format"),
        (b"\0\0\0\0\x08" + GOOD[5:], "schema_8_is_unknown"),
        (GOOD[:-1], "not_avro"),
        (GOOD + b"\0", "not_avro"),
        (GOOD[:5], "not_avro"),
        (GOOD[:5] + b"\xff" * 40, "not_avro"),
    ],
)
def test_an_undecodable_message_is_kept_with_its_schema(value: bytes | None, reason: str) -> None:
    found = decoded(value)
    assert (found["_error"], found["_bytes"]) == (f"undecodable:{reason}", value)
    assert found["_schema"] == (SCHEMA if reason == "not_avro" else None)


@pytest.mark.parametrize(
    ("kind", "value", "column"),
    [
        ("string", "5", Column("v", "int64", "int64")),
        ("double", 5.0, Column("v", "int64", "int64")),
        ("long", 2**31, Column("v", "int32", "int32")),
        ("boolean", True, Column("v", "int32", "int32")),
        ("string", "0.5", Column("v", "float64", "float64")),
        ("bytes", b"a", Column("v", "string", "string")),
        ("string", "YQ==", Column("v", "bytes", "bytes")),
        ("long", 0, Column("v", "timestamp", "timestamp")),
        ({"type": "long", "logicalType": "timestamp-micros"}, 0, Column("v", "local_timestamp", "local_timestamp")),
        ({"type": "long", "logicalType": "timestamp-micros"}, 0, Column("v", "date", "date")),
        ({"type": "long", "logicalType": "timestamp-micros"}, 2**62, Column("v", "timestamp", "timestamp")),
        ({"type": "map", "values": "int"}, {}, Column("v", "list", "list", items=Column("item", "int32", "int32"))),
    ],
)
def test_a_value_of_another_type_is_refused_and_never_cast(kind: Any, value: Any, column: Column) -> None:
    schema = json.dumps({"type": "record", "name": "r", "fields": [{"name": "v", "type": kind}]})
    found = decoded(written({"v": value}, schema), Contract("r", "1", (column,), "r.yaml", "0" * 64), schema)
    assert found["_error"] in (f"undecodable:v_is_no_{column.raw}", "undecodable:not_avro")


def test_schemas_that_use_others_and_schemas_that_are_none() -> None:
    used = json.dumps([FIELDS[11]["type"], {"type": "record", "name": "r", "fields": [{"name": "p", "type": "place"}]}])
    rules = Contract("r", "1", (Column("p", "struct", "struct", fields=COLUMNS[11].fields),), "r.yaml", "0" * 64)
    assert decoded(written({"p": {"lat": 2.0}}, used), rules, used)["p"] == {"lat": 2.0}
    for text in ('"PROTOBUF is no Avro"', "{", '{"type": "record"}', '"long"'):
        found = decoded(b"\0\0\0\0\x07\x02", rules, text)
        assert found["_error"] == "undecodable:" + ("not_an_avro_record" if text == '"long"' else "schema_is_no_avro")


@given(st.binary(max_size=60), st.booleans())
def test_whatever_comes_is_a_row_or_kept_as_it_came(value: bytes, framed: bool) -> None:
    message = GOOD[:5] + value if framed else value
    found = decoded(message)
    assert pa.Table.from_pylist([found], schema=slice_schema(RULES)).num_rows == 1
    assert found.get("_bytes") == message or "_error" not in found
