"""Parity and targets, without a model."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.errors import DataError, NeedsGpu, Permanent, SpecError
from tidegate.optimise.parity import compare, spread
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


def test_an_unknown_target_is_refused():
    with pytest.raises(SpecError, match="known: onnx, tensorrt"):
        target("tflite")


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="this machine has TensorRT")
def test_tensorrt_without_its_package_says_what_is_missing_and_what_to_use():
    with pytest.raises(NeedsGpu, match=r"package tensorrt .*optimise\.target to onnx"):
        target("tensorrt").check()
