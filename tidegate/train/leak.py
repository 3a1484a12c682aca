"""Whether a series of memory readings rises steadily, as it does where something leaks; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

_LEAST = 12  # readings: fewer say nothing
_WARM = 0.25  # of the readings, from the first on: allocators and caches fill
_RISING = 0.8  # share of pairs of readings that rise
_GROWTH = 0.02  # of the memory at the start of the rise, over all that was seen


@dataclass(frozen=True)
class Leak:
    """A steady rise: bytes per step, and by how much in all over how many steps."""

    slope: float
    grown: float
    steps: int


def suspected(steps: Sequence[int], bytes_held: Sequence[float]) -> Leak | None:
    """Return the leak that readings [n] of memory at steps [n] speak for, or None.

    The slope is that of Theil and Sen, the median over all pairs of readings, which a few outliers do not move. A leak
    is suspected where nearly every pair rises (Kendall's tau above 0.6) and the rise is not small beside what is held.
    The first quarter of the readings is left out: there, allocators and caches fill.
    """
    first = int(len(steps) * _WARM)
    at, held = np.asarray(steps[first:], float), np.asarray(bytes_held[first:], float)
    if len(at) < _LEAST:
        return None
    later, earlier = np.tril_indices(len(at), -1)
    rises = held[later] - held[earlier]
    slope = float(np.median(rises / (at[later] - at[earlier])))
    grown = slope * (at[-1] - at[0])
    if np.mean(rises > 0) < _RISING or grown < _GROWTH * float(np.median(held[:3])):
        return None
    return Leak(slope, float(grown), int(at[-1] - at[0]))
