"""The champion's usual share of bad answers, which says more than its bad answers of this very second.

On the same seconds a failure of the candidate is weak evidence while it has a tenth of the traffic: it might have been
weather that met it by chance. Where the champion is known to fail once in a thousand answers, the same failure says
much more; so does an answer that comes later than nearly all of the champion's. What that needs beyond
`rates.versus_champion` is that weather which both feel does not go unseen by the champion. So the usual share is never
less than twice what the champion surely (by one deviation) showed in the last ten intervals or in this one, and always
as much as its past may hide by chance. That is an assumption, not a theorem: benchmarks/judge.py tries it on storms
from 0.2% to 5% among other traffic.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

RECENT = 10
"""Intervals in which the champion would see weather too."""
_ENOUGH = 500.0  # answers in the past before it says what is usual
_CHANCE = 1.0  # bad answers more than there were, for a past without one is no proof that there are none


def share(bad: float, answers: float, recent: Sequence[tuple[float, float]], least: float = 3.0) -> float | None:
    """Return the share of bad answers that is not unusual, in [0, 1]; None while too little is known.

    Args:
        bad: bad answers of the champion's past, the older of them counted less.
        answers: all answers of that past.
        recent: (bad, answers) of the champion's last intervals, this one last; `RECENT` of them at most.
        least: bad answers with which this interval alone shows weather; fewer of them see it sooner, and take chance
            for it more often.
    """
    if answers < _ENOUGH:
        return None
    present = max(_surely(recent), _surely([each for each in recent[-1:] if each[0] >= least]))
    return min(max((bad + _CHANCE) / answers, present), 1.0)


def _surely(some: Sequence[tuple[float, float]]) -> float:
    """Return twice the share of bad answers that some intervals surely show; 0 without answers."""
    bad, answers = sum(each[0] for each in some), sum(each[1] for each in some)
    return 2.0 * (bad - math.sqrt(bad)) / answers if answers else 0.0
