"""Quantiles of histograms, as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def quantile(q: float, edges: Sequence[float], counts: NDArray[np.float64]) -> float | None:
    """Return the q-quantile of a histogram, linear inside a bucket, in the unit of its edges; None without counts.

    As Prometheus' histogram_quantile does; beyond the last finite edge the answer is that edge.
    """
    total = float(counts.sum())
    if not edges or total <= 0:
        return None
    within = np.cumsum(counts)
    place = int(np.searchsorted(within, q * total))
    if place >= len(edges) - 1 and np.isinf(edges[-1]):
        return float(edges[-2]) if len(edges) > 1 else None
    low, below = (float(edges[place - 1]), float(within[place - 1])) if place else (0.0, 0.0)
    return low + (float(edges[place]) - low) * (q * total - below) / float(counts[place])
