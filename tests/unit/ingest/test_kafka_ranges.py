"""Windows tile a log: whatever the order in which they are read, each message is in exactly one of them."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.handoff import Window
from tidegate.ingest.kafka_ranges import Bounds, Frozen, Lost, Ranges, lost, neighbours, ranges
from tidegate.units import utc

DAY = timedelta(days=1)
BEGIN = utc("2013-01-01")
WINDOWS = [Window(start=BEGIN + n * DAY, end=BEGIN + (n + 1) * DAY) for n in range(6)]


class Log:
    """A topic in memory: per partition the times of its messages, in days, in the order in which they came."""

    def __init__(self) -> None:
        self.partitions: list[list[float]] = [[]]
        self.frozen: dict[Window, Ranges] = {}

    def bounds(self, window: Window) -> dict[int, Bounds]:
        return {
            number: Bounds(0, *(self._first(times, moment) for moment in (window.start, window.end)))
            for number, times in enumerate(self.partitions)
        }

    def _first(self, times: list[float], moment: Any) -> int:
        day = (moment - BEGIN) / DAY
        return next((offset for offset, time in enumerate(times) if time >= day), len(times))

    def freeze(self, window: Window) -> None:
        before, after = (Frozen(each, self.frozen[each]) if each else None for each in neighbours(window, self.frozen))
        self.frozen[window] = ranges(window, self.bounds(window), before, after)


STEPS = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 2), st.floats(-1, 7)),
    st.tuples(st.just("freeze"), st.integers(0, 5)),
    st.just(("partition",)),
)


@given(st.lists(STEPS, max_size=40))
def test_each_message_is_in_exactly_one_slice_whatever_is_read_when(steps: list[tuple[Any, ...]]) -> None:
    log = Log()
    for step in steps:
        if step[0] == "send":
            log.partitions[step[1] % len(log.partitions)].append(step[2])
        elif step[0] == "partition":
            log.partitions.append([])
        elif WINDOWS[step[1]] not in log.frozen:  # what is frozen stays as it is
            log.freeze(WINDOWS[step[1]])
    for window in [each for each in WINDOWS if each not in log.frozen]:
        log.freeze(window)

    for number, times in enumerate(log.partitions):
        held = [log.frozen[window].get(number, (0, 0)) for window in WINDOWS]
        assert all(first <= end for first, end in held)
        assert all(end == first for (_, end), (first, _) in pairwise(held))
        assert held[-1][1] <= len(times)
        first_read = next((n for n, window in enumerate(WINDOWS) if number in log.frozen[window]), None)
        if first_read == 0:  # before it nothing young enough lies
            assert all(time < 0 for time in times[: held[0][0]])
        else:  # the partition was made when windows before were read: it is read from its beginning
            assert held[0] == (0, 0)


@given(st.lists(st.floats(0, 5.99), max_size=20), st.permutations(WINDOWS))
def test_messages_in_the_order_of_their_times_are_in_the_windows_of_their_times(
    times: list[float], order: list[Window]
) -> None:
    log = Log()
    log.partitions[0] = [*sorted(times), 6.0]
    for window in order:
        log.freeze(window)
    for number, window in enumerate(WINDOWS):
        first, end = log.frozen[window][0]
        assert log.partitions[0][first:end] == [time for time in sorted(times) if int(time) == number]


def test_a_late_message_is_in_the_next_slice_and_a_naive_reader_has_it_in_none() -> None:
    log = Log()
    log.partitions[0] = [0.1, 0.9]
    log.freeze(WINDOWS[0])
    log.partitions[0] += [0.95, 1.2, 2.1]
    log.freeze(WINDOWS[1])

    naive = log.bounds(WINDOWS[1])[0]
    assert log.frozen[WINDOWS[0]] == {0: (0, 2)}
    assert (naive.start, naive.end) == (3, 4)
    assert log.frozen[WINDOWS[1]] == {0: (2, 4)}


def test_of_windows_that_end_alike_the_neighbour_is_the_one_of_the_same_length() -> None:
    week = Window(start=BEGIN - 5 * DAY, end=WINDOWS[1].end)
    assert neighbours(WINDOWS[2], [week, WINDOWS[1], WINDOWS[0], WINDOWS[4]]) == (WINDOWS[1], WINDOWS[4])
    assert neighbours(WINDOWS[2], []) == (None, None)


@pytest.mark.parametrize(
    ("kept", "before", "expected"),
    [
        (0, None, None),
        (4, None, Lost(0, 0, 9, 4)),  # the oldest that is kept: older ones may have been of this window
        (3, None, None),
        (4, Frozen(WINDOWS[0], {0: (0, 4)}), None),
        (5, Frozen(WINDOWS[0], {0: (0, 4)}), Lost(0, 4, 9, 5)),
        (12, Frozen(WINDOWS[0], {0: (0, 4)}), Lost(0, 4, 9, 12)),
    ],
)
def test_a_range_that_is_not_kept_whole_is_named(kept: int, before: Frozen | None, expected: Lost | None) -> None:
    assert lost({0: (4, 9)}, {0: Bounds(kept, 4, 9)}, before) == expected
