"""Model quality as plain numpy, so that training, the evaluation and the gate compute the very same number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FLOOR = 1e-7  # keeps the logarithm finite for a float32 probability of exactly 0 or 1


def auc(labels: NDArray[Any], scores: NDArray[Any]) -> float:
    """Area under the ROC curve: the chance that a positive row outranks a negative one, a tie counting one half.

    `labels` is [n] of 0 and 1, `scores` is [n]; the result lies in [0, 1]. It is NaN where it is undefined (only
    one class present) and where any score is NaN, so that a comparison with a limit can never pass by accident.

    The Mann-Whitney U statistic from mid-ranks, O(n log n): Hanley and McNeil, "The meaning and use of the area
    under a receiver operating characteristic curve", Radiology 143 (1982).
    """
    positive = _flat(labels) > 0.5
    values = _flat(scores)
    _same_length(positive, values)
    positives = int(positive.sum())
    negatives = positive.size - positives
    if positives == 0 or negatives == 0 or bool(np.isnan(values).any()):
        return math.nan
    rank_sum = float(mid_ranks(values)[positive].sum())
    return (rank_sum - positives * (positives + 1) / 2.0) / (positives * negatives)


def mid_ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the 1-based rank of each value [n], equal values sharing the mean of their ranks; O(n log n)."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)  # the 1-based rank of the last row in each group of equal values
    ranks: NDArray[np.float64] = (last - (counts - 1) / 2.0)[group]
    return ranks


def log_loss(labels: NDArray[Any], scores: NDArray[Any]) -> float:
    """Mean negative log-likelihood in nats of `labels` [n] of 0 and 1 under probabilities `scores` [n].

    NaN for no rows or for a NaN score. Probabilities are held 1e-7 away from 0 and 1.
    """
    losses = log_losses(labels, scores)
    return float(np.mean(losses)) if losses.size else math.nan


def log_losses(labels: NDArray[Any], scores: NDArray[Any]) -> NDArray[np.float64]:
    """Return the negative log-likelihood in nats of each row [n], as `log_loss` averages them."""
    target = _flat(labels)
    probability = np.clip(_flat(scores), _FLOOR, 1.0 - _FLOOR)
    _same_length(target, probability)
    losses: NDArray[np.float64] = -(target * np.log(probability) + (1.0 - target) * np.log1p(-probability))
    return losses


def _flat(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64).reshape(-1)


def _same_length(labels: NDArray[Any], scores: NDArray[Any]) -> None:
    if labels.size != scores.size:
        raise ValueError(f"{labels.size} labels but {scores.size} scores; they must be one to one")
