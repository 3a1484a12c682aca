"""How far a call may run, and the learning rate at each step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.train.pace import Rate, call_length, until_mark


@given(
    first=st.integers(0, 500),
    wished=st.integers(1, 512),
    per_epoch=st.integers(1, 100),
    every=st.none() | st.integers(1, 60),
    marks=st.lists(st.integers(0, 600), max_size=2),
)
def test_no_mark_is_run_over(first, wished, per_epoch, every, marks):
    count = until_mark(first, wished, per_epoch, every, marks)
    assert 1 <= count <= wished
    passed = range(first + 1, first + count)
    assert not any(step % per_epoch == 0 or step in marks for step in passed)
    assert every is None or not any(step % every == 0 for step in passed)


@pytest.mark.parametrize(
    ("steps", "seconds", "before", "wanted"),
    [(4, 8.0, 4, 1), (4, 0.004, 4, 8), (64, 0.5, 64, 64), (512, 0.1, 512, 512), (1, 0.0, 1, 2), (3, 0.01, 100, 150)],
)
def test_a_call_takes_about_half_a_second_and_grows_at_most_twofold(steps, seconds, before, wanted):
    assert call_length(steps, seconds, before) == wanted


def test_without_a_rule_the_rate_is_what_was_asked_for():
    rate = Rate.scaled(0.01, "none", batch=4096, base_batch=256, warmup=0)
    assert {rate.at(step) for step in range(100)} == {0.01}


@pytest.mark.parametrize(("rule", "wanted"), [("linear", 0.16), ("sqrt", 0.04), ("none", 0.01)])
def test_a_rule_makes_the_rate_grow_with_the_batch(rule, wanted):
    rate = Rate.scaled(0.01, rule, batch=4096, base_batch=256, warmup=10)
    assert rate.at(10) == rate.at(10_000) == pytest.approx(wanted)
    warm = [rate.at(step) for step in range(11)]
    assert warm == sorted(warm)
    assert warm[0] == pytest.approx(0.01 if rule != "none" else 0.001)
