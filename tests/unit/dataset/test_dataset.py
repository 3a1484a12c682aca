"""The training table: which slices it takes, how it is split, what is refused, and that it is always the same."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidegate import keys
from tidegate.contract import Column, Contract
from tidegate.contract.arrow import clean_schema
from tidegate.contract.encodings import Encodings
from tidegate.dataset import build, chosen_encodings, read_select, select
from tidegate.delivery import Delivery
from tidegate.errors import DataError, SpecError
from tidegate.handoff import Dataset, Window
from tidegate.lake import Lake
from tidegate.units import utc

QUARTER = Window(start=utc("2013-01-01"), end=utc("2013-04-01"))
TRIPS = Contract(
    "trips",
    "1",
    (
        Column("moment", "timestamp", "timestamp", required=True, event_time=True),
        Column("line", "string", "string", encoding="vocabulary"),
        Column("number", "int32", "int32", encoding="vocabulary"),
        Column("delay", "int32", "int32"),
        Column("note", "string", "string"),
    ),
    "trips.yaml",
    "0" * 64,
)
STOPS = Contract(
    "stops",
    "1",
    (Column("line", "string", "string", encoding="vocabulary"), Column("length", "float64", "float64")),
    "stops.yaml",
    "1" * 64,
)
CONTRACTS = {"trips": TRIPS, "stops": STOPS}
SQL = """-- a comment; with a semicolon
SELECT t.moment, t.delay > 15 AS late, t.line, t.number, s.length
FROM trips t LEFT JOIN stops s USING (line)
WHERE t.delay IS NOT NULL;
-- the end
"""


def delivery(**dataset: Any) -> Delivery:
    return Delivery.model_validate(
        {
            "delivery": "d",
            "folder": ".",
            "sources": {
                "trips": {"contract": "trips", "postgres": {"connection": "c", "table": "trips", "time": "moment"}},
                "stops": {"contract": "stops", "hdfs": {"connection": "c", "path": "/stops"}},
            },
            "dataset": {"sql": "d.sql", "label": "late", "event_time": "moment", "at_least": 10, **dataset},
            "train": {"model": "m:f"},
        }
    )


def trips(window: Window, rows: int) -> Any:
    step = (window.end - window.start) / max(rows, 1)
    lines = ["A", "B", "C" if window.start.month == 3 else "A"]
    found = [
        {
            "moment": window.start + step * n,
            "line": lines[n % 3],
            "number": 100 + n % 4 + window.start.month,
            "delay": None if n % 10 == 9 else (20 if n % 4 == 0 else n % 15),
        }
        for n in range(rows)
    ]
    return pa.Table.from_pylist(found, schema=clean_schema(TRIPS))


def put(lake: Lake, source: str, window: Window, table: Any) -> None:
    with lake.publish(keys.validated("d", source, window)) as draft:
        pq.write_table(table, draft.file("clean.parquet"))


def fill(lake: Lake, skip: str = "", rows: int = 40) -> None:
    for number, window in enumerate(keys.windows(QUARTER, "1 month")):
        put(lake, "trips", window, trips(window, 0 if skip == "rows" else rows))
        lengths = {"A": 1.0 + number, "B": 10.0}  # the reference data change each month: only the newest count
        stops = [{"line": line, "length": length} for line, length in lengths.items()]
        put(lake, "stops", window, pa.Table.from_pylist(stops, schema=clean_schema(STOPS)))


def make(lake: Lake, folder: Path, sql: str = SQL, **dataset: Any) -> Dataset:
    (folder / "d.sql").write_text(sql)
    return build(delivery(**dataset), QUARTER, lake, folder, CONTRACTS)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(f"file://{tmp_path}/lake")
    fill(lake)
    return lake


def test_the_last_month_is_held_out_and_rows_stand_in_time_order(lake: Lake, tmp_path: Path) -> None:
    found = make(lake, tmp_path)
    train = pq.read_table(lake.local(found.key, "train.parquet"))
    test = pq.read_table(lake.local(found.key, "test.parquet"))

    assert (found.train_rows, found.test_rows) == (72, 36)
    assert max(train.column("moment").to_pylist()) < utc("2013-03-01") <= min(test.column("moment").to_pylist())
    assert train.column("moment").to_pylist() == sorted(train.column("moment").to_pylist())
    assert train.schema.field("late").type == pa.int8()
    assert set(train.column("late").to_pylist()) == {0, 1}


def test_features_keep_the_selects_order_and_take_their_encoding_from_contract_or_type(
    lake: Lake, tmp_path: Path
) -> None:
    found = make(lake, tmp_path)

    assert [(f.name, f.encoding, f.dtype) for f in found.features] == [
        ("line", "vocabulary", "BYTES"),
        ("number", "vocabulary", "INT64"),
        ("length", "standardise", "FP32"),
    ]


def test_vocabularies_know_the_held_out_rows_but_means_only_the_training_rows(lake: Lake, tmp_path: Path) -> None:
    found = make(lake, tmp_path)
    encodings = Encodings.from_json(lake.read(found.key, "encodings.json"))
    line, number, length = encodings.features
    train = pq.read_table(lake.local(found.key, "train.parquet")).column("length").to_numpy()

    assert line.vocabulary == ("A", "B", "C")
    assert found.features[0].size == 3
    assert list(number.vocabulary) == sorted(number.vocabulary)
    assert length.mean == pytest.approx(float(np.nanmean(train)))
    assert line.encode(np.array(["Z"], dtype=object)).tolist() == [3]


def test_reference_data_are_those_of_the_newest_window_only(lake: Lake, tmp_path: Path) -> None:
    found = make(lake, tmp_path)
    train = pq.read_table(lake.local(found.key, "train.parquet"))

    assert {v for v in train.column("length").to_pylist() if v} == {3.0, 10.0}
    assert sorted(found.slices) == [
        "stops/20130301T000000Z-20130401T000000Z",
        "trips/20130101T000000Z-20130201T000000Z",
        "trips/20130201T000000Z-20130301T000000Z",
        "trips/20130301T000000Z-20130401T000000Z",
    ]


def test_of_each_slice_the_newest_revision_is_taken_and_named(lake: Lake, tmp_path: Path) -> None:
    february = Window(start=utc("2013-02-01"), end=utc("2013-03-01"))
    before = make(lake, tmp_path)
    put(lake, "trips", february, trips(february, 80))
    after = make(lake, tmp_path)

    place = f"trips/{february.id}"
    assert (before.train_rows, after.train_rows) == (72, 108)
    assert after.slices[place] == lake.require(keys.validated("d", "trips", february))["digest"]
    assert {name for name in after.slices if after.slices[name] != before.slices[name]} == {place}


def test_two_builds_give_the_same_bytes(tmp_path: Path) -> None:
    digests = set()
    for name in "ab":
        lake = Lake(f"file://{tmp_path}/{name}")
        fill(lake)
        digests.add(make(lake, tmp_path).digest)
    assert len(digests) == 1


def test_what_was_checked_is_in_the_manifest(lake: Lake, tmp_path: Path) -> None:
    manifest = lake.require(make(lake, tmp_path).key)
    assert manifest["sql"] == {"file": "d.sql", "sha256": hashlib.sha256(SQL.encode()).hexdigest()}
    assert sorted(manifest["files"]) == ["encodings.json", "statistics.json", "test.parquet", "train.parquet"]
    checks = manifest["checks"]
    assert checks["causality"] == {
        "cuts": ["2013-01-22T16:48:00Z", "2013-02-13T14:24:00Z", "2013-03-07T04:48:00Z"],
        "rows": [27, 54, 81],  # quarters of the 108 rows
        "later": [91, 61, 31],  # of 120
        "around": None,
    }


def test_a_feature_that_sees_the_future_is_refused_and_nothing_is_published(lake: Lake, tmp_path: Path) -> None:
    sql = SQL.replace("t.number,", "t.number,\n count(*) OVER (PARTITION BY t.line) AS trips,")
    with pytest.raises(SpecError, match=r"d\.sql:3: .*'trips' sees the future: of the row at 2013-01-2"):
        make(lake, tmp_path, sql)
    assert lake.keys("datasets") == []


def test_the_source_of_a_label_is_one_of_the_delivery() -> None:
    with pytest.raises(ValueError, match=r"label_from names 'buses', no source Remedy: name one of: trips, stops"):
        delivery(label_from=["buses"])


def test_a_missing_window_is_named_with_the_dag_that_makes_it(lake: Lake, tmp_path: Path) -> None:
    february = Window(start=utc("2013-02-01"), end=utc("2013-03-01"))
    lake.delete(keys.validated("d", "trips", february))

    with pytest.raises(DataError, match=r"'trips' has no slice of \[2013-02-01 .*run ingest__d for it"):
        make(lake, tmp_path)


def test_a_window_that_is_no_whole_number_of_slices_is_refused(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "d.sql").write_text(SQL)
    odd = Window(start=QUARTER.start, end=QUARTER.end - timedelta(days=3))
    with pytest.raises(DataError, match="not a whole number of 1 month"):
        build(delivery(), odd, lake, tmp_path, CONTRACTS)


def test_too_few_training_rows_are_refused_with_the_count_and_the_limit(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="72 training rows, at least 73 are asked for"):
        make(lake, tmp_path, at_least=73)
    assert lake.keys("datasets") == []
    assert make(lake, tmp_path, at_least=72).train_rows == 72


def test_empty_windows_are_too_few_rows_not_a_crash(tmp_path: Path) -> None:
    lake = Lake(f"file://{tmp_path}/lake")
    fill(lake, skip="rows")
    with pytest.raises(DataError, match="0 training rows"):
        make(lake, tmp_path)


@pytest.mark.parametrize(
    ("sql", "error", "message"),
    [
        ("SELECT moment, delay > 15 AS late, note FROM trips WHERE delay IS NOT NULL", SpecError, "'note'.*vocabulary"),
        (
            "SELECT moment, delay > 15 AS late, moment AS other FROM trips WHERE delay IS NOT NULL",
            SpecError,
            "'other'.*number",
        ),
        ("SELECT moment, delay > 15 AS late FROM trips WHERE delay IS NOT NULL", SpecError, "no feature"),
        ("SELECT moment, line FROM trips", SpecError, r"no column 'late' \(dataset.label\)"),
        ("SELECT delay > 15 AS late, line FROM trips", SpecError, r"no column 'moment' \(dataset.event_time\)"),
        ("SELECT moment, delay > 15 AS late, line FROM trips", DataError, "values? ?None|has None"),
        ("SELECT moment, delay AS late, line FROM trips WHERE delay IS NOT NULL", DataError, "only 0 and 1"),
        ("SELECT moment, line AS late, number FROM trips", SpecError, "string; make it a boolean"),
        (
            "SELECT line AS moment, delay > 15 AS late FROM trips WHERE delay IS NOT NULL",
            SpecError,
            "make it a timestamp",
        ),
        ("SELECT NULL::TIMESTAMP AS moment, true AS late, number FROM trips", DataError, "have no moment"),
        ("SELECT moment,\n  nope AS late\nFROM trips", SpecError, r"d\.sql:2: .*nope"),
        ("SELECT moment FROM buses", SpecError, r"d\.sql:1: .*buses"),
        ("SELECT moment FROM\n WHERE", SpecError, r"d\.sql:2: .*syntax error"),
        ("DROP TABLE trips", SpecError, "holds DROP; write exactly one SELECT"),
        ("SELECT 1; SELECT 2", SpecError, "holds SELECT, SELECT"),
        ("-- nothing", SpecError, "holds nothing"),
        ("SELECT * FROM read_csv('/etc/passwd')", SpecError, "disabled"),
    ],
)
def test_what_the_select_must_not_do_is_said(
    lake: Lake, tmp_path: Path, sql: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(lake, tmp_path, sql)


def test_two_contracts_that_encode_a_name_differently_are_refused() -> None:
    other = Contract("x", "1", (Column("number", "int32", "int32", encoding="standardise"),), "x.yaml", "")
    schema = pa.schema([("moment", pa.timestamp("us")), ("late", pa.int8()), ("number", pa.int32())])
    with pytest.raises(SpecError, match="trips, other encode 'number' differently"):
        chosen_encodings(schema, delivery().dataset, {"trips": TRIPS, "other": other})


def test_a_missing_sql_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"nowhere\.sql cannot be read"):
        read_select(tmp_path / "nowhere.sql")


def test_rows_with_equal_times_are_ordered_by_all_their_columns(tmp_path: Path) -> None:
    (tmp_path / "d.sql").write_text("SELECT moment, late, n FROM t")
    moment = [utc("2013-01-01")] * 50
    values = [(n * 7) % 50 for n in range(50)]
    table = pa.table({"moment": moment, "late": [0, 1] * 25, "n": values})
    found = select({"t": table}, tmp_path / "d.sql", delivery().dataset)

    assert found.to_pylist() == sorted(found.to_pylist(), key=lambda row: (row["late"], row["n"]))
