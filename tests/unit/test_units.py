"""Values that users write with their units."""

from __future__ import annotations

import pytest

from tidegate.units import parse_every, parse_size, parse_step_range, seconds_or_steps


@pytest.mark.parametrize(("text", "wanted"), [("25MB", 25_000_000), ("0.5 GB", 500_000_000), ("10KB", 10_000), (7, 7)])
def test_a_size_has_a_unit(text, wanted):
    assert parse_size(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("5m", (300.0, None)), ("500 steps", (None, 500)), ("1 step", (None, 1)), ("50ms", (0.05, None))],
)
def test_an_interval_is_in_time_or_in_steps(text, wanted):
    assert seconds_or_steps(parse_every(text)) == wanted


def test_a_range_of_steps_is_without_its_end():
    assert parse_step_range("steps 100-110") == parse_step_range([100, 110]) == (100, 110)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_size, "25"),
        (parse_size, True),
        (parse_every, "5"),
        (parse_every, "0 steps"),
        (parse_every, "0m"),
        (parse_step_range, "100-110"),
        (parse_step_range, "steps 110-100"),
    ],
)
def test_what_is_none_of_these_is_refused_with_an_example(parse, text):
    with pytest.raises(ValueError, match="Remedy"):
        parse(text)
