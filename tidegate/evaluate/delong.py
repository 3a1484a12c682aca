"""What each row adds to an area under the ROC curve: the structural components of DeLong's test, in O(n log n); pure.

DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating characteristic
curves", Biometrics 44 (1988). By mid-ranks: Sun and Xu, "Fast implementation of DeLong's algorithm", IEEE Signal
Processing Letters 21 (2014).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tidegate.metrics import mid_ranks

if TYPE_CHECKING:
    from numpy.typing import NDArray


def auc_influence(is_positive: NDArray[np.bool_], scores: NDArray[Any]) -> tuple[float, NDArray[np.float64]]:
    """Return the AUC of `scores` [n] and each row's influence on it, [n].

    A positive row's influence is its share of negative rows that it outranks, less the AUC, over the number of positive
    rows; a negative row's is the like. With the labels as strata, `intervals.spread` of one model's influences is
    DeLong's standard error, and that of the difference of two models' is the one of his paired test.

    Raises:
        ValueError: only one of the two classes is there.
    """
    positives = int(is_positive.sum())
    negatives = is_positive.size - positives
    if not positives or not negatives:
        raise ValueError(f"{positives} positive and {negatives} negative rows; an AUC needs one of each")
    ranks = mid_ranks(scores)
    above = (ranks[is_positive] - mid_ranks(scores[is_positive])) / negatives
    below = 1.0 - (ranks[~is_positive] - mid_ranks(scores[~is_positive])) / positives
    auc = float(above.mean())
    influence = np.empty(is_positive.size)
    influence[is_positive] = (above - auc) / positives
    influence[~is_positive] = (below - auc) / negatives
    return auc, influence
