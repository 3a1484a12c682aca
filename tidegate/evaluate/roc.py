"""ROC curves on a fixed grid, and the difference of two of them with a band from a bootstrap; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from tidegate.evaluate.intervals import CONFIDENCE, LEAST_CLUSTERS
from tidegate.handoff import Handoff

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GRID = np.linspace(0, 1, 101)
_THRESHOLDS = 400  # of each model, in the bootstrap: at quantiles of its scores
_DRAWS = 400
_LOTS = 200  # rows that do not depend on each other are dealt into so many lots, and these are drawn
_SEED = 20141


class Roc(Handoff):
    """Shares of positive rows found at each share of negative rows taken for positive; all lists are of one length."""

    false_positive_rate: list[float]
    candidate: list[float]
    champion: list[float] | None = None
    low: list[float] | None = Field(default=None, description="of candidate less champion, at each point by itself")
    high: list[float] | None = None


def roc(
    labels: NDArray[Any], candidate: NDArray[Any], champion: NDArray[Any] | None, clusters: NDArray[Any] | None
) -> Roc:
    """Return the curves of probabilities [n] against labels [n] of 0 and 1, of both classes.

    The band is that of the percentiles of a bootstrap that draws clusters, or lots of rows dealt at random where
    `clusters` is None; there is none for fewer than `intervals.LEAST_CLUSTERS`. The same rows give the same band.
    """
    is_positive = labels > 0.5
    mine = _curve(is_positive, candidate)
    told = {"false_positive_rate": _GRID.tolist(), "candidate": mine.tolist()}
    if champion is None:
        return Roc.model_validate(told)
    told["champion"] = _curve(is_positive, champion).tolist()
    random = np.random.default_rng(_SEED)
    numbers = random.integers(0, _LOTS, labels.size) if clusters is None else clusters
    lots = np.unique(numbers, return_inverse=True)[1]
    count = int(lots.max()) + 1
    if count < LEAST_CLUSTERS:
        return Roc.model_validate(told)
    weights = random.multinomial(count, np.full(count, 1 / count), size=_DRAWS).astype(np.float64)
    apart = _drawn(is_positive, candidate, lots, weights) - _drawn(is_positive, champion, lots, weights)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(apart, [tail, 1 - tail], axis=0)
    return Roc.model_validate({**told, "low": low.tolist(), "high": high.tolist()})


def _curve(is_positive: NDArray[np.bool_], scores: NDArray[Any]) -> NDArray[np.float64]:
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # equal scores are one point of the curve
    found = np.cumsum(is_positive[order])[ends]
    taken = ends + 1 - found
    return _on_grid(taken / max(1, (~is_positive).sum()), found / max(1, is_positive.sum()))


def _drawn(
    is_positive: NDArray[np.bool_], scores: NDArray[Any], lots: NDArray[Any], weights: NDArray[Any]
) -> NDArray[np.float64]:
    """Return the curve of each draw [draws, grid], from counts by lot and threshold: rows are gone through once."""
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, _THRESHOLDS + 1)[1:-1]))
    step = edges.size - np.searchsorted(edges, scores, side="right")  # 0 is the highest
    steps, count = edges.size + 1, weights.shape[1]
    rates = []
    for rows in (~is_positive, is_positive):
        counts = np.bincount(lots[rows] * steps + step[rows], minlength=count * steps).reshape(count, steps)
        summed = np.cumsum(weights @ counts, axis=1)
        with np.errstate(invalid="ignore"):  # a draw may have no row of a class: it tells nothing
            rates.append(summed / summed[:, -1:])
    return np.stack([_on_grid(taken, found) for taken, found in zip(*rates, strict=True)])


def _on_grid(taken: NDArray[Any], found: NDArray[Any]) -> NDArray[np.float64]:
    curve: NDArray[np.float64] = np.interp(_GRID, np.append(0.0, taken), np.append(0.0, found))
    return curve
