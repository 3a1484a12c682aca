"""What is usual of the champion: known after a while, never below what its past hides, raised by weather it sees."""

from __future__ import annotations

import pytest

from tidegate.judge import usual

CALM = [(0.0, 180.0)] * usual.RECENT


def test_a_short_past_says_nothing():
    assert usual.share(0.0, 0.0, []) is None
    assert usual.share(2.0, 400.0, CALM[:2]) is None


def test_a_past_without_a_failure_may_hide_one():
    assert usual.share(0.0, 1800.0, CALM) == pytest.approx(1 / 1800)


def test_a_long_past_says_what_it_was():
    assert usual.share(360.0, 36_000.0, CALM) == pytest.approx(0.01, rel=0.02)


def test_weather_that_the_champion_sees_now_raises_it_at_once():
    assert usual.share(0.0, 5400.0, [*CALM[1:], (9.0, 180.0)]) == pytest.approx(2 * (9 - 3) / 180)


def test_a_few_failures_of_one_second_are_chance_and_a_few_late_answers_may_be_weather():
    few = [*CALM[1:], (2.0, 180.0)]
    assert usual.share(0.0, 5400.0, few) == pytest.approx(2 * (2 - 2**0.5) / 1800)
    assert usual.share(0.0, 5400.0, few, least=1.0) == pytest.approx(2 * (2 - 2**0.5) / 180)


def test_weather_of_the_last_intervals_is_not_forgotten_at_once():
    assert usual.share(0.0, 5400.0, [(90.0, 180.0), *CALM[1:]]) > 0.05
    assert usual.share(0.0, 5400.0, CALM) < 0.001


def test_one_failure_of_the_champion_is_no_weather():
    assert usual.share(0.0, 5400.0, [*CALM[1:], (1.0, 180.0)]) == usual.share(0.0, 5400.0, CALM)
