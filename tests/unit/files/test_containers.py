"""Avro container files and TFRecord: each record once, as its values or as its bytes with the reason."""

from __future__ import annotations

import io
import json
import struct
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.files.written import example, framed, tfrecords
from tidegate.contract import Column, Contract
from tidegate.contract.arrow import slice_schema
from tidegate.errors import DataError
from tidegate.files import read_file, tfrecord
from tidegate.files.sample import sample

RULES = Contract(
    "things", "1",
    (
        Column("name", "string", "string"), Column("n", "int32", "int32"), Column("x", "float64", "float64"),
        Column("at", "timestamp", "timestamp"), Column("raw", "bytes", "bytes"), Column("ok", "bool", "bool"),
        Column("day", "date", "date"), Column("clock", "time", "time"),
        Column("price", "decimal", "decimal", digits=(9, 2)),
        Column("many", "list", "list", items=Column("item", "int64", "int64")),
    ),
    "things.yaml", "0" * 64,
)  # fmt: skip
FIELDS = [
    {"name": "name", "type": ["null", "string"]}, {"name": "n", "type": ["null", "long"]},
    {"name": "x", "type": ["null", "double"]},
    {"name": "at", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}]},
    {"name": "raw", "type": ["null", "bytes"]}, {"name": "ok", "type": ["null", "boolean"]},
    {"name": "day", "type": ["null", {"type": "int", "logicalType": "date"}]},
    {"name": "clock", "type": ["null", {"type": "long", "logicalType": "time-micros"}]},
    {"name": "price", "type": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}]},
    {"name": "many", "type": ["null", {"type": "array", "items": "long"}]},
    {"name": "other", "type": ["null", "string", "bytes", {"type": "map", "values": "string"}]},
]  # fmt: skip
SCHEMA = {"type": "record", "name": "thing", "fields": FIELDS}
FULL = {
    "name": "ä", "n": 7, "x": 0.5, "at": datetime(2026, 1, 1, tzinfo=UTC), "raw": b"\xff", "ok": True,
    "day": date(2026, 1, 2), "clock": time(1, 2, 3, 4), "price": Decimal("1.50"), "many": [1, 2],
}  # fmt: skip
EMPTY = dict.fromkeys(FULL)


def rows(path: Path, contract: Contract = RULES) -> list[dict[str, Any]]:
    tables = list(read_file(path, contract))
    assert all(table.schema == slice_schema(contract) for table in tables)
    return [row for table in tables for row in table.to_pylist()]


def row(**values: Any) -> dict[str, Any]:
    return {**EMPTY, "_position": None, "_error": None, "_bytes": None, **values}


def avro_file(records: list[dict[str, Any]], codec: str = "null", schema: Any = SCHEMA) -> bytes:
    out = io.BytesIO()
    fastavro.writer(
        out, fastavro.parse_schema(json.loads(json.dumps(schema))), records, codec=codec, sync_marker=b"s" * 16
    )
    return out.getvalue()


def container(schema: Any, codec: str, *blocks: tuple[int, bytes]) -> bytes:
    """Return a file written by hand: its blocks are (records, packed bytes)."""
    head = avro_file([], schema=schema).replace(b"\x08null", bytes([2 * len(codec)]) + codec.encode())
    return head + b"".join(number(count) + number(len(data)) + data + b"s" * 16 for count, data in blocks)


def number(value: int) -> bytes:
    left, out = value << 1 ^ value >> 63, b""
    while left > 0x7F:
        out, left = out + bytes([left & 0x7F | 0x80]), left >> 7
    return out + bytes([left])


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2", "xz"])
def test_avro_is_read_with_its_row_numbers_and_types(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "a.avro"
    path.write_bytes(avro_file([FULL, {"n": 2**40}, {"x": float("nan")}, {}], codec))
    found = rows(path)

    assert found[0] == row(**FULL, _position="a.avro#0")
    assert (found[1]["_error"], found[1]["_position"]) == ("undecodable:n_is_no_int32", "a.avro#1")
    assert found[1]["_bytes"] == avro_file([{"n": 2**40}]).split(b"s" * 16)[1][2:]
    assert np.isnan(found[2]["x"])
    assert found[3] == row(_position="a.avro#3")


@pytest.mark.parametrize("codec", ["snappy", "zstandard"])
def test_avro_as_hadoop_writes_it_is_unpacked(tmp_path: Path, codec: str) -> None:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(SCHEMA), FULL)
    body = out.getvalue()
    if codec == "snappy":
        import zlib

        packed = pa.compress(body, "snappy", asbytes=True) + struct.pack(">I", zlib.crc32(body))
    else:
        packed = pa.compress(body, "zstd", asbytes=True)
    path = tmp_path / "a.avro"
    path.write_bytes(container(SCHEMA, codec, (1, packed)))
    assert rows(path) == [row(**FULL, _position="a.avro#0")]
    path.write_bytes(container(SCHEMA, codec, (1, packed[:-2])))
    with pytest.raises(DataError, match=f"cannot be unpacked by {codec}"):
        rows(path)


def test_an_avro_value_that_no_type_has_costs_its_own_row(tmp_path: Path) -> None:
    schema = {**SCHEMA, "fields": [{"name": f["name"], "type": "string"} if f["name"] == "name" else f for f in FIELDS]}
    plain = json.loads(
        json.dumps(schema).replace('"logicalType": "timestamp-micros"', '"doc": ""').replace('"string"', '"bytes"', 1)
    )
    plain["fields"][-1] = FIELDS[-1]
    data = avro_file([{"name": b"\xff"}, {"name": b"a"}, {"name": b"b", "at": 2**62}], schema=plain)
    start = data.index(b"s" * 16)
    path = tmp_path / "a.avro"
    path.write_bytes(avro_file([], schema=schema) + data[start + 16 :])

    assert [(each["name"], each["_error"], each["_bytes"] is None) for each in rows(path)] == [
        (None, "undecodable:no_such_value", False), ("a", None, True), (None, "undecodable:no_such_value", False),
    ]  # fmt: skip


NOTHINGS = {"name": "z", "type": {"type": "array", "items": "null"}}
WHOLE = avro_file([FULL] * 3)
BLOCK = len(avro_file([]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"Obj\x02" + WHOLE[4:], "does not begin as an Avro container"),
        (WHOLE[:-1], "it ends at byte"),
        (WHOLE[: BLOCK + 9], "it ends at byte"),
        (WHOLE[:-1] + b"t", "does not end as it should"),
        (WHOLE[:BLOCK] + b"\x04" + WHOLE[BLOCK + 1 :], "holds more than its 2 records"),
        (WHOLE[:BLOCK] + b"\x08" + WHOLE[BLOCK + 1 :], "holds what its schema does not say"),
        (container(SCHEMA, "null", (10**9, b"\0\0")), "cannot hold 1000000000 records in 2 bytes"),
        (WHOLE[:BLOCK] + b"\x02" + number(1 << 40), "a length of 1099511627776 bytes"),
        (container(SCHEMA, "deflate", (1, b"\xff\xff")), "cannot be unpacked by deflate"),
        (container(SCHEMA, "lzo1", (1, b"")), "codec 'lzo1' is not known here; write it with one of bzip2, deflate"),
        (avro_file([], schema={**SCHEMA, "fields": FIELDS[1:]}), "has no column name, but n, x"),
        (avro_file([], schema={"type": "array", "items": "long"}), "its schema is none: it is of no records"),
        (avro_file([], schema={**SCHEMA, "fields": [*FIELDS, NOTHINGS]}), "lists of nothing"),
        (WHOLE.replace(b'"type": "record"', b'"type": "recorD"'), "its schema is none"),
    ],
)  # fmt: skip
def test_an_avro_file_that_cannot_be_read_is_named_with_the_place(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.avro"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        rows(path)
    assert str(path) in str(caught.value)


def test_an_avro_block_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    import zlib

    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(bytes(100 << 20)) + packer.flush()
    path = tmp_path / "a.avro"
    path.write_bytes(container(SCHEMA, "deflate", (1, packed)))
    with pytest.raises(DataError, match="is of more than 33554432 bytes; write smaller blocks"):
        rows(path)


MICROS = 1_767_225_600_000_000
FEATURES: dict[str, list[Any]] = {
    "name": ["ä".encode()], "n": [7], "x": [0.5], "at": [MICROS], "raw": [b"\xff"], "ok": [1], "day": [20455],
    "clock": [3_723_000_004], "price": [b"1.50"], "many": [1, 2],
}  # fmt: skip


@pytest.mark.parametrize("name", ["a.tfrecord", "a.tfrecords", "a.tfrecord.gz"])
def test_tfrecord_is_read_with_its_record_numbers_and_types(tmp_path: Path, name: str) -> None:
    data = tfrecords([FEATURES, {"unknown": [1]}, {"n": []}])
    with pa.output_stream(str(tmp_path / name), compression="gzip" if name.endswith(".gz") else None) as out:
        out.write(data)
    assert rows(tmp_path / name) == [
        row(**FULL, _position=f"{name}#0"), row(many=[], _position=f"{name}#1"), row(many=[], _position=f"{name}#2"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        ({"n": [1, 2]}, "n_is_no_int32"),
        ({"n": [2**40]}, "n_is_no_int32"),
        ({"n": [b"1"]}, "n_is_no_int32"),
        ({"name": [1]}, "name_is_no_string"),
        ({"name": [b"\xff"]}, "name_is_no_string"),
        ({"x": [b"1"]}, "x_is_no_float64"),
        ({"at": [2**62]}, "at_is_no_timestamp"),
        ({"ok": [2]}, "ok_is_no_bool"),
        ({"day": [10**9]}, "day_is_no_date"),
        ({"clock": [86_400_000_000]}, "clock_is_no_time"),
        ({"price": [1.5]}, "price_is_no_decimal"),
        ({"price": [b"1.555"]}, "price_is_no_decimal"),
        ({"many": [b"a"]}, "many[]_is_no_int64"),
    ],
)
def test_a_feature_that_is_no_value_costs_its_own_row(tmp_path: Path, features: dict[str, Any], reason: str) -> None:
    path = tmp_path / "a.tfrecord"
    path.write_bytes(tfrecords([features, {"n": [1]}]))
    found = rows(path)
    assert found[0] == row(_position="a.tfrecord#0", _error=f"undecodable:{reason}", _bytes=example(features))
    assert found[1]["n"] == 1


def test_a_record_that_is_no_example_is_kept_as_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfrecord, "LONGEST", 50)
    monkeypatch.setattr(tfrecord, "_KEPT", 10)
    twice = example({"n": [1]})[2:] * 2
    bad = bytearray(framed(b"abc"))
    bad[-5] ^= 1
    path = tmp_path / "a.tfrecord"
    twice = b"\x0a" + bytes([len(twice)]) + twice
    path.write_bytes(framed(b"\xff\xff") + framed(twice) + bytes(bad) + framed(b"x" * 60) + tfrecords([{"n": [1]}]))
    assert [(each["_error"], each["_bytes"]) for each in rows(path)] == [
        ("undecodable:not_an_example", b"\xff\xff"), ("undecodable:repeated_feature", twice),
        ("undecodable:checksum_differs", b"abb"), ("undecodable:longer_than_0_MiB", b"x" * 10), (None, None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (framed(b"abc")[:-1], "it ends at byte 18, 4 are due at 15"),
        (framed(b"abc") + b"1", "it ends at byte 20, 8 are due at 19"),
        (b"\1" + framed(b"abc")[1:], "the length at byte 0 has another checksum"),
    ],
)
def test_a_broken_framing_is_named_with_its_place(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.tfrecord"
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"{path}.*{message}.*write it anew"):
        rows(path)


def test_what_holds_objects_is_no_example(tmp_path: Path) -> None:
    nested = Contract(
        "n", "1", (Column("a", "struct", "struct", fields=(Column("b", "int64", "int64"),)),), "n.yaml", "0"
    )
    path = tmp_path / "a.tfrecord"
    path.write_bytes(framed(b""))
    with pytest.raises(DataError, match=r"an Example holds no struct, as 'a' is by n\.yaml; use JSON lines"):
        rows(path, nested)


def test_a_contract_can_be_inferred_from_both(tmp_path: Path) -> None:
    (tmp_path / "a.avro").write_bytes(avro_file([FULL, {}]))
    (tmp_path / "a.tfrecord").write_bytes(tfrecords([FEATURES, {"n": [1]}]))
    by_avro, by_examples = sample(tmp_path / "a.avro", 10), sample(tmp_path / "a.tfrecord", 1)
    assert by_avro.column("at").type == pa.timestamp("us", tz="UTC")
    assert by_avro.column("price").to_pylist() == [Decimal("1.50"), None]
    assert by_examples.to_pylist()[0] == {
        **{k: v[0] for k, v in FEATURES.items()},
        "many": [1, 2],
        "name": "ä",
        "price": "1.50",
    }


WORKING = {
    "avro": WHOLE,
    "tfrecord": tfrecords([FEATURES, {"n": [1]}]),
    "parquet": pq.write_table(pa.Table.from_pylist([{**FULL, "n": 7}] * 3), found := io.BytesIO()) or found.getvalue(),
    "csv": b"name,n,x,at,raw,ok,day,clock,price\na,1,0.5,2026-01-01T00:00:00Z,r,true,2026-01-01,01:02:03,1.50\n" * 2,
    "jsonl": b'{"name": "a", "n": 1, "x": 0.5, "at": "2026-01-01T00:00:00Z", "many": [1, 2], "price": "1.50"}\n' * 2,
}
FLAT = Contract("things", "1", RULES.columns[:-1], "things.yaml", "0" * 64)


def rows_or_named(path: Path, contract: Contract) -> list[dict[str, Any]] | None:
    """Return reasons and kept bytes of a file's rows, or None where it is refused by its name; and remove it."""
    try:
        tables, named = list(read_file(path, contract)), True
        assert all(table.schema == slice_schema(contract) for table in tables)
        found = [row for table in tables for row in table.select(["_error", "_bytes"]).to_pylist()]
    except DataError as error:
        found, named = None, str(path) in str(error)
    path.unlink()
    path.parent.rmdir()
    assert named
    return found


@pytest.mark.parametrize("form", sorted(WORKING))
@given(data=st.data())
def test_whatever_is_done_to_a_file_only_rows_kept_bytes_or_a_named_error_come_out(
    tmp_path_factory: Any, form: str, data: st.DataObject
) -> None:
    changed = bytearray(WORKING[form])
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(changed)))
        upto = at + data.draw(st.integers(0, 8))
        changed[at:upto] = data.draw(st.binary(max_size=8))
    path = tmp_path_factory.mktemp("any") / f"a.{form}"
    path.write_bytes(bytes(changed))
    found = rows_or_named(path, FLAT if form == "csv" else RULES)
    assert all(each["_error"] is None or each["_bytes"] is not None or form == "parquet" for each in found or ())


def test_a_parquet_file_whose_column_has_no_name_in_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(WORKING["parquet"].replace(RULES.names[0].encode(), b"\x80" * len(RULES.names[0])))
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as \.parquet: .*damaged"):
        rows(path, RULES)


def test_a_time_outside_of_the_day_takes_its_row_aside(tmp_path: Path) -> None:
    times = pa.array([3_723_000_004, -1, 86_400_000_000, None], pa.int64()).cast(pa.time64("us"))
    whole = pa.Table.from_pylist([{**FULL, "n": 7}] * 4)
    path = tmp_path / "a.parquet"
    pq.write_table(whole.set_column(whole.schema.get_field_index("clock"), "clock", times), path)
    found = [(each["clock"], each["_error"]) for each in rows(path)]
    wrong = (None, "undecodable:clock_is_no_time")
    assert found == [(time(1, 2, 3, 4), None), wrong, wrong, (None, None)]


@pytest.mark.parametrize("form", ["avro", "tfrecord"])
@given(record=st.binary(max_size=60))
def test_whatever_a_record_holds_only_rows_kept_bytes_or_a_named_error_come_out(
    tmp_path_factory: Any, form: str, record: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / f"a.{form}"
    path.write_bytes(framed(record) if form == "tfrecord" else container(SCHEMA, "null", (1, record)))
    found = rows_or_named(path, RULES)
    assert found is not None or form == "avro"
    assert all(each["_error"] is None or each["_bytes"] == record for each in found or ())
    assert found is None or len(found) == 1
