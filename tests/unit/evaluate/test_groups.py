"""How rows are cut into groups, and which rows depend on each other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.errors import SpecError
from tidegate.evaluate.groups import MISSING, clusters, cut, known

HOURS = [datetime(2013, 1, 31, 22, tzinfo=UTC) + timedelta(hours=hour) for hour in range(6)]


def table(**columns):
    return pa.table({"at": pa.array(HOURS, pa.timestamp("us", tz="UTC")), **columns})


def named(groups):
    return {name: rows.tolist() for name, rows in groups}


def test_categories_come_by_falling_size_with_missing_values_as_one_of_them():
    rows = table(carrier=["UA", None, "AA", "UA", None, "UA"])
    assert list(named(cut(rows, "carrier", "at", 20)).items()) == [("UA", [0, 3, 5]), (MISSING, [1, 4]), ("AA", [2])]


def test_many_categories_are_the_largest_and_all_others():
    rows = table(carrier=["a", "a", "b", "c", "d", "b"])
    assert named(cut(rows, "carrier", "at", 2)) == {"a": [0, 1], "b": [2, 5], "others (2)": [3, 4]}


def test_the_event_time_gives_months_in_their_order_also_without_a_zone():
    wanted = {"2013-01": [0, 1], "2013-02": [2, 3, 4, 5]}
    rows = table()
    assert list(named(cut(rows, "month", "at", 20)).items()) == list(wanted.items())
    plain = rows.set_column(0, "at", rows["at"].cast(pa.timestamp("ms")))
    assert named(cut(plain, "month", "at", 20)) == wanted
    assert list(named(cut(rows, "day", "at", 20))) == ["2013-01-31", "2013-02-01"]
    assert list(named(cut(rows, "week", "at", 20))) == ["2013-W05"]
    assert named(cut(rows, "hour", "at", 2)) == {"22": [0], "23": [1], "others (4)": [2, 3, 4, 5]}


def test_a_column_called_month_is_that_column():
    assert named(cut(table(month=["x"] * 6), "month", "at", 20)) == {"x": [0, 1, 2, 3, 4, 5]}


def test_measurements_are_cut_into_bands_with_what_is_no_number_apart():
    rows = table(delay=[1.0, float("nan"), 2.0, None, 3.0, 4.0])
    found = named(cut(rows, "delay", "at", 20))
    assert list(found) == ["1 to 1.75", "1.75 to 2.5", "2.5 to 3.25", "3.25 to 4", MISSING]
    assert found[MISSING] == [1, 3]
    money = table(fare=pa.array([Decimal("1.50")] * 6))
    assert named(cut(money, "fare", "at", 20)) == {"1.5 to 1.5": [0, 1, 2, 3, 4, 5]}


def test_whole_numbers_are_categories_until_they_are_too_many():
    rows = table(number=[1, 2, 3, 4, 5, 6])
    assert len(cut(rows, "number", "at", 6)) == 6
    assert next(iter(named(cut(rows, "number", "at", 5)))) == "1 to 2.25"
    assert set(named(cut(table(flag=[True, False, None] * 2), "flag", "at", 5))) == {"true", "false", MISSING}


@given(st.lists(st.one_of(st.none(), st.integers(0, 30)), min_size=1, max_size=80), st.integers(2, 12))
def test_every_row_is_in_one_group(values, most):
    rows = pa.table({"at": pa.array([HOURS[0]] * len(values)), "x": pa.array(values, pa.int32())})
    for column in (rows, rows.set_column(1, "x", rows["x"].cast(pa.string()))):
        groups = cut(column, "x", "at", most)
        assert sorted(np.concatenate([group.rows for group in groups]).tolist()) == list(range(len(values)))
        assert len(groups) <= most + 1


def test_an_unknown_column_is_named_with_what_there_is():
    schema = pa.schema({"carrier": pa.string(), "late": pa.int8(), "stops": pa.list_(pa.string()), "raw": pa.binary()})
    known(["carrier", "month", "late"], schema)
    with pytest.raises(
        SpecError, match=r"names tailnum, airport, which the dataset has not; it has carrier, late, stops"
    ):
        known(["carrier", "tailnum", "airport"], schema)
    with pytest.raises(SpecError, match=r"names stops \(list<\w+: string>\), raw \(binary\); rows are cut by text"):
        known(["stops", "carrier", "raw"], schema)


def test_rows_of_a_day_have_one_number():
    days = clusters(table(), "day", "at")
    assert (np.diff(days) == [0, 1, 0, 0, 0]).all()
    assert len(set(clusters(table(), "hour", "at").tolist())) == 6
    assert len(set(clusters(table(), "week", "at").tolist())) == 1
    dates = pa.table({"at": pa.array([datetime(2013, 1, 1).date(), datetime(2013, 1, 2).date()])})
    assert np.diff(clusters(dates, "day", "at")).tolist() == [1]
