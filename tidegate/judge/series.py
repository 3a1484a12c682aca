"""What each version did between two scrapes, out of cumulative counters as Prometheus gives them; pure.

A counter that falls began again at zero (the proxy was restarted): what it counted before the restart and after the
last scrape is lost, so that scrape is marked and never ends in a pass. A version that a scrape does not show, although
it shows another one, has answered nothing yet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

GAP_S = 5.0
"""Scrapes further apart than this many seconds have a gap between them."""


@dataclass(frozen=True)
class Sample:
    """One version's counters at one scrape, since they began."""

    requests: float
    errors: float = 0.0
    within: Mapping[float, float] = field(default_factory=dict)
    """Answers within so many milliseconds, cumulative over the edges; the last edge is infinite."""

    @property
    def usable(self) -> bool:
        """Whether every counter is a number of 0 or more."""
        return all(math.isfinite(value) and value >= 0 for value in (self.requests, self.errors, *self.within.values()))


@dataclass(frozen=True)
class Scrape:
    """All versions' counters at one instant, Unix seconds (or seconds of any other clock)."""

    at: float
    versions: Mapping[str, Sample]


@dataclass(frozen=True)
class Did:
    """What one version did in one interval."""

    requests: float = 0.0
    errors: float = 0.0
    edges: tuple[float, ...] = ()
    """Upper bucket edges in ms; the last is infinite. Empty where there is no histogram."""
    buckets: tuple[float, ...] = ()
    """Answers in each bucket, not cumulative."""

    @property
    def counts(self) -> NDArray[np.float64]:
        """The buckets as an array [buckets]."""
        return np.asarray(self.buckets, dtype=np.float64)


@dataclass(frozen=True)
class Interval:
    """What the candidate and the champion did on the same seconds, from `start` to `end`."""

    start: float
    end: float
    candidate: Did | None
    """None: nothing is known of it, or its counters were not numbers."""
    champion: Did | None
    broken: bool = False
    """A counter began again within it, or a scrape is missing."""


def intervals(scrapes: Sequence[Scrape], candidate: str, champion: str | None) -> Iterator[Interval]:
    """Yield what lies between consecutive scrapes, which ascend in time."""
    for before, after in pairwise(scrapes):
        mine, mine_began = _difference(before, after, candidate)
        theirs, theirs_began = _difference(before, after, champion) if champion else (None, False)
        broken = mine_began or theirs_began or after.at - before.at > GAP_S
        yield Interval(before.at, after.at, mine, theirs, broken)


def _difference(before: Scrape, after: Scrape, name: str) -> tuple[Did | None, bool]:
    """Return what a version did, and whether its counters began again."""
    late = after.versions.get(name)
    if late is None or not late.usable:
        return None, False
    early = before.versions.get(name)
    if early is None and before.versions:  # it was not there yet; a scrape that saw nobody would tell nothing
        early = Sample(0.0)
    if early is None or not early.usable:
        return None, False
    began = late.requests < early.requests or late.errors < early.errors
    if began:
        early = Sample(0.0)
    edges = tuple(sorted(late.within))
    counts = np.diff([0.0, *(late.within[edge] - early.within.get(edge, 0.0) for edge in edges)])
    buckets = tuple(np.maximum(counts, 0.0).tolist())
    return Did(late.requests - early.requests, max(late.errors - early.errors, 0.0), edges, buckets), began
