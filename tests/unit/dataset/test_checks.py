"""What is said of a dataset's rows: leaks of the label, rows on both sides of the split, odd numbers, figures."""

from __future__ import annotations

import json
import logging
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
from tidegate.dataset import build
from tidegate.delivery import Delivery
from tidegate.errors import DataError, SpecError
from tidegate.handoff import Dataset, Window
from tidegate.lake import Lake
from tidegate.units import utc

SPRING = Window(start=utc("2013-01-01"), end=utc("2013-03-01"))
EVENTS = Contract(
    "events",
    "1",
    (
        Column("t", "timestamp", "timestamp", required=True, event_time=True),
        Column("kind", "string", "string", encoding="vocabulary"),
        Column("x", "float64", "float64"),
        Column("y", "float64", "float64"),
        Column("outcome", "int32", "int32"),
    ),
    "events.yaml",
    "0" * 64,
)


def rows_of(window: Window, count: int = 400) -> list[dict[str, Any]]:
    random = np.random.default_rng(window.start.month)
    step = (window.end - window.start) / count
    return [
        {
            "t": window.start + step * n,
            "kind": "abc"[n % 3],
            "x": float(random.normal()),
            "y": float(random.normal()) if n % 5 else None,
            "outcome": int(random.integers(0, 100)),
        }
        for n in range(count)
    ]


class Place:
    """A lake with two months of one source, and the delivery's file."""

    def __init__(self, folder: Path):
        self.folder, self.lake = folder, Lake(f"file://{folder}/lake")
        self.months = [rows_of(window) for window in keys.windows(SPRING, "1 month")]

    def build(self, features: str, source: str = "events", **dataset: Any) -> Dataset:
        for window, rows in zip(keys.windows(SPRING, "1 month"), self.months, strict=True):
            with self.lake.publish(keys.validated("d", "events", window)) as draft:
                pq.write_table(pa.Table.from_pylist(rows, clean_schema(EVENTS)), draft.file("clean.parquet"))
        (self.folder / "d.sql").write_text(f"SELECT t, outcome > 70 AS late, {features}\nFROM {source}")
        delivery = Delivery.model_validate(
            {
                "delivery": "d",
                "folder": ".",
                "sources": {
                    "events": {"contract": "events", "postgres": {"connection": "c", "table": "events", "time": "t"}}
                },
                "dataset": {"sql": "d.sql", "label": "late", "event_time": "t", "at_least": 10, **dataset},
                "train": {"model": "m:f"},
            }
        )
        return build(delivery, SPRING, self.lake, self.folder, {"events": EVENTS})

    def checks(self, features: str, source: str = "events", **dataset: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.lake.require(self.build(features, source, **dataset).key)["checks"]
        return found

    def statistics(self, found: Dataset) -> Any:
        return json.loads(self.lake.read(found.key, "statistics.json"))["features"]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def hidden(expression: str) -> str:
    """Return what stands behind FROM to have a column `leak` whose making the outermost SELECT does not show."""
    return f"(SELECT *, {expression} AS leak FROM events) AS events"


@pytest.mark.parametrize(
    "leak",
    [
        "outcome",
        "-outcome * 3.5",
        "outcome + x / 1e6",
        "CASE WHEN outcome > 70 THEN NULL ELSE x END",
        "abs(outcome - 85)",  # not in the order of the label: told by the training rows of each value
        "CASE WHEN outcome > 70 THEN 'NaN'::DOUBLE ELSE 1 END",
    ],
)
def test_a_feature_that_tells_the_label_is_refused_with_its_figure(place: Place, leak: str) -> None:
    with pytest.raises(
        DataError, match=r"leak \(AUC (1\.0000|0\.99\d\d)\).*the limit is 0\.99 .*take it out"
    ) as refused:
        place.build("x, leak", hidden(leak))
    assert "x (AUC" not in str(refused.value)
    assert place.lake.keys("datasets") == []


def test_a_vocabulary_that_tells_the_label_is_refused(place: Place) -> None:
    for rows in place.months:
        for row in rows:
            row["kind"] = f"k{row['outcome']}"
    with pytest.raises(DataError, match=r"kind \(AUC"):
        place.build("x, kind")


def test_the_limit_can_be_moved_and_a_feature_allowed(place: Place) -> None:
    noisy = hidden("outcome + 12 * x")
    found = place.checks("x, leak", noisy)
    auc = found["leakage"]["auc"]
    assert 0.9 < auc["leak"] < 0.99
    assert 0.5 <= auc["x"] < 0.65
    with pytest.raises(DataError, match=r"the limit is 0\.9 "):
        place.build("x, leak", noisy, leakage={"auc": 0.9})
    assert place.checks("x, leak", noisy, leakage={"auc": 0.9, "allow": ["leak"]})["leakage"]["allowed"] == ["leak"]


@pytest.mark.parametrize(
    "feature",
    [
        "outcome",
        "outcome AS other",
        "OUTCOME AS Other",
        "events.outcome / 2 AS other",
        "outcome - 1 AS o,\n o * 2 AS other",
        "late::INT AS other",
    ],
)
def test_the_columns_of_the_label_are_refused_by_whatever_name(place: Place, feature: str) -> None:
    with pytest.raises(
        SpecError, match=r"d\.sql:\d: .*'\w+' is made of (events\.)?outcome, and so is the label 'late'"
    ):
        place.build(f"x, {feature}")


def test_a_column_of_the_label_may_be_allowed_if_it_is_known_in_time(place: Place) -> None:
    allowed = {"allow": ["other"]}
    assert place.build("x, outcome AS other", leakage=allowed).features[1].name == "other"


def test_too_few_held_out_rows_of_a_label_show_nothing_and_that_is_said(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.months[1] = place.months[1][:30]
    with caplog.at_level(logging.WARNING):
        assert place.checks("x")["leakage"]["auc"] is None
    assert "too few held-out rows of either label" in caplog.text


def test_rows_on_both_sides_of_the_split_are_counted_and_warned_about(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    for row, again in zip(place.months[0][:7], place.months[1], strict=False):
        again |= {**row, "t": again["t"]}
    with caplog.at_level(logging.WARNING):
        assert place.checks("kind, x, y")["repeated_in_test"] == 7
    assert "d: 7 held-out rows stand in training too" in caplog.text


def test_numbers_that_are_not_finite_are_counted_and_touch_no_constant(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    plain = place.build("x")
    mean = place.statistics(plain)["x"]["train"]["mean"]
    place.months[0][0]["x"], place.months[0][1]["x"], place.months[1][0]["x"] = (
        float("nan"),
        float("inf"),
        float("-inf"),
    )
    with caplog.at_level(logging.WARNING):
        odd = place.build("x")
    figures = place.statistics(odd)["x"]
    assert (figures["train"]["not_finite"], figures["test"]["not_finite"]) == (2, 1)
    assert place.lake.require(odd.key)["checks"]["not_finite"] == {"x": 3}
    assert figures["train"]["mean"] == pytest.approx(mean, abs=0.05)
    assert "feature x is not finite in 3 rows" in caplog.text


def test_numbers_too_large_to_be_squared_are_refused(place: Place) -> None:
    place.months[0][0]["x"] = 1e300
    with pytest.raises(DataError, match=r"'x' has values whose squares exceed a double"):
        place.build("x")


def test_rows_outside_of_the_window_are_counted_on_either_side(place: Place) -> None:
    place.months[0][0]["t"] = SPRING.start - timedelta(minutes=1)
    place.months[1][-1]["t"] = SPRING.end
    found = place.build("x")
    assert place.lake.require(found.key)["checks"]["outside_window"] == {"before": 1, "after": 1}
    assert (found.train_rows, found.test_rows) == (400, 400)


def test_no_rows_are_an_error_that_says_so(place: Place) -> None:
    place.months = [[], []]
    with pytest.raises(DataError, match="0 training rows, at least 10 are asked for"):
        place.build("x")


def test_a_test_part_without_rows_is_a_dataset_whose_figures_are_empty(place: Place) -> None:
    place.months[1] = []
    found = place.build("x, kind")
    assert (found.train_rows, found.test_rows) == (400, 0)
    assert place.statistics(found)["x"]["test"]["quantiles"]["p50"] is None
    assert place.statistics(found)["kind"]["test"]["unseen_share"] == 0.0


def test_the_figures_are_those_of_the_rows(place: Place) -> None:
    place.months[1][0]["kind"], place.months[1][1]["kind"], place.months[1][2]["kind"] = "new", "new", None
    found = place.build("kind, x, y")
    train = pq.read_table(place.lake.local(found.key, "train.parquet"))
    figures = place.statistics(found)
    x, y = (train.column(name).drop_null().to_numpy() for name in "xy")

    assert figures["y"]["train"]["nulls"] == 80
    for name, values in (("x", x), ("y", y)):
        told = figures[name]["train"]
        assert told["count"] == len(values)
        assert told["mean"] == pytest.approx(values.mean(), rel=1e-12)
        assert told["std"] == pytest.approx(values.std(), rel=1e-12)
        assert (told["min"], told["max"]) == (values.min(), values.max())
        for key, share in (("p1", 0.01), ("p25", 0.25), ("p50", 0.5), ("p99", 0.99)):
            assert told["quantiles"][key] == np.quantile(values, share, method="inverted_cdf")
    assert figures["kind"]["train"]["top"] == [["a", 134], ["b", 133], ["c", 133]]
    test = figures["kind"]["test"]
    assert (test["count"], test["nulls"], test["unseen"], test["unseen_share"]) == (399, 1, 2, round(2 / 399, 6))


def test_constants_do_not_depend_on_where_slices_end_nor_on_threads(place: Place) -> None:
    found = [
        place.build("kind, x, y, sqrt(abs(x)) AS z", threads=threads, memory=m)
        for threads, m in ((1, "1GB"), (2, "64MB"))
    ]
    assert found[0] == found[1]
    encodings = Encodings.from_json(place.lake.read(found[0].key, "encodings.json"))
    assert encodings.features[1].mean == place.statistics(found[0])["x"]["train"]["mean"]
    assert len(place.lake.revisions(found[0].key)) == 1
