"""Likelihood ratios of latency histograms: is the candidate slower than the champion by more than the margin allows?

The null hypothesis says nothing about the shape of latencies, only that the candidate's are stochastically at most
`margin` times the champion's of the same seconds. The candidate's bucket edges e make categories; an answer of the
champion falls into the category that it would be in were it `margin` times slower, so the champion's histogram is cut
at the times e / margin. Where such a cut lies within a bucket, its answers are shared out between the categories as if
the logarithms of their times were uniform there. Under the null an answer of the candidate lies in no higher a category
than one of the champion. An alternative gives each category a ratio r, rising with the category; then per scrape

    product over categories of  a^x b^x',   a = r / (s r + 1 - s),  b = 1 / (s r + 1 - s),  s = n / (n + n')

has an expectation of at most 1 under the null, by the argument of `rates.versus_champion` in each category and because
a rises with the category. Sharing an answer out by shares f keeps this true for the cut histogram, as the weighted
geometric mean of the b is at most their mean f b + ... (so it is no more than drawing the category by chance). However
coarse the buckets are, a candidate that is just like the champion keeps the null, since every cut lies below its edge;
only how exactly the margin is met rests on the uniform logarithms. The ratios come from the champion's past only, so
they may be as clever as we like.

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

    candidate: NDArray[np.intp]
    """Indices [cuts] of the candidate's edges; a category begins above each."""
    champion: NDArray[np.float64] = field(repr=False)
    """Shares [buckets, cuts + 1] of each of the champion's buckets that fall into each category."""
    log_ratio: NDArray[np.float64] = field(repr=False)
    """log r [alternatives, cuts + 1], rising along the last axis."""

    def log_ratios(self, counts: NDArray[np.float64], champion: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the log likelihood ratio of one scrape for each alternative.

        Args:
            counts: the candidate's answers [buckets] of this scrape.
            champion: the champion's answers [buckets] of the same seconds.
        """
        mine, theirs = _categories(counts, self.candidate), champion @ self.champion
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
    finite = past.edges[:-1]
    survival = 1.0 - np.cumsum(past.counts)[:-1] / total  # above each finite edge

    def above(slower: float) -> NDArray[np.float64]:
        """Return the champion's survival at every edge, were it so many times slower."""
        return _survival_at(finite, survival, finite / slower)

    cuts = _cuts(above(margin))
    if not cuts.size:
        return None
    expected = above(margin)[cuts]
    alternatives = [above(margin * slower)[cuts] for slower in SLOWER]
    alternatives += [expected + share * (1.0 - expected) for share in LATE]
    allowed, *worse = (_category_shares(each, total) for each in (expected, *alternatives))
    ratio = np.maximum.accumulate(np.maximum(np.array(worse) / allowed, _FLOOR), axis=1)
    return Ratios(cuts, _shared_out(finite, finite[cuts] / margin), np.log(ratio))


def _cuts(survival: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the edges that tell something.

    From the first one that some of the champion's answers lie below, up to the first that nearly none lie above.
    """
    rare = np.flatnonzero(survival <= _RARE)
    last = int(rare[0]) if rare.size else len(survival) - 1
    places: NDArray[np.intp] = np.flatnonzero(survival[: last + 1] < _COMMON)
    return places


def _shared_out(finite: NDArray[np.float64], cuts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share [buckets, cuts + 1] of each bucket in each category; what lies below the first edge is above it.

    All answers of the first bucket count as just below its edge: nothing is known of how near to zero they are.
    """
    lower, upper = np.log(finite[:-1]), np.log(finite[1:])
    within = np.clip((upper[:, None] - np.log(cuts)[None, :]) / (upper - lower)[:, None], 0.0, 1.0)
    first = (cuts < finite[0]).astype(float)[None, :]
    above = np.concatenate([first, within, np.ones((1, len(cuts)))])  # the share of each bucket above each cut
    edges = np.ones((len(above), 1))
    result: NDArray[np.float64] = -np.diff(np.concatenate([edges, above, 0.0 * edges], axis=1), axis=1)
    return result


def _category_shares(survival: NDArray[np.float64], total: float) -> NDArray[np.float64]:
    """Return the shares [cuts + 1] of the categories, kept off zero as half an answer would keep them."""
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
    """Return the answers [cuts + 1] per category: up to the first edge, ..., above the last one."""
    within = np.cumsum(counts)[edges]
    return np.diff(np.concatenate([[0.0], within, [counts.sum()]]))
