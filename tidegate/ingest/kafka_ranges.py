"""Where a window of a topic begins and ends: offsets per partition, so that each message is in exactly one window.

A window begins where the one before it ended, and ends where the one after it began, if these were frozen before;
else by time, at the first record that is not before it. So a message that comes late lies in the window that is read
next, whatever its own time. Two facts hold whatever the order in which windows are frozen: the frozen ranges of windows
in their order never cross, and neighbours meet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tidegate.handoff import Window

Ranges = dict[int, tuple[int, int]]
"""Partition -> [first offset, end offset)."""


class Frozen(NamedTuple):
    """A window whose ranges were frozen; a partition that it does not name had no message then."""

    window: Window
    ranges: Ranges


class Bounds(NamedTuple):
    """What a partition says of a window: the first offset kept, and the first offsets not before start and end.

    Where no record is that young it is the offset of the next record to come.
    """

    kept: int
    start: int
    end: int


class Lost(NamedTuple):
    """Offsets [first, end) that a window needs, of which only those from `kept` on are there."""

    partition: int
    first: int
    end: int
    kept: int


def neighbours(window: Window, frozen: Iterable[Window]) -> tuple[Window | None, Window | None]:
    """Return the nearest windows before and after this one; of several as near, the one that is most like it long."""
    length = window.end - window.start

    def unlike(other: Window) -> float:
        return abs((other.end - other.start - length).total_seconds())

    every = list(frozen)
    before = [each for each in every if each.end <= window.start]
    after = [each for each in every if each.start >= window.end]
    return (
        min(before, key=lambda each: (window.start - each.end, unlike(each)), default=None),
        min(after, key=lambda each: (each.start - window.end, unlike(each)), default=None),
    )


def ranges(window: Window, bounds: Mapping[int, Bounds], before: Frozen | None, after: Frozen | None) -> Ranges:
    """Return the ranges of a window by what its partitions say and what its neighbours were given."""
    found: Ranges = {}
    for partition, (_, start, end) in sorted(bounds.items()):
        low = before.ranges.get(partition, (0, 0))[1] if before else 0
        high = after.ranges.get(partition, (0, 0))[0] if after else max(end, low)
        meets_before = before is not None and before.window.end == window.start
        meets_after = after is not None and after.window.start == window.end
        first = low if meets_before else min(max(start, low), high)
        found[partition] = (first, high if meets_after else min(max(end, first), high))
    return found


def lost(wanted: Ranges, bounds: Mapping[int, Bounds], before: Frozen | None) -> Lost | None:
    """Return the first range of which the topic may keep no more than a part.

    With no window before it, a window whose first message is the oldest that is kept may have had older ones.
    """
    for partition, (first, end) in wanted.items():
        kept = bounds[partition].kept
        if first < min(kept, end):
            return Lost(partition, first, end, kept)
        if before is None and first == kept > 0:
            return Lost(partition, 0, end, kept)
    return None
