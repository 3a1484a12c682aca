"""Intervals keep their promise: by exact sums for shares, by simulation where rows of a day depend on each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tidegate.evaluate.delong import auc_influence
from tidegate.evaluate.intervals import LEAST_CLUSTERS, around, around_share, spread, t_quantile, wilson, worth


@pytest.mark.parametrize("freedom", [9, 12, 27, 99, 10_000])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.975, 0.999, 0.0005])
def test_students_quantile_is_that_of_scipy(share, freedom):
    assert t_quantile(share, freedom) == pytest.approx(stats.t.ppf(share, freedom), rel=2e-3, abs=1e-9)


@given(rows=st.integers(1, 200), data=st.data())
def test_wilsons_interval_is_scipys_and_holds_the_share(rows, data):
    successes = data.draw(st.integers(0, rows))
    ours = wilson(successes, rows)
    theirs = stats.binomtest(successes, rows).proportion_ci(method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert 0 <= ours.low <= ours.value <= ours.high <= 1  # type: ignore[operator]


def test_wilsons_interval_covers_any_share_of_few_rows_on_average_as_it_says():
    rows, shares = 25, np.linspace(0.02, 0.98, 97)
    intervals = [wilson(successes, rows) for successes in range(rows + 1)]
    covered = [
        sum(
            math.comb(rows, k) * share**k * (1 - share) ** (rows - k)
            for k, each in enumerate(intervals)
            if each.low <= share <= each.high  # type: ignore[operator]
        )
        for share in shares
    ]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.01)
    assert min(covered) > 0.83


@pytest.mark.parametrize(("successes", "rows"), [(0, 0), (3, 2), (-1, 2)])
def test_a_share_of_no_rows_is_refused(successes, rows):
    with pytest.raises(ValueError, match=f"{successes} successes of {rows} rows"):
        wilson(successes, rows)


def days(random, count=40, rows=30):
    """Rows of days: each day has an effect of its own on what happens and on what the model says."""
    day = np.repeat(np.arange(count), rows)
    is_positive = random.random(day.size) < 1 / (1 + np.exp(1 - random.normal(0, 1, count)[day]))
    scores = random.normal(is_positive, 1) + random.normal(0, 0.7, count)[day]
    return day, is_positive, scores


def test_rows_of_a_day_that_depend_on_each_other_need_intervals_by_day():
    random = np.random.default_rng(3)
    estimates, by_row, by_day = [], [], []
    for _ in range(400):
        day, is_positive, scores = days(random)
        auc, influence = auc_influence(is_positive, scores)
        estimates.append(auc)
        by_row.append(around_share(auc, spread(influence, is_positive, None)))
        by_day.append(around_share(auc, spread(influence, is_positive, day)))
    truth = np.mean(estimates)
    covered = [np.mean([each.low <= truth <= each.high for each in every]) for every in (by_row, by_day)]
    assert covered[0] < 0.85, "counting rows one by one would be too sure"
    assert 0.92 <= covered[1] <= 0.98


def test_days_that_do_not_differ_give_what_rows_give():
    random = np.random.default_rng(4)
    values = random.normal(size=20_000)
    influence = (values - values.mean()) / values.size
    alone = spread(influence, np.zeros(values.size), None)
    by_day = spread(influence, np.zeros(values.size), np.arange(values.size) % 200)
    assert alone is not None
    assert by_day is not None
    assert alone[0] == pytest.approx(values.std() / values.size**0.5, rel=1e-3)
    assert by_day[0] == pytest.approx(alone[0], rel=0.12)
    assert by_day[1] == 199


def test_too_few_days_or_rows_give_no_interval():
    influence = np.array([0.1, -0.1] * 9)
    assert spread(influence, np.zeros(18), np.arange(18) // 2 % (LEAST_CLUSTERS - 1)) is None
    assert spread(influence, np.zeros(18), np.arange(18) % LEAST_CLUSTERS) is not None
    assert spread(np.array([0.0, 0.0]), np.array([0, 1]), None) is None
    assert around(0.3, None).high is None


def test_an_interval_of_an_auc_stays_between_0_and_1_and_a_faultless_one_has_none():
    near = around_share(0.98, (0.01, 50.0))
    assert near.low is not None
    assert near.high is not None
    assert 0.5 < near.low < 0.98 < near.high < 1
    assert around_share(1.0, (0.0, 50.0)).low is None


def test_rows_are_worth_no_more_than_they_are_and_no_less_than_their_days():
    random = np.random.default_rng(6)
    hits = (random.random(1000) < 0.3) * 1.0
    assert worth(hits, None) == 1000
    assert worth(hits, np.arange(1000) % 50) == pytest.approx(1000, rel=0.4)
    alike = np.repeat((random.random(50) < 0.3) * 1.0, 20)
    assert worth(alike, np.repeat(np.arange(50), 20)) == 50
    assert worth(np.zeros(100), np.arange(100) % 20) == 20
