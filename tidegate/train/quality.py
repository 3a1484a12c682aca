"""Held-out quality of a model beside what knowing nothing but the base rate would give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tidegate.metrics import auc, log_loss

if TYPE_CHECKING:
    from numpy.typing import NDArray


def held_out(labels: NDArray[Any], probabilities: NDArray[Any], base_rate: float) -> dict[str, float]:
    """Return the figures of `probabilities` [n] against `labels` [n] of 0 and 1, and those of the base rate.

    The base rate's prediction is one constant: the share of positive rows among the training rows. Its AUC is computed
    like any other; being a tie throughout, it is one half. Accuracy is at a threshold of one half.
    """
    constant = np.full(labels.size, base_rate)
    figures = {}
    for prefix, scores in (("", probabilities.reshape(-1)), ("base_", constant)):
        figures[f"{prefix}auc"] = auc(labels, scores)
        figures[f"{prefix}log_loss"] = log_loss(labels, scores)
        figures[f"{prefix}accuracy"] = float(np.mean((scores >= 0.5) == (labels.reshape(-1) > 0.5)))
    return {**figures, "base_rate": base_rate, "positive_share": float(np.mean(labels))}
