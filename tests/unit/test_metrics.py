from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.metrics import auc, log_loss

ROWS = st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40)


def by_pairs(labels: list[bool], scores: list[int]) -> float:
    """The definition: over all pairs of a positive and a negative row, how often the positive one is ahead."""
    ahead = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p, is_positive in zip(scores, labels, strict=True)
        for n, other in zip(scores, labels, strict=True)
        if is_positive and not other
    ]
    return sum(ahead) / len(ahead) if ahead else math.nan


@given(ROWS)
def test_auc_is_the_share_of_pairs_in_the_right_order_with_ties_as_halves(rows: list[tuple[bool, int]]) -> None:
    labels, scores = [row[0] for row in rows], [row[1] for row in rows]
    assert auc(np.array(labels), np.array(scores)) == pytest.approx(by_pairs(labels, scores), nan_ok=True)


def test_auc_is_not_a_number_where_it_is_undefined_or_a_score_is_missing() -> None:
    assert math.isnan(auc(np.array([1, 1]), np.array([0.1, 0.2])))
    assert math.isnan(auc(np.array([]), np.array([])))
    assert math.isnan(auc(np.array([0, 1, 1]), np.array([0.1, 0.9, math.nan])))


def test_auc_takes_columns_as_well_as_vectors() -> None:
    assert auc(np.array([[0], [1]]), np.array([0.2, 0.7])) == 1.0


def test_log_loss_of_a_sure_and_wrong_answer_is_large_but_finite() -> None:
    assert log_loss(np.array([1, 0]), np.array([0.5, 0.5])) == pytest.approx(math.log(2))
    assert 10 < log_loss(np.array([1]), np.array([0.0])) < 20
    assert math.isnan(log_loss(np.array([]), np.array([])))


def test_labels_and_scores_must_be_one_to_one() -> None:
    with pytest.raises(ValueError, match="2 labels but 1 scores"):
        auc(np.array([0, 1]), np.array([0.5]))
