"""Ratios of failure counts: an expectation of at most 1 under the null, reckoned exactly, and growth beyond it."""

from __future__ import annotations

import numpy as np
import pytest

from tidegate.judge import non_inferiority, rates


def binomial(n: int, p: float) -> np.ndarray:
    """Return the chances [n + 1] of 0..n failures."""
    chances = np.zeros(n + 1)
    chances[0] = 1.0
    for _ in range(n):
        chances[1:] = chances[1:] * (1 - p) + chances[:-1] * p
        chances[0] *= 1 - p
    return chances


def expectation(ratio, n: int, p: float, m: int, q: float) -> np.ndarray:
    mine, theirs = binomial(n, p), binomial(m, q)
    return sum(
        mine[x] * theirs[y] * np.exp(ratio(float(x), float(n), float(y), float(m)))
        for x in range(n + 1)
        for y in range(m + 1)
    )


@pytest.mark.parametrize("rate", [0.0, 0.001, 0.02, 0.3, 0.6])
@pytest.mark.parametrize(("n", "m"), [(1, 9), (5, 5), (9, 1), (12, 30)])
@pytest.mark.parametrize("margin", [1.0, 1.5])
def test_a_candidate_within_the_margin_gives_no_evidence_on_average_whatever_the_weather(rate, n, m, margin):
    def ratio(x, count, y, others):
        return rates.versus_champion(x, count, y, others, margin)

    for worse in (1.0, margin):
        assert (expectation(ratio, n, min(rate * worse, 1.0), m, rate) <= 1.0 + 1e-9).all()


def test_a_candidate_beyond_the_margin_gives_evidence_that_grows():
    chance, total = np.random.default_rng(2), np.zeros(len(rates.TIMES))
    for _ in range(100):
        total += rates.versus_champion(chance.binomial(20, 0.05), 20, chance.binomial(180, 0.002), 180, 1.5)
    assert total.max() > 30


@pytest.mark.parametrize(("n", "m"), [(0, 100), (100, 0)])
def test_a_scrape_in_which_one_of_them_answered_nothing_tells_nothing(n, m):
    assert (rates.versus_champion(0, n, 0, m, 1.5) == 0).all()
    assert (non_inferiority.log_ratios(0, n, 0, m, 0.01) == 0).all()


@pytest.mark.parametrize("limit", [0.0, 0.01, 0.3, 0.6])
@pytest.mark.parametrize("n", [1, 7, 40])
def test_a_rate_within_the_limit_gives_no_evidence_on_average(limit, n):
    for rate in (0.0, limit / 2, limit):
        chances = binomial(n, rate)
        mean = sum(chances[x] * np.exp(rates.above_limit(float(x), float(n), limit)) for x in range(n + 1))
        assert (mean <= 1.0 + 1e-9).all()


def test_all_answers_failing_is_seen_at_once():
    assert rates.above_limit(19, 19, 0.01).max() > 50


@pytest.mark.parametrize("margin", [0.005, 0.05])
@pytest.mark.parametrize(("n", "m"), [(5, 45), (20, 20)])
@pytest.mark.parametrize("rate", [0.0, 0.01, 0.2])
def test_a_candidate_worse_by_the_margin_is_not_shown_equal_on_average(margin, n, m, rate):
    def ratio(x, count, y, others):
        return non_inferiority.log_ratios(x, count, y, others, margin)

    for excess in (margin, 2 * margin, 0.5):
        assert (expectation(ratio, n, min(rate + excess, 1.0), m, rate) <= 1.0 + 1e-9).all()


def test_an_equal_candidate_is_shown_so_in_some_hundred_answers():
    chance, total, answers = np.random.default_rng(3), np.zeros(len(non_inferiority.FEWER)), 0
    while np.log(np.mean(np.exp(total))) < 3.0:
        total += non_inferiority.log_ratios(chance.binomial(20, 0.002), 20, chance.binomial(180, 0.002), 180, 0.01)
        answers += 20
    assert 200 <= answers <= 2000
