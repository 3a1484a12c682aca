# ruff: noqa: E501 - a column of a contract is one line
"""Every type a contract may name: from the file to the clean value, and what is not of it."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.contract.test_odcs import GOOD, problems, write
from tidegate.contract import Column, Contract, load_contract, texts
from tidegate.contract.arrow import clean_schema, raw_schema
from tidegate.contract.masks import judge
from tidegate.contract.model import BITS, integer_range
from tidegate.contract.texts import in_zone, instants, raw_values

FORM = "customProperties: [{property: lexicalForm, value: '.*'}]"


def read(folder: Path, column: str) -> Contract:
    write(folder, f"- {{name: x, {column}}}")
    return load_contract("things", folder)


def judged(contract: Contract, values: list[Any]) -> tuple[list[Any], list[list[str]]]:
    found = judge(pa.table({"x": pa.array(values, raw_schema(contract).field("x").type)}), contract)
    return found.clean.column("x").to_pylist(), found.reasons


@pytest.mark.parametrize(
    ("column", "raw", "clean", "wrong"),
    [
        *(
            (f"logicalType: integer, physicalType: text, logicalTypeOptions: {{format: {short}}}, {FORM}", *texts)
            for short, texts in (
                ("i8", ("-128", -128, "128")),
                ("i16", ("32767", 32767, "32768")),
                ("u8", ("255", 255, "-1")),
                ("u16", ("+65535", 65535, "65536")),
                ("u32", ("4294967295", 4294967295, "4294967296")),
                ("u64", ("18446744073709551615", 2**64 - 1, "18446744073709551616")),
            )
        ),
        (f"logicalType: number, physicalType: text, logicalTypeOptions: {{format: f32}}, {FORM}", "0.5", 0.5, "half"),
        (f"logicalType: time, physicalType: text, {FORM}", "23:59:59.5", time(23, 59, 59, 500_000), "24:00:00"),
        (f"logicalType: date, physicalType: text, {FORM}", "2012-02-29", date(2012, 2, 29), "2013-02-29"),
        (
            f"logicalType: timestamp, physicalType: text, {FORM}",
            "2013-01-01T01:00:00+01:00",
            datetime(2013, 1, 1, tzinfo=UTC),
            "2013-01-01T01:00:00",
        ),
        (
            f"logicalType: timestamp, physicalType: text, logicalTypeOptions: {{timezone: false}}, {FORM}",
            "2013-01-01T01:00:00",
            datetime(2013, 1, 1, 1),
            "2013-01-01T01:00:00Z",
        ),
        (
            f"logicalType: timestamp, physicalType: text, logicalTypeOptions: {{defaultTimezone: Europe/Berlin}}, {FORM}",
            "2013-07-01T02:00:00",
            datetime(2013, 7, 1, tzinfo=UTC),
            "2013-03-31T02:30:00",
        ),
        (
            f"logicalType: timestamp, physicalType: text, {FORM}",
            "2016-12-31T23:59:59Z",
            datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC),
            "2016-12-31T23:59:60Z",
        ),
    ],
)
def test_a_text_becomes_its_value_or_has_none(tmp_path: Path, column: str, raw: str, clean: Any, wrong: str) -> None:
    assert judged(read(tmp_path, column), [raw, wrong, None]) == ([clean, None], [["x:no_such_value"]])


@pytest.mark.parametrize(
    ("column", "good", "bad", "reason"),
    [
        (
            "logicalType: number, physicalType: 'decimal(8, 2)', logicalTypeOptions: {maximum: 10.5}",
            Decimal("10.50"),
            Decimal("10.51"),
            "x:maximum",
        ),
        (
            "logicalType: string, physicalType: bytea, logicalTypeOptions: {format: binary}, required: true",
            b"\xff",
            None,
            "x:required",
        ),
        (
            "logicalType: time, physicalType: time, logicalTypeOptions: {minimum: '08:00'}",
            time(8),
            time(7),
            "x:minimum",
        ),
        (
            "logicalType: string, physicalType: text, "
            "quality: [{metric: invalidValues, arguments: {validValues: [a, b]}, mustBe: 0}]",
            "b",
            "B",
            "x:enum",
        ),
        (
            "logicalType: integer, physicalType: uint64, logicalTypeOptions: {format: u64}, "
            "quality: [{metric: invalidValues, arguments: {validValues: [1, 18446744073709551615]}, mustBe: 0}]",
            2**64 - 1,
            2,
            "x:enum",
        ),
        (
            "logicalType: timestamp, physicalType: timestamp, logicalTypeOptions: {timezone: false, minimum: '2013-01-02'}",
            datetime(2013, 1, 2),
            datetime(2013, 1, 1),
            "x:minimum",
        ),
        (
            "logicalType: array, physicalType: array, logicalTypeOptions: {minItems: 1}, "
            "items: {logicalType: string, physicalType: text, logicalTypeOptions: {pattern: '^[a-z]$'}}",
            ["a", "b"],
            ["a", "B"],
            "x[]:pattern",
        ),
        (
            "logicalType: array, physicalType: array, logicalTypeOptions: {maxItems: 1}, "
            "items: {logicalType: string, physicalType: text}",
            [None],
            ["a", "b"],
            "x:max_items",
        ),
        (
            "logicalType: object, physicalType: object, properties: "
            "[{name: a, logicalType: integer, physicalType: int, required: true, logicalTypeOptions: {minimum: 1}}]",
            {"a": 1},
            {"a": 0},
            "x.a:minimum",
        ),
        (
            "logicalType: object, physicalType: object, properties: "
            "[{name: a, logicalType: integer, physicalType: int, required: true}]",
            None,
            {"a": None},
            "x.a:required",
        ),
        (
            "logicalType: array, physicalType: array, items: {logicalType: object, physicalType: object, properties: "
            "[{name: a, logicalType: integer, physicalType: text, customProperties: [{property: lexicalForm, value: '.+'}]}]}",
            [],
            [{"a": "x"}],
            "x[].a:no_such_value",
        ),
    ],
)
def test_each_type_keeps_its_rules(tmp_path: Path, column: str, good: Any, bad: Any, reason: str) -> None:
    assert judged(read(tmp_path, column), [good, bad, good]) == ([good, good], [[reason]])


def test_texts_inside_lists_of_objects_are_cast(tmp_path: Path) -> None:
    column = (
        "logicalType: array, physicalType: array, items: {logicalType: object, physicalType: object, properties: "
        "[{name: a, logicalType: integer, physicalType: text, customProperties: [{property: lexicalForm, value: '\\d+'}]}]}"
    )
    values = [[{"a": "1"}, {"a": "22"}], None, [], [{"a": "3"}]]
    contract = read(tmp_path, column)
    clean, reasons = judged(contract, values)

    assert clean == [[{"a": 1}, {"a": 22}], None, [], [{"a": 3}]]
    assert reasons == []
    assert clean_schema(contract).field("x").type.value_type.field("a").type == pa.int32()


def test_a_clock_that_was_set_back_or_forward_is_no_instant() -> None:
    berlin = [datetime(2013, 10, 27, 2, 30), datetime(2013, 3, 31, 2, 30), datetime(2013, 10, 27, 3, 30)]
    found = in_zone(pa.array(berlin, pa.timestamp("us")), "Europe/Berlin").to_pylist()

    assert found == [None, None, datetime(2013, 10, 27, 2, 30, tzinfo=UTC)]


@given(st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2200, 1, 1)))
def test_every_instant_is_read_back(moment: datetime) -> None:
    text = moment.isoformat() + "Z"
    assert instants(pa.array([text]), None).to_pylist() == [moment.replace(tzinfo=UTC)]


@pytest.mark.parametrize("kind", sorted(BITS))
def test_a_whole_number_type_ends_where_arrows_does(kind: str) -> None:
    low, high = integer_range(kind)
    wanted = getattr(pa, kind)()
    assert pa.array([low, high], wanted).to_pylist() == [low, high]
    with pytest.raises((OverflowError, pa.ArrowInvalid)):
        pa.array([high + 1], wanted)


@pytest.mark.parametrize(
    ("column", "field", "remedy"),
    [
        ("logicalType: timestamp, physicalType: timestamp", "x.logicalTypeOptions", "defaultTimezone"),
        (
            "logicalType: timestamp, physicalType: timestamp, logicalTypeOptions: {defaultTimezone: Mars/North}",
            "x.logicalTypeOptions.defaultTimezone",
            "IANA",
        ),
        ("logicalType: number, physicalType: 'decimal(40, 2)'", "x.physicalType", "decimal"),
        ("logicalType: array, physicalType: array", "x.items", "items"),
        ("logicalType: integer, physicalType: uint64, logicalTypeOptions: {format: i64}", "x.logicalType", "alike"),
        (
            "logicalType: integer, physicalType: int, quality: [{metric: invalidValues, arguments: {validValues: [a]}, mustBe: 0}]",
            "x.quality",
            "int32",
        ),
        (
            "logicalType: integer, physicalType: int, customProperties: [{property: severity, value: {required: warn}}]",
            "x.severity",
            "leave the rule out",
        ),
        (
            "logicalType: integer, physicalType: int, customProperties: [{property: severity, value: {maximum: panic}}]",
            "x.severity",
            "quarantine, warn, stop",
        ),
        (
            "logicalType: integer, physicalType: int, customProperties: [{property: drift, value: {linfty: 3}}]",
            "x.drift",
            "0 to 1",
        ),
        (
            "logicalType: string, physicalType: text, customProperties: [{property: drift, value: {linfty: {shout: 1}}}]",
            "x.drift",
            "{warn: 0.1, retrain: 0.2, stop: 0.3}",
        ),
        (
            "logicalType: string, physicalType: text, customProperties: [{property: skew, value: {linfty: {stop: 0.1}}}]",
            "x.skew",
            "{warn: 0.1, retrain: 0.2}",
        ),
        (
            "logicalType: integer, physicalType: int, customProperties: [{property: drift, value: {linfty: 0.3}}]",
            "x.drift",
            "jensenShannon",
        ),
        (
            "logicalType: integer, physicalType: int, customProperties: [{property: allowedLateness, value: 1h}]",
            "x.allowedLateness",
            "move it",
        ),
    ],
)
def test_a_mistake_is_named_with_its_remedy(tmp_path: Path, column: str, field: str, remedy: str) -> None:
    found = problems(tmp_path, GOOD, f"- {{name: x, {column}}}")
    assert [p for p in found if p.field == field and p.line == 10 and remedy in p.remedy], found


WORDS = st.lists(
    st.sampled_from(["0", "1", "12", "9" * 20, "-", "+", ".", "e", "E5", "x", "+-2", "nan", "inf", " ", "true", "T", "f", "2013-01-01", "T01:02", ":03", ".5", "Z", "+01:00", "ä", "\n"]),
    max_size=4,
).map("".join)  # fmt: skip


@given(
    st.sampled_from(sorted(texts._CAST_AS_FORMED)), st.lists(st.none() | WORDS, min_size=1, max_size=4), st.booleans()
)
def test_texts_that_are_cast_unseen_become_what_their_form_makes_of_them(
    kind: Any, found: list[str | None], first: bool
) -> None:
    column, values = Column("a", kind, kind, digits=(30, 5)), pa.array(found, pa.string()).slice(first)
    unseen = raw_values(values, column)
    with mock.patch.object(texts, "_CAST_AS_FORMED", {}):
        assert repr(raw_values(values, column).to_pylist()) == repr(unseen.to_pylist())
