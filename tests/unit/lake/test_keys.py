"""Keys: every name carries its window, and a long window is a row of short ones."""

from __future__ import annotations

import itertools

import pytest

from tidegate import keys
from tidegate.handoff import Window
from tidegate.units import utc

JANUARY = Window(start=utc("2013-01-01"), end=utc("2013-02-01"))


def test_each_kind_of_artefact_has_its_own_key() -> None:
    found = [
        keys.raw("d", "s", JANUARY),
        keys.validated("d", "s", JANUARY),
        keys.refused("d", "s", JANUARY),
        keys.dataset("d", JANUARY),
        keys.model("d", "r"),
        keys.optimised("d", "r"),
        keys.bundle("d", 3),
    ]

    assert len(set(found)) == len(found)
    assert found[1] == "slices/d/s/20130101T000000Z-20130201T000000Z/validated"
    assert found[6] == "bundles/d/v3"


def test_a_key_tells_its_window() -> None:
    assert keys.window_of(keys.raw("d", "s", JANUARY)) == JANUARY
    assert keys.window_of(keys.dataset("d", JANUARY)) == JANUARY
    with pytest.raises(ValueError, match="no window"):
        keys.window_of("bundles/d/v3")


def test_windows_tile_a_longer_one_by_the_calendar() -> None:
    quarter = Window(start=utc("2013-01-01"), end=utc("2013-04-01"))
    found = list(keys.windows(quarter, "1 month"))

    assert found[0] == JANUARY
    assert [(b.start - a.end).total_seconds() for a, b in itertools.pairwise(found)] == [0, 0]
    assert found[-1].end == quarter.end
    assert len(list(keys.windows(JANUARY, "1 day"))) == 31


def test_what_is_no_whole_number_of_windows_is_refused() -> None:
    with pytest.raises(ValueError, match="not a whole number of 1 week"):
        list(keys.windows(JANUARY, "1 week"))
