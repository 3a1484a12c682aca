"""DeLong's components by mid-ranks, against the definition over all pairs, a bootstrap, and simulated truth."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.evaluate.delong import auc_influence
from tidegate.evaluate.intervals import around, around_share, spread
from tidegate.metrics import auc

ROWS = st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 5)), min_size=6, max_size=40).filter(
    lambda rows: 2 <= sum(row[0] for row in rows) <= len(rows) - 2
)


def by_pairs(is_positive, one, other):
    """Return DeLong's covariance of two AUCs, from the kernel of every pair, as the paper of 1988 writes it."""
    means, shares = [], []
    for scores in (one, other):
        ahead = (scores[is_positive][:, None] > scores[~is_positive][None, :]) * 1.0
        kernel = ahead + 0.5 * (scores[is_positive][:, None] == scores[~is_positive][None, :])
        means.append(kernel.mean())
        shares.append((kernel.mean(axis=1), kernel.mean(axis=0)))
    positives, negatives = int(is_positive.sum()), int((~is_positive).sum())
    of_positive = np.cov(shares[0][0], shares[1][0])[0, 1] / positives
    of_negative = np.cov(shares[0][1], shares[1][1])[0, 1] / negatives
    return means, of_positive + of_negative


@given(ROWS)
def test_the_fast_form_gives_the_variance_of_all_pairs_with_ties_for_one_model_and_for_a_pair(rows):
    is_positive, one, other = (np.array(column) for column in zip(*rows, strict=True))
    first, influence = auc_influence(is_positive, one)
    second, influence_of_other = auc_influence(is_positive, other)
    means, _ = by_pairs(is_positive, one, other)
    assert [first, second] == pytest.approx(means)
    assert first == pytest.approx(auc(is_positive, one))
    alone = spread(influence, is_positive, None)
    paired = spread(influence - influence_of_other, is_positive, None)
    variance = [by_pairs(is_positive, a, b)[1] for a, b in ((one, one), (other, other), (one, other))]
    assert alone is not None
    assert paired is not None
    assert alone[0] ** 2 == pytest.approx(variance[0], abs=1e-12)
    assert paired[0] ** 2 == pytest.approx(variance[0] + variance[1] - 2 * variance[2], abs=1e-12)


def drawn(random, rows=300, noise=(0.5, 0.9)):
    """Two models that see the same signal through noise of their own; their AUCs are known."""
    is_positive = random.random(rows) < 0.3
    signal = random.normal(1.2 * is_positive, 1.0)
    return is_positive, [signal + random.normal(0, each, rows) for each in noise]


def true_auc(noise):
    return NormalDist().cdf(1.2 / (2 * (1 + noise**2)) ** 0.5)


def test_a_bootstrap_of_either_class_finds_the_same_error():
    random = np.random.default_rng(5)
    is_positive, (one, other) = drawn(random)
    apart = auc_influence(is_positive, one)[1] - auc_influence(is_positive, other)[1]
    told = spread(apart, is_positive, None)
    assert told is not None
    classes = [np.flatnonzero(is_positive), np.flatnonzero(~is_positive)]
    seen = []
    for _ in range(1500):
        rows = np.concatenate([random.choice(each, each.size) for each in classes])
        seen.append(auc(is_positive[rows], one[rows]) - auc(is_positive[rows], other[rows]))
    assert told[0] == pytest.approx(np.std(seen), rel=0.08)


def test_95_percent_intervals_hold_the_true_auc_and_the_true_difference_as_often_as_they_say():
    random = np.random.default_rng(11)
    held = np.zeros(2)
    for _ in range(1000):
        is_positive, (one, other) = drawn(random, rows=200)
        first, influence = auc_influence(is_positive, one)
        second, influence_of_other = auc_influence(is_positive, other)
        alone = around_share(first, spread(influence, is_positive, None))
        apart = around(first - second, spread(influence - influence_of_other, is_positive, None))
        for place, (interval, truth) in enumerate(((alone, true_auc(0.5)), (apart, true_auc(0.5) - true_auc(0.9)))):
            assert interval.low is not None
            assert interval.high is not None
            held[place] += interval.low <= truth <= interval.high
    assert 935 <= held.min() <= held.max() <= 970  # 950, give or take three standard errors of 6.9


def test_rows_of_one_class_have_no_auc():
    with pytest.raises(ValueError, match="3 positive and 0 negative"):
        auc_influence(np.ones(3, bool), np.arange(3.0))
