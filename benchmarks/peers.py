"""What else a user would let decide: each rule as a function of one run, and the limit that none of them can pass.

A run is arrays over seconds; a rule returns the second in which it would abort, counted from 1, or None. Rules have one
knob, so that they can be compared at equal false alarms: `tuned` turns it until a rule keeps the budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from scipy import stats

from benchmarks.simulated import EDGES
from tidegate.delivery import Limits, RolloutSpec, Stage
from tidegate.judge import Did, Interval, StageJudge

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

FINITE = np.array(EDGES[:-1])


@dataclass(frozen=True)
class Run:
    """One run: per second, requests, errors and answers per bucket of the candidate (0) and the champion (1)."""

    requests: NDArray[np.float64]
    errors: NDArray[np.float64]
    buckets: NDArray[np.float64]
    weight: float
    before: NDArray[np.float64]
    """The champion's answers [seconds, buckets] before the candidate came."""
    failed_before: NDArray[np.float64]
    """Its failures [seconds] of that time."""
    usual_errors: float = 0.002
    """The share of failures that the users of a fixed limit know to be usual."""

    def __len__(self) -> int:
        return len(self.requests)


class Rule(Protocol):
    """Decides on one run."""

    def __call__(self, run: Run, knob: float) -> int | None:
        """Return the second of the abort, or None."""


SPEC = RolloutSpec(
    stages=[Stage(weight=0.1, requests=1), Stage(weight=1.0, requests=1)], limits=Limits(errors=0.05, p99=1.0)
)
TOLERATED = 5.0  # how many times the usual share of failures the users of a fixed limit allow


def ours(run: Run, knob: float) -> int | None:
    """Tidegate's judge; the knob is the budget of false alarms."""
    judge = StageJudge(Stage(weight=run.weight, requests=10**9), SPEC, knob, 0.0)
    for buckets, failed in zip(run.before, run.failed_before, strict=True):
        judge.learn(Did(float(buckets.sum()), float(failed), EDGES, tuple(buckets.tolist())))
    for second in range(len(run)):
        sides = [
            Did(
                float(run.requests[second, i]),
                float(run.errors[second, i]),
                EDGES,
                tuple(run.buckets[second, i].tolist()),
            )
            for i in (0, 1)
        ]
        judge.take(Interval(float(second), float(second + 1), *sides))
        if judge.is_decided(float(second + 1)):
            return second + 1
    return None


def flagger(run: Run, knob: float) -> int | None:
    """Flagger at its floor (10 s, threshold 1): failures over five times, p99 over `knob` times the usual."""
    return _thresholds(run, interval=10, failures=1, slower=knob)


def argo(run: Run, knob: float) -> int | None:
    """Argo Rollouts at 1 s: the same conditions, aborting at more than `knob` failed measurements (failureLimit)."""
    return _thresholds(run, interval=1, failures=int(knob) + 1, slower=1.5)


def argo_documented(run: Run, knob: float) -> int | None:
    """Argo Rollouts as its documentation shows it: every 5 minutes, failureLimit 3."""
    return _thresholds(run, interval=300, failures=int(knob) + 1, slower=1.5)


def kayenta(run: Run, knob: float) -> int | None:
    """Kayenta's judge: Mann-Whitney on per-second error rates and mean times, every 60 s; `knob` is its level."""
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = run.errors / run.requests
        means = (run.buckets @ np.array([*FINITE, FINITE[-1]])) / run.requests
    for end in range(60, len(run) + 1, 60):
        for series in (rates[:end], means[:end]):
            mine, theirs = (side[np.isfinite(side)] for side in (series[:, 0], series[:, 1]))
            if len(mine) > 4 and np.ptp(np.concatenate([mine, theirs])) > 0:
                found = stats.mannwhitneyu(mine, theirs, alternative="greater")
                if found.pvalue < knob:
                    return end
    return None


def fixed_sample(run: Run, knob: float) -> int | None:
    """A fixed-sample test looked at every second: z-tests on errors and on answers above the champion's p90."""
    requests, errors = run.requests.cumsum(axis=0), run.errors.cumsum(axis=0)
    total = run.buckets[:, 1].sum(axis=0)
    edge = int(np.searchsorted(total.cumsum(), 0.9 * total.sum()))
    slow = run.buckets[:, :, edge + 1 :].sum(axis=2).cumsum(axis=0)
    limit = stats.norm.isf(knob)
    for counts in (errors, slow):
        with np.errstate(invalid="ignore", divide="ignore"):  # a second without a request says nothing
            pooled = counts.sum(axis=1) / requests.sum(axis=1)
            spread = np.sqrt(pooled * (1 - pooled) * (1 / requests[:, 0] + 1 / requests[:, 1]))
            z = (counts[:, 0] / requests[:, 0] - counts[:, 1] / requests[:, 1]) / spread
        first = np.flatnonzero((z > limit) & (counts[:, 0] >= 2))
        if first.size:
            return int(first[0]) + 1
    return None


def sprt(
    run: Run, errors: tuple[float, float] | None, shares: tuple[NDArray[np.float64], NDArray[np.float64]] | None
) -> int | None:
    """Wald's sequential probability ratio test of what is allowed against the truth, both known, at 1%: the limit.

    `errors` are (allowed, true) failure rates, `shares` (allowed, true) chances [buckets] of an answer's bucket; one of
    them is given.
    """
    if errors is not None:
        allowed, true = errors
        true = min(true, 1 - 1e-9)
        failed, asked = run.errors[:, 0], run.requests[:, 0]
        steps = failed * np.log(true / allowed) + (asked - failed) * np.log((1 - true) / (1 - allowed))
    else:
        assert shares is not None
        steps = run.buckets[:, 0] @ np.log(shares[1] / shares[0])
    first = np.flatnonzero(np.cumsum(steps) >= np.log(100.0))
    return int(first[0]) + 1 if first.size else None


def _thresholds(run: Run, interval: int, failures: int, slower: float) -> int | None:
    usual = _p99(run.buckets[:, 1].sum(axis=0))
    failed = 0
    for end in range(interval, len(run) + 1, interval):
        asked = run.requests[end - interval : end, 0].sum()
        if asked == 0:
            continue
        bad = run.errors[end - interval : end, 0].sum() / asked > TOLERATED * run.usual_errors
        slow = _p99(run.buckets[end - interval : end, 0].sum(axis=0)) > slower * usual
        failed += int(bad or slow)
        if failed >= failures:
            return end
    return None


def _p99(counts: NDArray[np.float64]) -> float:
    place = int(np.searchsorted(counts.cumsum(), 0.99 * counts.sum()))
    return float(FINITE[min(place, len(FINITE) - 1)])


def tuned(
    rule: Rule, knobs: Sequence[float], identical: Mapping[str, Sequence[Run]], budget: float
) -> tuple[float, dict[str, float]]:
    """Return the first of the knobs, from the most nervous on, that keeps the budget in every kind of traffic.

    And the shares of false alarms by kind under it; where no knob keeps the budget, those of the last one.
    """
    for knob in knobs:
        alarms = {
            kind: sum(rule(run, knob) is not None for run in runs) / len(runs) for kind, runs in identical.items()
        }
        if max(alarms.values()) <= budget:
            break
    return knob, alarms
