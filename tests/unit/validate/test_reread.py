"""Raw messages under a later contract: what was kept as bytes is decoded again, and nothing is made up."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.contract import Column, Contract
from tidegate.contract.arrow import slice_schema
from tidegate.contract.avro import decode_avro
from tidegate.contract.decode import decode_json
from tidegate.contract.masks import judge
from tidegate.contract.model import Kind
from tidegate.errors import DataError
from tidegate.validate.reread import reread

OLD = Contract("w", "1.0.0", (Column("at", "int64", "int64"), Column("v", "float64", "float64")), "w.yaml", "0" * 64)
TEXT = Column("at", "string", "int64", lexical_form=r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", cast="epochSeconds")
NEW = replace(OLD, version="2.0.0", columns=(TEXT, OLD.columns[1]))
MESSAGES = [b'{"at": 5, "v": 1}', b'{"at": "2013-01-01T00:00:00Z", "v": 2.5}', b"{\xff", None, b'{"v": 3}']


def raw(contract: Contract, messages: list[bytes | None]) -> Any:
    rows = [decode_json(message, f"w/0/{n}", contract) for n, message in enumerate(messages)]
    return pa.Table.from_pylist(rows, schema=slice_schema(contract))


@pytest.mark.parametrize("messages", [MESSAGES, MESSAGES[1:4], MESSAGES[:1], []])
def test_judged_again_is_as_if_read_again_by_the_new_contract(messages: list[bytes | None]) -> None:
    again, fresh = (judge(table, NEW) for table in (reread(raw(OLD, messages), NEW), raw(NEW, messages)))

    assert again.clean.equals(fresh.clean)
    assert again.reasons == fresh.reasons
    assert again.bad.tolist() == fresh.bad.tolist()


KINDS: list[Kind] = ["int8", "int64", "float32", "float64", "string", "bool", "decimal", "timestamp", "bytes"]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**64), 2**64),
    st.integers(-300, 300),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.1, 16777217, 2**53 + 1, 1e300, "YQ==", "2013-01-01T00:00:00Z", "12", "12.5"]),
    st.text(max_size=3),
    st.lists(st.integers(0, 3), max_size=2),
)


def columns(kind: Kind) -> tuple[Column, ...]:
    return (
        Column("a", kind, kind),
        Column("s", "struct", "struct", fields=(Column("b", kind, kind),)),
        Column("l", "list", "list", items=Column("item", kind, kind)),
    )


@given(st.lists(VALUES, max_size=6), st.sampled_from(KINDS), st.sampled_from(KINDS))
def test_no_value_is_ever_another_one_than_its_message_said(values: list[Any], old: Kind, new: Kind) -> None:
    """A row is as its message read anew would be, or it is not clean, or the source is asked for."""
    before, after = (replace(OLD, columns=columns(kind)) for kind in (old, new))
    messages = [json.dumps({"a": v, "s": {"b": v}, "l": [v]}).encode() for v in values]
    fresh = raw(after, messages)
    again = reread(raw(before, messages), after)
    if again.schema.field("a").type != fresh.schema.field("a").type:
        assert old in ("float32", "float64", "decimal", "timestamp", "bytes")  # whose values are not what was said
        return
    for value, found, wanted in zip(values, again.to_pylist(), fresh.to_pylist(), strict=True):
        if found["_error"] is None and not (isinstance(value, float) and value.is_integer()):
            assert found == wanted
        if value is None or isinstance(value, str | bool | list) or (isinstance(value, int) and abs(value) < 2**53):
            assert found["_error"] == wanted["_error"]


def test_bytes_that_fit_now_become_values_and_the_others_stay_as_they_are() -> None:
    wider = replace(OLD, columns=(Column("at", "int64", "int64"), Column("v", "string", "string")))
    table = raw(wider, [b'{"at": 1, "v": "a"}', b'{"at": "x", "v": "b"}', b'{"at": 3, "v": "c"}'])
    text = replace(wider, columns=(wider.columns[0], replace(wider.columns[1], max_length=1)))

    assert reread(table, text).equals(table)
    assert reread(table, text).column("_bytes").to_pylist() == [None, b'{"at": "x", "v": "b"}', None]


def test_what_only_the_source_can_tell_is_asked_for_and_never_made_up() -> None:
    added = replace(OLD, columns=(*OLD.columns, Column("extra", "string", "string")))
    with pytest.raises(DataError, match=r"column 'extra' .* is not in the slice.*read the slice again"):
        judge(reread(raw(OLD, MESSAGES), added), added)

    moment = replace(OLD, columns=(Column("at", "timestamp", "timestamp"), OLD.columns[1]))
    with pytest.raises(DataError, match=r"column 'at' is timestamp\[us, tz=UTC\] in the slice but string"):
        judge(reread(raw(moment, [b'{"at": "2013-01-01T00:00:00Z"}']), NEW), NEW)


def test_a_column_that_no_decoded_message_had_may_be_added_where_the_bytes_are_kept() -> None:
    added = replace(NEW, columns=(*NEW.columns, Column("extra", "string", "string")))
    table = raw(OLD, [b'{"at": "2013-01-01T00:00:00Z", "v": 1, "extra": "x"}'])

    assert judge(reread(table, added), added).clean.to_pylist() == [{"at": 1356998400, "v": 1.0, "extra": "x"}]


def test_avro_is_decoded_again_by_the_schema_that_is_kept_with_its_bytes() -> None:
    text = {
        "type": "record",
        "name": "w",
        "fields": [{"name": "at", "type": "string"}, {"name": "v", "type": "double"}],
    }
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(text), {"at": "2013-01-01T00:00:00Z", "v": 2.5})
    values = [b"\0\0\0\0\x07" + out.getvalue(), b"\0\0\0\0\x08", None]
    rows = [
        decode_avro(value, f"w/0/{n}", OLD, lambda number: json.dumps(text) if number == 7 else None)
        for n, value in enumerate(values)
    ]
    table = pa.Table.from_pylist(rows, schema=pa.schema([*slice_schema(OLD), ("_schema", pa.string())]))
    again = reread(table, NEW)

    assert table.column("_error").to_pylist()[0] == "undecodable:at_is_no_int64"
    assert again.column("_error").to_pylist() == [None, *table.column("_error").to_pylist()[1:]]
    assert judge(again, NEW).clean.to_pylist() == [{"at": 1356998400, "v": 2.5}]


def test_the_start_of_a_message_that_was_too_long_stays_as_it_is() -> None:
    cut = {"_position": "w/0/1", "_error": "undecodable:longer_than_16_MiB", "_bytes": b'{"at": 1'}
    rows = [decode_json(MESSAGES[1], "w/0/0", OLD), cut]
    table = pa.Table.from_pylist(rows, schema=slice_schema(OLD))

    for contract in (OLD, NEW):
        found = reread(table, contract).to_pylist()[1]
        assert {name: found[name] for name in cut} == cut
