"""The martingale that raises the alarm: what it costs to look often, to begin late, and what it forgets."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tidegate.judge.evidence import Evidence, start_weight

ONE = np.array([1.0])


def test_the_weights_of_all_change_points_sum_to_one():
    numbers = np.arange(1, 200_001)
    some = sum(start_weight(int(number)) for number in numbers)
    beyond = 1.0 / (1.6928 * (1.0 + math.log(numbers[-1] + 0.5)))  # the integral of the rest
    assert some + beyond == pytest.approx(1.0, abs=1e-3)
    assert start_weight(1) > 0.5


def test_no_evidence_is_no_evidence_however_often_it_is_looked_at():
    evidence = Evidence.over(ONE)
    for _ in range(1000):
        evidence = evidence.after(np.zeros(1))
    assert evidence.log_value == pytest.approx(0.0, abs=1e-6)


def test_evidence_from_the_first_scrape_costs_its_weight_only():
    evidence = Evidence.over(ONE)
    for _ in range(10):
        evidence = evidence.after(np.array([1.0]))
    assert evidence.log_value == pytest.approx(10.0 + math.log(start_weight(1)), abs=0.3)


def test_a_long_good_past_hardly_delays_the_alarm():
    evidence = Evidence.over(ONE)
    for _ in range(300):
        evidence = evidence.after(np.array([-1.0]))
    assert evidence.log_value <= 0.0
    needed = 0
    while evidence.log_value < math.log(200):
        evidence = evidence.after(np.array([2.0]))
        needed += 1
    assert needed <= 9, "a product over all scrapes would need more than 150"


def test_the_leading_alternative_is_the_one_that_explains_the_data():
    evidence = Evidence.over(np.array([0.5, 0.3, 0.2]))
    for _ in range(5):
        evidence = evidence.after(np.array([-0.5, 0.2, 1.0]))
    assert evidence.leading == 2


def test_huge_ratios_overflow_nothing():
    evidence = Evidence.over(np.array([0.5, 0.5])).after(np.array([5000.0, -5000.0]))
    assert evidence.log_value == pytest.approx(5000.0, abs=2)
    assert math.isfinite(evidence.after(np.array([-9000.0, -9000.0])).log_value)


def test_the_chance_of_ever_passing_the_limit_is_within_the_budget():
    """Ville's inequality on a coin: 300 runs of 300 looks with a limit of 1/20."""
    chance, alarms, times = np.random.default_rng(1), 0, np.array([3.0])
    for _ in range(300):
        evidence = Evidence.over(ONE)
        for failed in chance.random(300) < 0.02:
            ratio = np.log(times) if failed else np.log((1 - 0.02 * times) / (1 - 0.02))
            evidence = evidence.after(ratio)
            if evidence.log_value >= math.log(20):
                alarms += 1
                break
    assert alarms <= 300 * 0.05
    assert alarms > 1, "a test that never alarms has no power to speak of"
