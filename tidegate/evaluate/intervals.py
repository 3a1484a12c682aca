"""Confidence intervals from what each row adds to an estimate; pure.

An estimate's error is, to first order, the sum of its rows' influences. Where rows count one by one, its variance is
that of independent terms; where rows of a day count together, it is that of the days' sums (Obuchowski, "Nonparametric
analysis of clustered ROC curve data", Biometrics 53, 1997, for the AUC; the same sandwich for a mean).
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from tidegate.handoff import Handoff

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONFIDENCE = 0.95
LEAST_CLUSTERS = 10
"""With fewer clusters the variance of their sums is too uncertain for an interval."""


class Interval(Handoff):
    """An estimate with its confidence interval; no bounds where the rows do not allow any."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def excludes_zero(self) -> bool:
        """Whether both bounds lie on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def wilson(successes: float, rows: float, confidence: float = CONFIDENCE) -> Interval:
    """Return a share with Wilson's score interval, which keeps its coverage for few rows and shares near 0 and 1.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927). Where rows depend on
    each other, both numbers are to be those of as many independent rows as they are worth: see `worth`.

    Raises:
        ValueError: there is no row, or there are more successes than rows.
    """
    if rows <= 0 or not 0 <= successes <= rows:
        raise ValueError(f"{successes} successes of {rows} rows; there must be a row, and no more successes than rows")
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    share = successes / rows
    centre = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = math.sqrt(z2 * (share * (1 - share) / rows + z2 / (4 * rows**2))) / (1 + z2 / rows)
    return Interval(value=share, low=min(share, max(0.0, centre - half)), high=max(share, min(1.0, centre + half)))


def worth(hits: NDArray[Any], clusters: NDArray[Any] | None) -> float:
    """Return how many independent rows a share of `hits` [n] of 0 and 1 is worth, at most n and at least the clusters.

    Korn and Graubard, "Confidence intervals for proportions with small expected number of positive counts estimated
    from survey data", Survey Methodology 24 (1998): the rows over the design effect.
    """
    if clusters is None:
        return float(hits.size)
    share = float(hits.mean())
    least = float(np.unique(clusters).size)
    told = spread((hits - share) / hits.size, np.zeros(hits.size), clusters)
    if told is None or told[0] == 0:
        return least
    return min(float(hits.size), max(least, share * (1 - share) / told[0] ** 2))


def spread(influence: NDArray[Any], strata: NDArray[Any], clusters: NDArray[Any] | None) -> tuple[float, float] | None:
    """Return the standard error of an estimate and its degrees of freedom, or None where it cannot be told.

    Args:
        influence: what each row adds to the estimate's error, [n]; sums to zero in each stratum.
        strata: a number for each row, [n]; rows are drawn within strata (for an AUC: the label).
        clusters: a number for each row, [n]; rows of one cluster depend on each other. None: every row by itself.
    """
    if clusters is None:
        return _by_row(influence, strata)
    _, number = np.unique(clusters, return_inverse=True)
    sums = np.bincount(number, weights=influence)
    if sums.size < LEAST_CLUSTERS:
        return None
    return math.sqrt(float(np.square(sums).sum()) * sums.size / (sums.size - 1)), float(sums.size - 1)


def _by_row(influence: NDArray[Any], strata: NDArray[Any]) -> tuple[float, float] | None:
    """As `spread`, of independent rows; several strata have the degrees of freedom of Welch and Satterthwaite."""
    variances, freedoms = [], []
    for stratum in np.unique(strata):
        terms = influence[strata == stratum]
        if terms.size < 2:
            return None
        variances.append(float(np.square(terms).sum()) * terms.size / (terms.size - 1))
        freedoms.append(terms.size - 1.0)
    total = sum(variances)
    if total == 0:
        return 0.0, sum(freedoms)
    return math.sqrt(total), total**2 / sum(v**2 / f for v, f in zip(variances, freedoms, strict=True))


def around(value: float, spread: tuple[float, float] | None, confidence: float = CONFIDENCE) -> Interval:
    """Return Student's interval of an estimate from what `spread` told of it."""
    if spread is None:
        return Interval(value=value)
    error, freedom = spread
    half = error * t_quantile((1 + confidence) / 2, freedom)
    return Interval(value=value, low=value - half, high=value + half)


def around_share(value: float, spread: tuple[float, float] | None, confidence: float = CONFIDENCE) -> Interval:
    """Return the interval of an estimate between 0 and 1, taken on the logit scale so that it stays there.

    Pepe, "The Statistical Evaluation of Medical Tests for Classification and Prediction" (2003), section 5.2, for the
    AUC. An estimate of exactly 0 or 1 has no bounds: its rows tell no variance.
    """
    if spread is None or not 0 < value < 1 or spread[0] == 0:
        return Interval(value=value)
    error, freedom = spread
    half = error / (value * (1 - value)) * t_quantile((1 + confidence) / 2, freedom)
    logit = math.log(value / (1 - value))
    return Interval(value=value, low=_expit(logit - half), high=_expit(logit + half))


def t_quantile(share: float, freedom: float) -> float:
    """Return the quantile of Student's t by Cornish and Fisher's expansion about the normal one.

    Abramowitz and Stegun, 26.7.5; for 9 degrees of freedom and a share of 0.999 it is off by less than 0.2%.
    """
    z = NormalDist().inv_cdf(share)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms))


def _expit(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))
