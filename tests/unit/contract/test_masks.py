"""Row masks: which rows break which rule, and what may be cast."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.contract import Column, Contract, masks
from tidegate.contract.arrow import BYTES, ERROR, POSITION, clean_schema, raw_schema, slice_schema
from tidegate.contract.masks import judge
from tidegate.errors import DataError
from tidegate.handoff import Window
from tidegate.units import utc

INTEGER = Column("n", "string", "int64", lexical_form=r"-?\d+")
FORM = r"\d{4}-\d{2}-\d{2}T\d{2}:00:00Z"
HOUR = Column("t", "string", "int64", lexical_form=FORM, cast="epochSeconds", event_time=True)
NEW_YEAR, DAY = utc("2013-01-01"), timedelta(days=1)


def contract(*columns: Column) -> Contract:
    return Contract("things", "1", columns, "things.yaml", "0" * 64)


def judged(values: list[Any], column: Column, window: Window | None = None) -> tuple[list[Any], list[list[str]]]:
    rules = contract(column)
    found = judge(pa.table({column.name: values}, schema=raw_schema(rules)), rules, window)
    return found.clean.column(0).to_pylist(), found.reasons


@pytest.mark.parametrize(
    "text", ["1e3", " 12", "12 ", "+5", "0x10", "1357020000.0005", "1,000", "1_000", "", "NaN", "12\n", "١٢", "--1"]
)
def test_what_is_not_of_the_stated_form_is_not_cast(text: str) -> None:
    assert judged([text], INTEGER) == ([], [["n:lexical_form"]])


@pytest.mark.parametrize("text", ["9223372036854775808", "-9223372036854775809", "9" * 38, "9" * 39, "9" * 400])
def test_a_number_beyond_its_type_has_the_form_but_no_value(text: str) -> None:
    assert judged([text, "7"], INTEGER) == ([7], [["n:no_such_value"]])


@given(st.integers(min_value=-(2**63), max_value=2**63 - 1))
def test_every_int64_is_cast_to_itself(number: int) -> None:
    assert judged([str(number)], INTEGER) == ([number], [])


@given(st.lists(st.one_of(st.none(), st.text(alphabet="0123456789-+eE. x_", max_size=22)), max_size=30))
def test_an_integer_is_cast_exactly_where_pythons_regex_and_range_agree(texts: list[str | None]) -> None:
    clean, reasons = judged(texts, INTEGER)
    fits = [t for t in texts if t is None or (re.fullmatch(r"-?[0-9]+", t) and -(2**63) <= int(t) < 2**63)]

    assert clean == [None if text is None else int(text) for text in fits]
    assert len(clean) + len(reasons) == len(texts)


def test_a_string_timestamp_becomes_seconds_since_1970() -> None:
    assert judged(["2013-01-01T06:00:00Z"], HOUR) == ([1357020000], [])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("2013-01-01 06:00:00", "t:lexical_form"),
        ("2013-01-01T06:30:00Z", "t:lexical_form"),
        ("2013-01-01T06:00:00+00:00", "t:lexical_form"),
        ("1357020000", "t:lexical_form"),
        ("2013-02-30T06:00:00Z", "t:no_such_value"),
        ("2013-13-01T06:00:00Z", "t:no_such_value"),
        ("2013-01-01T24:00:00Z", "t:no_such_value"),
        ("0000-00-00T00:00:00Z", "t:no_such_value"),
    ],
)
def test_another_form_or_a_day_that_never_was_is_quarantined(text: str, reason: str) -> None:
    assert judged([text], HOUR) == ([], [[reason]])


@pytest.mark.parametrize(
    ("column", "text", "value"),
    [
        (Column("x", "string", "float64", lexical_form=r"-?\d+(\.\d+)?"), "-0.25", -0.25),
        (Column("x", "string", "date", lexical_form=r"\d{4}-\d{2}-\d{2}"), "2012-02-29", date(2012, 2, 29)),
        (Column("x", "string", "bool", lexical_form="true|false"), "false", False),
        (Column("x", "string", "bool", lexical_form="yes|no"), "yes", True),
        (
            Column("x", "string", "timestamp", lexical_form=r"\S+"),
            "2013-01-01T00:00:01Z",
            datetime(2013, 1, 1, 0, 0, 1, tzinfo=UTC),
        ),
        (Column("x", "string", "int32", lexical_form=r"\d+"), "2147483647", 2147483647),
    ],
)
def test_each_type_is_cast(column: Column, text: str, value: object) -> None:
    assert judged([text], column) == ([value], [])


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (Column("x", "string", "float64", lexical_form=r"\S+"), "1.2.3"),
        (Column("x", "string", "date", lexical_form=r"\S+"), "2013-02-29"),
        (Column("x", "string", "bool", lexical_form=r"\S+"), "maybe"),
        (Column("x", "string", "timestamp", lexical_form=r"\S+"), "tomorrow"),
        (Column("x", "string", "int32", lexical_form=r"\S+"), "2147483648"),
        (Column("x", "string", "int32", lexical_form=r"\S+"), "1.5"),
    ],
)
def test_a_form_that_is_too_wide_lets_no_wrong_value_through(column: Column, text: str) -> None:
    assert judged([text], column) == ([], [["x:no_such_value"]])


@pytest.mark.parametrize(
    ("column", "good", "bad", "reason"),
    [
        (Column("x", "int32", "int32", required=True), 1, None, "x:required"),
        (Column("x", "int32", "int32", minimum=0), 0, -1, "x:minimum"),
        (Column("x", "int32", "int64", maximum=9), 9, 10, "x:maximum"),
        (Column("x", "float64", "float64", exclusive_minimum=0), 0.1, 0.0, "x:exclusive_minimum"),
        (Column("x", "float64", "float64", exclusive_maximum=1), 0.9, 1.0, "x:exclusive_maximum"),
        (Column("x", "float64", "float64"), 1.0, float("nan"), "x:not_finite"),
        (Column("x", "float64", "float64"), 1.0, float("inf"), "x:not_finite"),
        (Column("x", "string", "string", pattern="^[A-Z]{3}$"), "JFK", "jfk", "x:pattern"),
        (Column("x", "string", "string", min_length=2), "äb", "ä", "x:min_length"),
        (Column("x", "string", "string", max_length=1), "ä", "ab", "x:max_length"),
        (Column("x", "string", "string", required=True, missing=("NA",)), "N", "NA", "x:required"),
        (Column("x", "timestamp", "timestamp", minimum="2013-01-02"), NEW_YEAR + DAY, NEW_YEAR, "x:minimum"),
        (Column("x", "date", "date", maximum="2013-01-01"), date(2013, 1, 1), date(2013, 1, 2), "x:maximum"),
    ],
)
def test_each_rule_parts_good_from_bad(column: Column, good: object, bad: object, reason: str) -> None:
    clean, reasons = judged([good, bad, good], column)

    assert clean == [good, good]
    assert reasons == [[reason]]


def test_null_breaks_no_rule_but_required() -> None:
    column = Column("x", "string", "float64", lexical_form=r"\d+", minimum=3)
    assert judged([None, "4"], column) == ([None, 4.0], [])


def test_a_row_carries_all_its_reasons_in_the_contracts_order_and_is_counted_under_the_first() -> None:
    rules = contract(Column("a", "int32", "int32", minimum=0), Column("b", "string", "string", pattern="^x"))
    found = judge(pa.table({"a": [1, -1, -1], "b": ["y", "x", "y"]}, schema=raw_schema(rules)), rules)

    assert found.bad.tolist() == [0, 1, 2]
    assert found.reasons == [["b:pattern"], ["a:minimum"], ["a:minimum", "b:pattern"]]


def test_of_two_rows_with_one_key_the_first_conforming_one_stays() -> None:
    rules = contract(Column("k", "string", "string", required=True, key=1), Column("v", "int32", "int32", minimum=0))
    table = pa.table({"k": ["a", "a", "b", "a"], "v": [-1, 2, 3, 4]}, schema=raw_schema(rules))
    found = judge(table, rules)

    assert found.clean.to_pylist() == [{"k": "a", "v": 2}, {"k": "b", "v": 3}]
    assert found.reasons == [["v:minimum"], ["k:duplicate"]]


def test_an_event_time_outside_the_window_belongs_to_no_slice() -> None:
    window = Window(start=utc("2013-01-01"), end=utc("2013-02-01"))
    hours = ["2012-12-31T23:00:00Z", "2013-01-01T00:00:00Z", "2013-01-31T23:00:00Z", "2013-02-01T00:00:00Z"]
    clean, reasons = judged(hours, HOUR, window)

    assert clean == [int(utc(hour).timestamp()) for hour in hours[1:3]]
    assert reasons == [["t:outside_window"], ["t:outside_window"]]


def test_what_could_not_be_decoded_has_that_one_reason() -> None:
    rules = contract(Column("a", "int32", "int32", required=True))
    rows = [{POSITION: "p/0/1", ERROR: "undecodable:not_json", BYTES: b"{"}, {"a": 1, POSITION: "p/0/2"}]
    found = judge(pa.Table.from_pylist(rows, schema=slice_schema(rules)), rules)

    assert found.clean.to_pylist() == [{"a": 1}]
    assert found.reasons == [["undecodable:not_json"]]


def test_no_rows_give_no_rows_of_the_clean_schema() -> None:
    rules = contract(Column("k", "string", "string", required=True, key=1), HOUR)
    found = judge(slice_schema(rules).empty_table(), rules)

    assert found.clean.num_rows == 0
    assert found.clean.schema == clean_schema(rules)
    assert found.reasons == []


def test_a_slice_of_another_schema_is_refused_with_the_remedy() -> None:
    rules = contract(Column("a", "int32", "int32"))
    with pytest.raises(DataError, match=r"'a'.*not in the slice.*refresh"):
        judge(pa.table({"b": [1]}), rules)
    with pytest.raises(DataError, match=r"'a' is string.*int32.*refresh"):
        judge(pa.table({"a": ["1"]}), rules)


WIDE = contract(
    Column("k", "int32", "int32", required=True, key=1),
    INTEGER,
    HOUR,
    Column("s", "string", "string", required=True, pattern="^a", enum=("a", "ab", "b"), missing=("NA",)),
    Column("x", "float64", "float64", minimum=0),
    Column("l", "list", "list", items=Column("i", "string", "string", pattern="^a")),
)
WIDE_ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "k": st.none() | st.integers(0, 30),
            "n": st.sampled_from([None, "1", "-7", "1e3", "x"]),
            "t": st.sampled_from([None, "2013-01-01T06:00:00Z", "2013-02-30T06:00:00Z", "noon"]),
            "s": st.sampled_from([None, "a", "ab", "b", "NA", "c"]),
            "x": st.none() | st.floats(-1, 1) | st.just(float("nan")),
            "l": st.none() | st.lists(st.sampled_from([None, "a", "b"]), max_size=2),
        }
    ),
    max_size=40,
)


@given(WIDE_ROWS)
def test_rows_judged_in_parts_by_distinct_texts_are_judged_alike(rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(rows, schema=raw_schema(WIDE))
    whole = judge(table, WIDE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "_MANY", 3)
        patch.setattr(masks, "_SAMPLE", 8)
        patch.setattr(masks.os, "cpu_count", lambda: 4)
        parts = judge(table, WIDE)

    assert parts.clean.to_pylist() == whole.clean.to_pylist()
    assert (parts.bad.tolist(), parts.reasons, parts.findings) == (whole.bad.tolist(), whole.reasons, whole.findings)
