"""The champion's usual share of failures, which says more than its failures of this very second.

On the same seconds a failure of the candidate is weak evidence while it has a tenth of the traffic: it might have been
weather that met it by chance. Where the champion is known to fail once in a thousand answers, the same failure says
much more. What that needs beyond `rates.versus_champion` is that weather which raises the failures of both does not go
unseen by the champion. So the usual share is never less than twice what the champion surely (by one deviation) showed
in the last ten intervals, and always as much as its past may hide by chance. That is an assumption, not a theorem:
benchmarks/judge.py tries it on storms from 0.2% to 5% among other traffic.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidegate.judge.series import Did

_MEMORY = 0.995  # of the past, per interval: half of it is forgotten after 138
_RECENT = 10  # intervals in which the champion would see weather too
_ENOUGH = 500.0  # answers in the past before it says what is usual
_CHANCE = 3.0  # failures more than there were: what a past without one may hide with a chance of 5%


class Usual:
    """The champion's failures, remembered."""

    def __init__(self) -> None:
        self._failed = self._answers = 0.0
        self._recent: deque[tuple[float, float]] = deque(maxlen=_RECENT)

    def see(self, did: Did) -> None:
        """Take in what the champion does in the interval that is judged now."""
        self._recent.append((did.errors, did.requests))

    def remember(self, did: Did) -> None:
        """Take in an interval that has been judged, or lies before the stage."""
        self._failed = self._failed * _MEMORY + did.errors
        self._answers = self._answers * _MEMORY + did.requests

    @property
    def share(self) -> float | None:
        """The share of failures that is not unusual, in [0, 1]; None while too little is known."""
        if self._answers < _ENOUGH:
            return None
        failed, answers = (sum(side) for side in zip(*self._recent, strict=True)) if self._recent else (0.0, 0.0)
        present = 2.0 * (failed - math.sqrt(failed)) / answers if answers else 0.0
        return min(max((self._failed + _CHANCE) / self._answers, present), 1.0)
