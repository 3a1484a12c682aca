"""Evidence that a candidate is hardly worse than the champion, which a promotion needs; it too may be looked at always.

Null hypothesis: the candidate's share of bad answers is at least `margin` above the champion's, p >= p' + margin, on
the same seconds and whatever p' is. For 0 < a < 1 and b = 1 + (1 - a) n / n', one scrape's

    a^x  b^x'  exp(n margin (1 - a))

has an expectation of at most exp(n p (a-1) + n' p' (b-1) + n margin (1-a)) <= 1 under it. So few failures of the
candidate beside the champion's many are evidence of being no worse. Mixed over a (Robbins 1970) it is a test
martingale, and by Ville's inequality 1/(1 - confidence) is its limit. The margin is of the kind that a non-inferiority
trial states beforehand: G. Piaggio et al., "Reporting of noninferiority and equivalence randomized trials", JAMA 2012.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEWER = (0.05, 0.3, 0.6, 0.85)
"""Alternatives: the base `a` of the candidate's bad answers."""
PRIOR = (0.25, 0.25, 0.25, 0.25)


def log_ratios(
    bad: float, answers: float, champion_bad: float, champion_answers: float, margin: float
) -> NDArray[np.float64]:
    """Return the log likelihood ratio of one scrape for each of FEWER; 0 where either version answered nothing.

    Args:
        bad: the candidate's bad answers of this scrape, out of `answers`.
        answers: the candidate's answers.
        champion_bad: the champion's bad answers of the same seconds.
        champion_answers: the champion's answers.
        margin: by how much the candidate's share of bad answers may exceed the champion's, in (0, 1).
    """
    if answers <= 0 or champion_answers <= 0:
        return np.zeros(len(FEWER))
    fewer = np.asarray(FEWER)
    more = 1.0 + (1.0 - fewer) * answers / champion_answers
    result: NDArray[np.float64] = bad * np.log(fewer) + champion_bad * np.log(more) + answers * margin * (1.0 - fewer)
    return result
