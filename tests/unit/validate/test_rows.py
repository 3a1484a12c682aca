"""Validation: read = clean + quarantined, and every quarantined row can be traced and read."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidegate.contract import Column, Contract
from tidegate.contract.arrow import clean_schema, slice_schema
from tidegate.errors import DataError
from tidegate.handoff import Slice, Window
from tidegate.lake import Lake
from tidegate.units import utc
from tidegate.validate import validate

FORM = r"\d{4}-\d{2}-\d{2}T\d{2}:00:00Z"
RULES = Contract(
    "weather",
    "1",
    (
        Column("hour", "string", "int64", required=True, lexical_form=FORM, cast="epochSeconds", event_time=True),
        Column("wind", "float64", "float64", maximum=253),
    ),
    "weather.yaml",
    "a" * 64,
)
WINDOW = Window(start=utc("2013-01-01"), end=utc("2013-02-01"))
ROWS = [
    {"hour": "2013-01-01T06:00:00Z", "wind": 10.0, "_position": "weather/0/0"},
    {"hour": "yesterday at six", "wind": 999.0, "_position": "weather/0/1"},
    {"_position": "weather/0/2", "_error": "undecodable:not_utf8", "_bytes": b"{\xff"},
    {"hour": "2013-01-01T07:00:00Z", "wind": 1048.36, "_position": "weather/0/3"},
    {"hour": "2013-01-01T08:00:00Z", "wind": None, "_position": "weather/0/4"},
    {"hour": "2013-01-01T09:00:00Z", "wind": 500.0, "_position": "weather/0/5"},
]


def publish(lake: Lake, rows: list[dict[str, object]], kind: str = "kafka", **position: object) -> Slice:
    key = "slices/flights/weather/w/raw"
    with lake.publish(key) as draft:
        pq.write_table(pa.Table.from_pylist(rows, schema=slice_schema(RULES)), draft.file("raw.parquet"))
    return Slice(
        delivery="flights",
        source="weather",
        contract="weather",
        window=WINDOW,
        key=key,
        rows=len(rows),
        digest=lake.require(key)["digest"],
        position={"kind": kind, **position},
    )


def test_read_is_clean_plus_quarantined_and_each_bad_row_is_counted_under_its_first_reason(tmp_path: Path) -> None:
    lake = Lake(f"file://{tmp_path}")
    found = validate(publish(lake, ROWS), RULES, lake)

    assert (found.clean, found.quarantined) == (2, 4)
    assert found.reasons == {"hour:lexical_form": 1, "undecodable:not_utf8": 1, "wind:maximum": 2}
    clean = pq.read_table(lake.local(found.key, "clean.parquet"))
    assert clean.schema.equals(clean_schema(RULES))
    assert clean.to_pylist() == [{"hour": 1357020000, "wind": 10.0}, {"hour": 1357027200, "wind": None}]


def test_quarantine_keeps_the_raw_row_its_place_and_all_its_reasons(tmp_path: Path) -> None:
    lake = Lake(f"file://{tmp_path}")
    found = validate(publish(lake, ROWS), RULES, lake)
    poisoned, broken = pq.read_table(lake.local(found.key, "quarantine.parquet")).to_pylist()[:2]

    assert poisoned["position"] == "weather/0/1"
    assert poisoned["reasons"] == ["hour:lexical_form", "wind:maximum"]
    assert json.loads(poisoned["row"]) == {"hour": "yesterday at six", "wind": 999.0}
    assert broken["reason"] == "undecodable:not_utf8"
    assert broken["bytes"] == b"{\xff"


def test_each_reason_is_one_log_line_with_its_count_and_an_example(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lake = Lake(f"file://{tmp_path}")
    with caplog.at_level(logging.WARNING):
        validate(publish(lake, ROWS), RULES, lake)

    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert any("2 rows for wind:maximum, such as the one at weather/0/3" in line for line in lines)


def test_validating_again_changes_nothing_and_a_new_contract_makes_a_new_revision(tmp_path: Path) -> None:
    lake = Lake(f"file://{tmp_path}")
    slice = publish(lake, ROWS)
    first = validate(slice, RULES, lake)
    before = (tmp_path / first.key / "manifest.json").stat().st_mtime_ns

    assert validate(slice, RULES, lake) == first
    assert (tmp_path / first.key / "manifest.json").stat().st_mtime_ns == before

    hour, wind = RULES.columns
    looser = replace(RULES, columns=(hour, replace(wind, maximum=2000)), digest="b" * 64)
    assert validate(slice, looser, lake).clean == 4


def test_two_validations_write_the_same_bytes(tmp_path: Path) -> None:
    lakes = [Lake(f"file://{tmp_path}/{name}") for name in "ab"]
    digests = {validate(publish(lake, ROWS), RULES, lake).digest for lake in lakes}

    assert len(digests) == 1


def test_an_empty_slice_is_valid(tmp_path: Path) -> None:
    lake = Lake(f"file://{tmp_path}")
    found = validate(publish(lake, []), RULES, lake)

    assert (found.clean, found.quarantined, found.reasons) == (0, 0, {})


@pytest.mark.parametrize(
    ("kind", "position", "quarantined"),
    [("kafka", {}, 1), ("hdfs", {"windowed": True}, 1), ("hdfs", {"windowed": False}, 0), ("hdfs", {}, 0)],
)
def test_only_reference_data_may_be_of_another_time_than_the_window(
    tmp_path: Path, kind: str, position: dict[str, object], quarantined: int
) -> None:
    lake = Lake(f"file://{tmp_path}")
    late = [{"hour": "2013-03-01T00:00:00Z", "_position": "weather/0/9"}]

    assert validate(publish(lake, late, kind, **position), RULES, lake).quarantined == quarantined


def test_rows_that_do_not_add_up_are_refused_and_nothing_is_published(tmp_path: Path) -> None:
    lake = Lake(f"file://{tmp_path}")
    slice = publish(lake, ROWS).model_copy(update={"rows": 7})
    with pytest.raises(DataError, match=r"7 rows were read, 6 are in the slice, 2 clean and 4 quarantined"):
        validate(slice, RULES, lake)
    assert lake.keys("slices/flights/weather") == [slice.key]
