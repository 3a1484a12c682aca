"""Parity, recorded answers and targets, without a model."""

from __future__ import annotations

import importlib.util
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.errors import DataError, NeedsGpu, Permanent, SpecError
from tidegate.handoff import Dataset, Feature, Window
from tidegate.lake import Lake
from tidegate.optimise.parity import compare, spread
from tidegate.optimise.recording import ROWS, raw, record, tensor
from tidegate.optimise.target import target


def test_the_largest_difference_and_its_row_are_found():
    parity = compare(np.array([0.1, 0.5, 0.9]), np.array([0.1, 0.50005, 0.9]), 1e-4)
    assert (parity.rows, parity.worst_row) == (3, 1)
    assert parity.max_difference == pytest.approx(5e-5)


def test_a_difference_over_the_tolerance_names_row_values_and_limit():
    with pytest.raises(
        Permanent, match=r"differs by 0\.1 at row 2 .*0\.9 by the SavedModel, 0\.8 optimised; limit 0\.0001"
    ):
        compare(np.array([0.1, 0.5, 0.9]), np.array([0.1, 0.5, 0.8]), 1e-4)


@pytest.mark.parametrize("side", [0, 1])
def test_a_prediction_that_is_not_a_number_never_passes(side):
    pair = [np.array([0.1, 0.5]), np.array([0.1, 0.5])]
    pair[side] = np.array([0.1, np.nan])
    with pytest.raises(Permanent, match="at row 1"):
        compare(pair[0], pair[1], 1.0)


def test_no_rows_or_another_number_of_rows_is_no_parity():
    with pytest.raises(DataError):
        compare(np.array([]), np.array([]), 1.0)
    with pytest.raises(DataError):
        compare(np.array([0.1]), np.array([0.1, 0.2]), 1.0)


@given(rows=st.integers(0, 20_000), at_most=st.integers(2, 5_000))
def test_rows_to_compare_are_distinct_and_reach_from_first_to_last(rows, at_most):
    chosen = spread(rows, at_most)
    assert len(chosen) == len(set(chosen.tolist())) == min(rows, at_most)
    assert not rows or (chosen[0], chosen[-1]) == (0, rows - 1)


def feature(name, dtype):
    return Feature(name=name, encoding="standardise" if dtype == "FP32" else "vocabulary", dtype=dtype, size=1)


def recorded_of(folder: Path, rows: np.ndarray):
    """Record some of `rows` of a dataset of 1,000 held-out rows, whose probability is a thousandth of the row."""
    lake, count = Lake(f"file://{folder}"), np.arange(1000)
    table = pa.table({"late": count % 2, "name": [f"n{row}" for row in count], "delay": count / 2})
    with lake.publish("d") as draft:
        pq.write_table(table, draft.file("test.parquet"))
    dataset = Dataset(
        delivery="tiny", window=Window(start="2013-01-01", end="2013-02-01"), key="d", train_rows=0, test_rows=1000,
        label="late", features=[feature("name", "BYTES"), feature("delay", "FP32")], digest="d", slices={},
    )  # fmt: skip
    return record(lake, dataset, rows, (rows / 1000).astype(np.float32), 1e-4)


def test_answers_are_recorded_over_all_compared_rows_with_their_own_raw_values(tmp_path: Path):
    recorded = recorded_of(tmp_path, np.arange(0, 1000, 3))
    assert len(recorded.rows) == ROWS == 64
    assert (recorded.rows[0], recorded.rows[-1]) == (0, 999)
    assert recorded.columns["name"] == tuple(f"n{row}" for row in recorded.rows)
    assert recorded.columns["delay"] == tuple(row / 2 for row in recorded.rows)
    assert recorded.probabilities == pytest.approx([row / 1000 for row in recorded.rows], abs=1e-7)
    assert set(recorded.columns) == {"name", "delay"}, "the label is no input"


def test_the_same_rows_give_the_same_text(tmp_path: Path):
    first, second = recorded_of(tmp_path / "a", np.arange(1000)), recorded_of(tmp_path / "b", np.arange(1000))
    assert first.to_json() == second.to_json()


def test_fewer_rows_than_wanted_are_all_recorded(tmp_path: Path):
    assert recorded_of(tmp_path, np.array([5, 6, 7])).rows == (5, 6, 7)


@pytest.mark.parametrize(
    ("dtype", "values", "written"),
    [
        ("BYTES", ["AA", None], ("AA", None)),
        ("INT64", [7, None, True], (7, None, 1)),
        ("FP32", [1, 0.5, None, Decimal("2.5"), False], (1.0, 0.5, None, 2.5, 0.0)),
        ("FP32", [float("nan"), float("inf")], (None, None)),
    ],
)
def test_raw_values_are_written_as_json_has_them(dtype, values, written):
    assert raw(feature("x", dtype), values) == written


@pytest.mark.parametrize(
    ("dtype", "values", "sent"),
    [
        ("BYTES", ("AA", None), [["AA"], [""]]),
        ("INT64", (7, None), [[7], [-(2**63)]]),
        ("FP32", (0.5, None), [[0.5], [np.nan]]),
    ],
)
def test_raw_values_become_columns_as_a_server_gets_them(dtype, values, sent):
    column = tensor(feature("x", dtype), values)
    assert column.dtype == {"BYTES": object, "INT64": np.int64, "FP32": np.float32}[dtype]
    np.testing.assert_array_equal(column, np.array(sent, column.dtype))


def test_an_unknown_target_is_refused():
    with pytest.raises(SpecError, match="known: onnx, tensorrt, savedmodel"):
        target("tflite")


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="this machine has TensorRT")
def test_tensorrt_without_its_package_says_what_is_missing_and_what_to_use():
    with pytest.raises(NeedsGpu, match=r"package tensorrt .*optimise\.target to onnx"):
        target("tensorrt").check()
