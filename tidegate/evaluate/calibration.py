"""Whether a predicted probability is the share that comes true: reliability bins and the error over them; pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tidegate.evaluate.intervals import Interval, spread, wilson, worth
from tidegate.handoff import Handoff

if TYPE_CHECKING:
    from numpy.typing import NDArray

BINS = 10


class Bin(Handoff):
    """Rows of neighbouring predictions: what was predicted on average, and the share that came true."""

    rows: int
    predicted: float
    observed: Interval


def bin_numbers(scores: NDArray[Any], count: int = BINS) -> NDArray[np.int64]:
    """Return each row's bin, [n]: at most `count` of equal mass, numbered from 0; equal scores are never parted."""
    edges = np.unique(np.quantile(scores, np.arange(1, count) / count, method="inverted_cdf"))
    numbers: NDArray[np.int64] = np.unique(np.searchsorted(edges, scores, side="left"), return_inverse=True)[1]
    return numbers


def reliability(
    labels: NDArray[Any], scores: NDArray[Any], clusters: NDArray[Any] | None = None, count: int = BINS
) -> list[Bin]:
    """Return the bins of probabilities `scores` [n] against `labels` [n] of 0 and 1, by rising prediction.

    Intervals are Wilson's, of as many rows as the bin's are worth where rows of a cluster depend on each other.
    """
    numbers = bin_numbers(scores, count)
    found = []
    for number in range(int(numbers.max()) + 1):
        rows = np.flatnonzero(numbers == number)
        hits = labels[rows]
        independent = worth(hits, None if clusters is None else clusters[rows])
        observed = wilson(float(hits.mean()) * independent, independent)
        found.append(Bin(rows=rows.size, predicted=float(scores[rows].mean()), observed=observed))
    return found


def calibration_error(
    labels: NDArray[Any], scores: NDArray[Any], clusters: NDArray[Any] | None = None, count: int = BINS
) -> tuple[float, float]:
    """Return the expected calibration error, and the one that calibrated predictions would have by chance.

    The first is the mean distance of a bin's predicted from its observed share, weighted by rows (Naeini, Cooper and
    Hauskrecht, AAAI 2015), over bins of equal mass. It is never below zero, so the few rows of a bin alone raise it.
    The second is what it would be on average if predictions were right and only chance kept the shares apart: by the
    normal limit of a bin's share, with the variance of the predicted probabilities, or that seen between clusters.
    """
    numbers = bin_numbers(scores, count)
    off = np.bincount(numbers, weights=labels - scores)
    deviation = np.sqrt(np.bincount(numbers, weights=scores * (1 - scores)))
    if clusters is not None:
        for number in range(deviation.size):
            rows = numbers == number
            apart = labels[rows] - scores[rows]
            told = spread(apart - apart.mean(), np.zeros(apart.size), clusters[rows])
            deviation[number] = deviation[number] if told is None else told[0]
    by_chance = math.sqrt(2 / math.pi) * float(deviation.sum())
    return float(np.abs(off).sum()) / scores.size, by_chance / scores.size
