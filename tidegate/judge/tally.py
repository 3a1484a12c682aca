"""What a version did since a stage began, added up and in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tidegate.handoff import Counts
from tidegate.judge.quantiles import quantile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tidegate.judge.series import Did


@dataclass
class Tally:
    """What a version did since the stage began."""

    requests: float = 0.0
    errors: float = 0.0
    edges: tuple[float, ...] = ()
    buckets: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def add(self, did: Did) -> None:
        """Take in one interval."""
        self.requests += did.requests
        self.errors += did.errors
        if did.edges == self.edges:
            self.buckets = self.buckets + did.counts
        elif did.edges:
            self.edges, self.buckets = did.edges, did.counts

    def counts(self, at: float) -> Counts:
        """Return the figures that people read; `at` is the time of the newest of them."""
        return Counts(
            requests=self.requests,
            errors=self.errors,
            p50_ms=quantile(0.5, self.edges, self.buckets),
            p99_ms=quantile(0.99, self.edges, self.buckets),
            sampled_at=at,
        )

    def __str__(self) -> str:
        p99 = quantile(0.99, self.edges, self.buckets)
        shown = "" if p99 is None else f", p99 {p99:.1f} ms"
        return f"{self.requests:.0f} requests, {self.errors:.0f} failed{shown}"

    def failing_beside(self, champion: Tally) -> str:
        """Return how many times as often as the champion it fails, in words."""
        if champion.errors <= 0 or self.requests <= 0:
            return "where the champion does not"
        times = self.errors / self.requests * champion.requests / champion.errors
        return f"{times:.1f} times as often as the champion"


def above(edges: tuple[float, ...], counts: NDArray[np.float64], limit_ms: float) -> tuple[float, float]:
    """Return (answers above the first edge that is not below the limit, all answers)."""
    if not edges:
        return 0.0, 0.0
    place = int(np.searchsorted(np.asarray(edges), limit_ms * (1 - 1e-9)))
    total = float(counts.sum())
    return total - float(counts[: place + 1].sum()), total
