"""Reliability bins and the calibration error, on predictions that are right and on some that are not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.evaluate.calibration import BINS, bin_numbers, calibration_error, reliability


def calibrated(random, rows=4000):
    scores = random.beta(1, 3, rows)
    return (random.random(rows) < scores) * 1.0, scores


@given(st.lists(st.floats(0, 1), min_size=1, max_size=300))
def test_bins_hold_every_row_once_in_order_and_never_part_equal_predictions(scores):
    scores = np.array(scores)
    numbers = bin_numbers(scores)
    assert numbers.max() < BINS
    assert set(numbers) == set(range(numbers.max() + 1)), "no bin is empty"
    order = np.argsort(scores, kind="stable")
    assert (np.diff(numbers[order]) >= 0).all()
    for value in np.unique(scores):
        assert len(set(numbers[scores == value])) == 1


def test_distinct_predictions_fall_into_bins_of_equal_mass():
    counts = np.bincount(bin_numbers(np.random.default_rng(1).random(1003)))
    assert counts.size == BINS
    assert counts.max() - counts.min() <= 1


def test_calibrated_predictions_have_the_error_that_chance_gives_them_and_no_more():
    random = np.random.default_rng(2)
    errors = np.array([calibration_error(*calibrated(random, 1000)) for _ in range(400)])
    assert errors[:, 0].mean() == pytest.approx(errors[:, 1].mean(), rel=0.05)
    assert errors[:, 0].mean() > 0.015, "the error of few rows is never nothing, which is why chance is said beside it"


def test_a_shift_of_all_predictions_is_the_error():
    labels, scores = calibrated(np.random.default_rng(3), 20_000)
    error, by_chance = calibration_error(labels, np.clip(scores + 0.1, 0, 1))
    assert error == pytest.approx(0.1, abs=0.01)
    assert by_chance < 0.01


def test_days_that_differ_explain_more_by_chance():
    random = np.random.default_rng(4)
    day = np.repeat(np.arange(30), 400)
    scores = random.beta(1, 3, day.size)
    labels = (random.random(day.size) < np.clip(scores + random.normal(0, 0.15, 30)[day], 0, 1)) * 1.0
    assert calibration_error(labels, scores, day)[1] > 1.5 * calibration_error(labels, scores)[1]


def test_bins_of_calibrated_predictions_hold_the_diagonal_as_often_as_they_say():
    random = np.random.default_rng(5)
    held = [
        each.observed.low <= each.predicted <= each.observed.high
        for _ in range(100)
        for each in reliability(*calibrated(random))
    ]
    assert 0.93 <= np.mean(held) <= 0.97


def test_a_bin_says_rows_mean_prediction_and_share():
    (only,) = reliability(np.array([0.0, 1.0, 1.0, 1.0]), np.full(4, 0.6))
    assert (only.rows, only.predicted, only.observed.value) == (4, pytest.approx(0.6), 0.75)
