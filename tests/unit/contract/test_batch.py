"""Messages decoded by the batch are, row by row, what each is alone."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tidegate.contract import Column, Contract, batch
from tidegate.contract.arrow import slice_schema
from tidegate.contract.batch import decode_many
from tidegate.contract.decode import decode_json
from tidegate.contract.model import Kind

KINDS: list[Kind] = [
    "int8", "int16", "int64", "uint8", "uint64", "float32", "float64", "decimal", "bool", "string", "bytes", "date",
    "time", "timestamp", "local_timestamp",
]  # fmt: skip


def column(name: str, kind: Kind) -> Column:
    return Column(name, kind, kind, digits=(8, 2) if kind == "decimal" else None)


def rules(*columns: Column) -> Contract:
    return Contract("w", "1", columns, "w.yaml", "0" * 64)


NESTED = Column(
    "place",
    "struct",
    "struct",
    fields=(column("a", "float32"), Column("l", "list", "list", items=column("item", "int8"))),
)
RULES = rules(*(column(kind, kind) for kind in KINDS), NESTED, Column("l", "list", "list", items=NESTED))


def alone(values: list[bytes | None], contract: Contract) -> Any:
    rows = [decode_json(value, f"p/{n}", contract) for n, value in enumerate(values)]
    return pa.Table.from_pylist(rows, schema=slice_schema(contract))


def together(values: list[bytes | None], contract: Contract) -> Any:
    return decode_many(values, pa.array([f"p/{n}" for n in range(len(values))], pa.string()), contract)


def agree(values: list[bytes | None], contract: Contract = RULES) -> None:
    good = [b"{}"] * (batch._FEW + 1)  # enough of them for the reader to be asked
    assert together([*values, *good], contract).equals(alone([*values, *good], contract))
    assert together([*good, *values], contract).equals(alone([*good, *values], contract))


NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.integers(-300, 300).map(str),
    st.floats().map(repr),
    st.from_regex(r"-?[0-9]{1,3}(\.[0-9]{1,4})?([eE][+-]?[0-9]{1,3})?", fullmatch=True),
    st.sampled_from(["-0", "-0.0", "0", "1.0", "1e400", "-1e-400", "01", "1.", ".5", "+1", "NaN", "-Infinity", "Inf",
                     "1e99999999999999999999", "1e-99999999999999999999", "0x10", "16777217", "9007199254740993",
                     "1_0", "9223372036854775808", "18446744073709551616", "1" * 400]),
)  # fmt: skip
TEXTS = st.one_of(
    st.text(max_size=6).map(json.dumps),
    st.text(max_size=6).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.sampled_from(
        ['"\\ud800"', '"\\udc00"', '"\\ud83d\\ude00"', '"\\u0000"', '"a\\qb"', '"\t"', '"\\/"', '"1.50"', '"+5"',
         '" 1"', '"1_000"', '"NaN"', '"/w=="', '"/w="', '"2013-02-29"', '"2012-02-29"', '"0000-01-01"', '"0001-01-01"',
         '"24:00"', '"23:59:60"', '"23:59:59.123456"', '"2013-01-01T06:00Z"', '"2013-01-01 06:00:00+25:00"',
         '"2013-01-01T06:00:00-23:59"', '"0001-01-01T00:00:00+23:59"', '"9999-12-31T23:59:59-23:59"',
         '"2013-01-01T06:00:00.1"', '"2013-01-01T06:00:00z"', '"2013-01-01T06:00:00+24:00"', '"2013-01-01T06:00:60Z"']
    ),
)  # fmt: skip
SCALARS = NUMBERS | TEXTS | st.sampled_from(["null", "true", "false", "tru", "", "{}", "[]", "{]"])
SPACES = st.sampled_from(["", "", "", " ", "\n", "\t\r", "\f", "/**/", "\ufeff"])
KEYS = st.sampled_from(['"a"', '"l"', '"x"', '"\\u0061"', '"y"'])


def _joined(draw: Any, parts: list[str], opening: str, closing: str) -> str:
    comma = draw(st.sampled_from([",", ",", ",", ",", ",,", " , ", ""]))
    return opening + draw(SPACES) + comma.join(parts) + draw(SPACES) + closing


@st.composite
def objects(draw: Any, inner: Any, keys: Any = KEYS) -> str:
    pairs = draw(st.lists(st.tuples(keys, SPACES, inner), max_size=3))
    return _joined(draw, [f"{key}:{space}{value}" for key, space, value in pairs], "{", "}")


@st.composite
def arrays(draw: Any, inner: Any) -> str:
    return _joined(draw, draw(st.lists(inner, max_size=3)), "[", "]")


JSON = st.recursive(SCALARS, lambda inner: objects(inner) | arrays(inner), max_leaves=5)
NAMES = st.sampled_from([json.dumps(name) for name in (*RULES.names, "other", "more")])
TEXT = objects(JSON, NAMES).map(lambda text: text.encode("utf-8", "surrogatepass"))
MESSAGES = st.one_of(
    TEXT, TEXT, TEXT, st.none(), st.binary(max_size=20), st.tuples(TEXT, TEXT).map(b"".join),
    st.tuples(TEXT, st.binary(max_size=2)).map(b"".join), TEXT.map(lambda text: text[:-1]),
)  # fmt: skip


@given(st.lists(MESSAGES, max_size=8))
@example([b'{"other": {"a": 1, "a": 2}}', b'{"a": {}', b'{"b": 1}', b"{}{}", b""])
@example([b'{"string": "a', b'{}"}'])
@example([b'{"float64": -0}', b'{"float64": -0.0}', b'{"float32": 0.1}', b'{"float32": 16777217.0000001}'])
def test_the_batch_and_each_message_alone_agree(messages: list[bytes | None]) -> None:
    agree(messages)


@example("decimal", ["1000000", "999999", "-1000000", "0E10", "1E5", "1e-2", "1.00000"])
@given(st.sampled_from(KINDS), st.lists(SCALARS, min_size=1, max_size=6))
def test_they_agree_on_every_value_of_every_type(kind: Kind, texts: list[str]) -> None:
    values = [f'{{"v": {text}, "l": [{text}], "unnamed": {text}}}'.encode("utf-8", "surrogatepass") for text in texts]
    agree(list(values), rules(column("v", kind), Column("l", "list", "list", items=column("item", kind))))


def test_deep_long_and_odd_messages_are_what_they_are_alone() -> None:
    deep = [b'{"other": ' + b"[" * n + b"]" * n + b"}" for n in (10, 60, 70, 900, 100_000)]
    long = [b'{"other": %s}' % (b"1" * 5000), b'{"float64": %s}' % (b"1" * 5000), b'{"string": "%s"}' % (b"x" * 70_000)]
    mixed = [b'{"other": 1}', b'{"other": "a"}', b'{"other": [1, "a", null, {}]}', b'{"other": {"b": 1}}']
    agree([*deep, *long, *mixed])


@pytest.mark.parametrize("bad", [b'{"int8": "1"}', b'{"int8": 1.5}', b'{"int8": 300}', b'{"float64": NaN}', b"\xff"])
def test_a_bad_message_takes_no_other_one_off_the_fast_path(bad: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    values: list[bytes | None] = [b'{"int8": 1, "string": "a", "float64": 0.5}'] * 5000
    values[7] = values[4900] = bad
    expected = alone(values, RULES)
    slow = []
    monkeypatch.setattr(batch, "decode_json", lambda v, p, c: (slow.append(v), decode_json(v, p, c))[1])

    assert together(values, RULES).equals(expected)
    assert slow.count(bad) == 2
    assert len(slow) <= 2 * batch._FEW


def test_messages_that_are_bad_alike_are_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values: list[bytes | None] = [b'{"int8": 1, "string": "a"}'] * 5000
    for row in range(0, 5000, 40):
        values[row] = b'{"string": "b", "int8" : "5"}'
    expected = alone(values, RULES)
    reads = []
    read_json = batch._read_json
    monkeypatch.setattr(batch, "_read_json", lambda *a, **k: (reads.append(1), read_json(*a, **k))[1])

    assert together(values, RULES).equals(expected)
    assert len(reads) == 2


def test_where_all_are_bad_each_is_asked_about_once() -> None:
    agree([b'{"int8": "1"}'] * 3000)
    agree([b'{"int8": 1.5}'] * 3000)
    agree([None] * 100)
