"""Likelihood ratios of latency histograms: is the candidate slower than the champion by more than the margin allows?

The null hypothesis says nothing about the shape of latencies, only that the candidate's are stochastically at most
`margin` times the champion's of the same seconds. Pairs of bucket edges (e, e') with e' >= margin * e make both
histograms comparable: under the null an answer of the candidate lies in no higher a category (by the e') than one of
the champion (by the e). An alternative gives each category a ratio r, rising with the category; then per scrape

    product over categories of  a^x b^x',   a = r / (s r + 1 - s),  b = 1 / (s r + 1 - s),  s = n / (n + n')

has an expectation of at most 1 under the null, by the argument of `rates.versus_champion` in each category and because
a rises with the category. The ratios come from the champion's past only, so they may be as clever as we like.

Compare M. Lindon, C. Sanden, V. Shirikian, "Rapid Regression Detection in Software Deployments through Sequential
Testing", KDD 2022, arXiv:2205.14762, which needs the single answers that a histogram no longer has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SLOWER = (1.25, 1.7, 3.0, 10.0)
"""Alternatives: all answers so many times slower than the margin allows."""
LATE = (0.02, 0.1, 0.5)
"""Alternatives: this share of answers comes later than nearly all of the champion's."""
PRIOR = (0.2, 0.24, 0.24, 0.12, 0.06, 0.06, 0.08)
_MEMORY = 0.99  # of the champion's past, per scrape: half of it is forgotten after 69 scrapes
_ENOUGH = 200.0  # answers of the champion before its past can tell anything
_FLOOR = 1e-3
_RARE, _COMMON = 0.002, 0.98  # shares of the champion's answers above an edge that still tells something


@dataclass(frozen=True)
class Past:
    """What is known of the champion's latencies before this scrape: decaying counts [buckets] per bucket."""

    edges: NDArray[np.float64]
    """Upper edges of the buckets in ms, ascending; the last is infinite."""
    counts: NDArray[np.float64]

    @classmethod
    def empty(cls, edges: NDArray[np.float64]) -> Past:
        """Return a past without an answer."""
        return cls(edges, np.zeros(len(edges)))

    def after(self, counts: NDArray[np.float64]) -> Past:
        """Return the past with one more scrape's answers per bucket."""
        return Past(self.edges, self.counts * _MEMORY + counts)

    def latest(self) -> int | None:
        """Return the index of the lowest finite edge with less than half an answer above; None where there is none."""
        places = np.flatnonzero(float(self.counts.sum()) - np.cumsum(self.counts)[:-1] < 0.5)
        return int(places[0]) if places.size else None

    def edge_above(self, share: float) -> float:
        """Return the highest finite edge above which at least this share of answers lies, in ms; the lowest if none."""
        survival = 1.0 - np.cumsum(self.counts) / max(float(self.counts.sum()), 1.0)
        places = np.flatnonzero(survival[:-1] >= share)
        return float(self.edges[places[-1] if places.size else 0])


@dataclass(frozen=True)
class Ratios:
    """The alternatives, made of the champion's past and good for some scrapes to come."""

    champion: NDArray[np.intp]
    """Bucket indices [pairs] of the champion's edges; a category begins above each."""
    candidate: NDArray[np.intp]
    """Those of the candidate's edges, each at least `margin` times as high."""
    log_ratio: NDArray[np.float64] = field(repr=False)
    """log r [alternatives, pairs + 1], rising along the last axis."""

    def log_ratios(self, counts: NDArray[np.float64], champion: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the log likelihood ratio of one scrape for each alternative.

        Args:
            counts: the candidate's answers [buckets] of this scrape.
            champion: the champion's answers [buckets] of the same seconds.
        """
        mine, theirs = _categories(counts, self.candidate), _categories(champion, self.champion)
        answers, others = mine.sum(), theirs.sum()
        if answers <= 0 or others <= 0:
            return np.zeros(len(self.log_ratio))
        share = answers / (answers + others)
        either = np.log1p(share * np.expm1(self.log_ratio))
        result: NDArray[np.float64] = self.log_ratio @ mine - either @ (mine + theirs)
        return result


def ratios(past: Past, margin: float) -> Ratios | None:
    """Return the alternatives as the champion's past suggests them; None while it is too short to tell."""
    total = float(past.counts.sum())
    if total < _ENOUGH:
        return None
    survival = 1.0 - np.cumsum(past.counts)[:-1] / total  # above each finite edge
    finite = past.edges[:-1]
    pairs = _pairs(finite, survival, margin)
    if not pairs:
        return None
    champion, candidate = (np.array(side, dtype=np.intp) for side in zip(*pairs, strict=True))
    expected = _category_shares(survival[champion], total)
    alternatives = [
        _category_shares(_survival_at(finite, survival, finite[candidate] / (margin * slower)), total)
        for slower in SLOWER
    ]
    late = [survival[champion] + share * (1.0 - survival[champion]) for share in LATE]
    alternatives += [_category_shares(above, total) for above in late]
    ratio = np.maximum.accumulate(np.maximum(np.array(alternatives) / expected, _FLOOR), axis=1)
    return Ratios(champion, candidate, np.log(ratio))


def _pairs(finite: NDArray[np.float64], survival: NDArray[np.float64], margin: float) -> list[tuple[int, int]]:
    """Return (champion's edge, candidate's edge), the tightest for each of the latter.

    From the first edge that some of the champion's answers lie below, up to the first that nearly none lie above.
    """
    higher = np.searchsorted(finite, finite * margin * (1.0 - 1e-9))
    last = int(np.argmax(survival <= _RARE)) if (survival <= _RARE).any() else len(finite) - 1
    found: dict[int, int] = {}
    for edge, above in enumerate(higher[: last + 1].tolist()):
        if above < len(finite) and survival[edge] < _COMMON:
            found[above] = edge  # a later edge is higher, so nearer
    return [(edge, above) for above, edge in found.items()]


def _category_shares(survival: NDArray[np.float64], total: float) -> NDArray[np.float64]:
    """Return the shares [pairs + 1] of the categories, kept off zero as half an answer would keep them."""
    shares = -np.diff(np.concatenate([[1.0], survival, [0.0]]))
    smooth = np.maximum(shares, 0.0) * total + 0.5
    result: NDArray[np.float64] = smooth / smooth.sum()
    return result


def _survival_at(
    finite: NDArray[np.float64], survival: NDArray[np.float64], at: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the share of answers above some latencies, between edges as if log latencies were uniform there."""
    result: NDArray[np.float64] = np.interp(np.log(at), np.log(finite), survival, left=1.0, right=float(survival[-1]))
    return result


def _categories(counts: NDArray[np.float64], edges: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the answers [pairs + 1] per category: up to the first edge, ..., above the last one."""
    within = np.cumsum(counts)[edges]
    return np.diff(np.concatenate([[0.0], within, [counts.sum()]]))
