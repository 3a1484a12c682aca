"""A steady rise of memory is suspected, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest

from tidegate.train.leak import suspected

STEPS = list(range(0, 6400, 100))
GIB = float(1 << 30)


@pytest.mark.parametrize("seed", range(5))
def test_a_steady_rise_is_told_with_its_slope_also_in_noise_and_beside_outliers(seed):
    random = np.random.default_rng(seed)
    held = 4 * GIB + 200_000.0 * np.array(STEPS) + random.normal(0, 20e6, len(STEPS))
    held[::15] += GIB  # a batch larger than the others
    leak = suspected(STEPS, held.tolist())
    assert leak is not None
    assert leak.slope == pytest.approx(200_000, rel=0.1)
    assert leak.steps == 4700
    assert leak.grown == pytest.approx(leak.slope * leak.steps)


@pytest.mark.parametrize("seed", range(20))
def test_noise_around_a_level_is_no_leak(seed):
    random = np.random.default_rng(seed)
    assert suspected(STEPS, (4 * GIB + random.normal(0, 50e6, len(STEPS))).tolist()) is None


def test_a_warm_up_and_a_single_jump_are_no_leak():
    warming = [GIB * min(1.0, (number + 1) / 10) for number in range(len(STEPS))]
    jump = [GIB if number < 40 else 2 * GIB for number in range(len(STEPS))]
    saw = [GIB * (1 + number % 8 / 8) for number in range(len(STEPS))]
    assert [suspected(STEPS, held) for held in (warming, jump, saw)] == [None, None, None]


def test_a_rise_that_is_small_beside_what_is_held_is_no_leak():
    assert suspected(STEPS, [4 * GIB + 1000.0 * step for step in STEPS]) is None


def test_few_readings_say_nothing():
    assert suspected(STEPS[:14], [GIB * (1 + number) for number in range(14)]) is None
    assert suspected([], []) is None
