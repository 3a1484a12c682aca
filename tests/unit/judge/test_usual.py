"""What is usual of the champion: known after a while, never below what its past hides, raised by weather it sees."""

from __future__ import annotations

import pytest

from tidegate.judge.series import Did
from tidegate.judge.usual import Usual


def usual(past=30, answers=180.0, failed=0.0):
    found = Usual()
    for _ in range(past):
        found.remember(Did(answers, failed))
    return found


def test_a_short_past_says_nothing():
    assert Usual().share is None
    assert usual(past=2).share is None


def test_a_past_without_a_failure_may_hide_three():
    found = usual(past=10)
    assert found.share == pytest.approx(3 / 1800, rel=0.05)


def test_a_long_past_says_what_it_was():
    assert usual(past=300, failed=1.8).share == pytest.approx(0.01, rel=0.02)


def test_weather_that_the_champion_sees_now_raises_it_at_once():
    found = usual()
    found.see(Did(180.0, 9.0))
    assert found.share > 0.05
    for _ in range(10):
        found.see(Did(180.0, 0.0))
    assert found.share < 0.001


def test_one_failure_of_the_champion_is_no_weather():
    found, before = usual(), usual().share
    found.see(Did(180.0, 1.0))
    assert found.share == before
