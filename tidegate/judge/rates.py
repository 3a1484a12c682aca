"""Likelihood ratios of failure counts: against a fixed limit, and against the champion on the same seconds.

Of the champion's rate nothing is assumed: not that it is known, nor that it stays. Whatever both versions feel (a slow
database, a burst, the night) cancels out, because only the candidate's *share* of all failures of a scrape counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

TIMES = (2.5, 6.0, 20.0, 60.0, 200.0)
"""Alternatives: so many times as bad as allowed."""
TIMES_PRIOR = (0.25, 0.25, 0.2, 0.15, 0.15)
RARE_TIMES = (50.0, 100.0, 25.0, 200.0, 8.0)
"""The same for failures of which the champion has had none or hardly any, by the prior of TIMES."""
FAR = (15.0, 50.0, 200.0)
"""Alternatives for what the champion hardly ever does."""
FAR_PRIOR = (0.15, 0.65, 0.2)


def versus_champion(
    failed: float, requests: float, champion_failed: float, champion_requests: float, margin: float
) -> NDArray[np.float64]:
    """Return the log likelihood ratio of one scrape for each of TIMES, with expectation <= 1 if rate <= margin * rate'.

    Args:
        failed: the candidate's failures of this scrape, out of `requests`.
        requests: the candidate's answers of this scrape.
        champion_failed: the champion's failures of the same seconds.
        champion_requests: the champion's answers of the same seconds.
        margin: how many times the champion's failure rate the candidate's may be.

    Were the candidate exactly `margin` times as bad, a failure would be its own with chance
    s = margin n / (margin n + n'); if it is t times worse still, with chance t s / (t s + 1 - s). The ratio of the two
    is a^x b^x' with a = t / (t s + 1 - s), b = 1 / (t s + 1 - s). For independent answers with failure rates p and p'
    its expectation is (1 + p (a-1))^n (1 + p' (b-1))^n' <= exp(n p (a-1) + n' p' (b-1)), and for p <= margin p' this
    is at most 1, whatever p' is, since s a + (1 - s) b = 1.
    """
    if requests <= 0 or champion_requests <= 0:
        return np.zeros(len(TIMES))
    times = np.asarray(TIMES)
    share = margin * requests / (margin * requests + champion_requests)
    result: NDArray[np.float64] = failed * np.log(times) - (failed + champion_failed) * np.log1p(share * (times - 1.0))
    return result


def above_limit(bad: float, answers: float, limit: float, times: tuple[float, ...] = TIMES) -> NDArray[np.float64]:
    """Return the log likelihood ratio of one scrape for each of `times`, with expectation <= 1 while the rate <= limit.

    The binomial ratio of Wald's sequential test (A. Wald, "Sequential tests of statistical hypotheses", Ann. Math.
    Statist. 16, 1945) of the limit against rates so many times as high (at most half way between the limit and 1).

    Args:
        bad: answers of this scrape that failed or were too slow.
        answers: all answers of this scrape.
        limit: the share of bad answers that is allowed, in [0, 1).
        times: alternatives, so many times the limit.
    """
    allowed = max(limit, 1e-4)  # no share is exactly 0: one request in ten thousand may fail by accident
    rates = np.minimum(allowed * np.asarray(times), (1.0 + allowed) / 2.0)
    result: NDArray[np.float64] = bad * np.log(rates / allowed) + (answers - bad) * np.log(
        (1.0 - rates) / (1.0 - allowed)
    )
    return result
