"""Simulated traffic of a champion and a candidate: what a proxy's counters would say at each scrape.

Each second both versions get a share of the requests; a request fails with a chance and takes a log-normal time. The
kinds of traffic differ in what disturbs this: nothing, shared weather, bursts, the time of day, pods that differ.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tidegate.clients.envoy_histogram import EDGES_MS
from tidegate.judge.series import Did, Interval

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.random import Generator
    from numpy.typing import NDArray

EDGES = (*(float(edge) for edge in EDGES_MS), float("inf"))
"""Histogram edges in ms: the embedded stack's proxy's."""


@dataclass(frozen=True)
class Version:
    """How one version answers."""

    errors: float = 0.002
    """Share of requests that fail."""
    median_ms: float = 5.0
    spread: float = 0.5
    """Standard deviation of the logarithm of the time."""
    late: float = 0.0
    """Share of answers that come 500 ms later."""


@dataclass(frozen=True)
class Kind:
    """A kind of traffic: how it departs from independent requests at a steady rate."""

    name: str
    rate: float = 200.0
    """Requests a second, of both versions together."""
    weight: float = 0.1
    """The candidate's share."""
    poisson: bool = True
    weather: float = 0.0
    """Standard deviation of the logarithm of a factor on both versions' errors and times, that wanders (10 s)."""
    daily: float = 0.0
    """The rate swings by this share within ten minutes."""
    bursts: float = 0.0
    """Chance per second that a burst begins: for some five seconds five times the requests, twice as slow."""
    storms: float = 0.0
    """Chance per second that a storm begins: for some twenty seconds 5% of both versions' answers fail."""
    pods: int = 0
    """Pods per version, each of them slower or faster by `pod_spread` for good."""
    pod_spread: float = 0.0
    lost: float = 0.0
    """Chance that a scrape is lost."""
    base: Version = Version()


KINDS = (
    Kind("poisson"),
    Kind("half and half", weight=0.5),
    Kind("3% errors", base=Version(errors=0.03)),
    Kind("heavy tails", base=Version(spread=1.2)),
    Kind("over-dispersed weather", weather=0.5),
    Kind("daily wave", daily=0.8),
    Kind("bursts", bursts=0.02),
    Kind("storms of 5% errors", storms=0.02),
    Kind("pods that differ by 10%", pods=5, pod_spread=0.10),
    Kind("lost scrapes", lost=0.2),
    Kind("5 requests/s", rate=5.0),
)


def run(kind: Kind, candidate: Version, seconds: int, chance: Generator) -> Iterator[Interval]:
    """Yield one run's intervals of a second (more where scrapes are lost); the champion is the kind's base version."""
    factors = _pods(kind, chance), _pods(kind, chance)
    weather, burst, storm, held = 0.0, 0, 0, []
    for second in range(seconds):
        weather = 0.9 * weather + chance.normal(0.0, kind.weather * 0.436) if kind.weather else 0.0
        burst = burst - 1 if burst > 0 else int(chance.geometric(0.2)) if chance.random() < kind.bursts else 0
        storm = storm - 1 if storm > 0 else int(chance.geometric(0.05)) if chance.random() < kind.storms else 0
        raining = 0.05 if storm else 0.0
        rate = kind.rate * (1 + kind.daily * np.sin(second / 600 * 2 * np.pi)) * (5.0 if burst else 1.0)
        slow = np.exp(weather) * (2.0 if burst else 1.0)
        total = int(chance.poisson(rate)) if kind.poisson else int(rate)
        mine = int(chance.binomial(total, kind.weight))
        pair = [
            _answers(version, count, slow, pods, chance, raining)
            for version, count, pods in ((candidate, mine, factors[0]), (kind.base, total - mine, factors[1]))
        ]
        held.append(pair)
        if kind.lost and chance.random() < kind.lost and second + 1 < seconds:
            continue
        yield Interval(
            float(second + 1 - len(held)), float(second + 1), *(_sum(list(side)) for side in zip(*held, strict=True))
        )
        held = []


def worse(base: Version, **changes: float) -> Version:
    """Return a version that differs from the base."""
    return replace(base, **changes)


def _pods(kind: Kind, chance: Generator) -> NDArray[np.float64]:
    return np.exp(chance.normal(0.0, kind.pod_spread, max(kind.pods, 1)))


def _answers(
    version: Version, count: int, slow: float, pods: NDArray[np.float64], chance: Generator, raining: float
) -> Did:
    pod = chance.integers(0, len(pods), count)
    times = version.median_ms * slow * pods[pod] * np.exp(version.spread * chance.standard_normal(count))
    if version.late:
        times = times + 500.0 * (chance.random(count) < version.late)
    failed = int((chance.random(count) < np.minimum(version.errors * slow * pods[pod] + raining, 1.0)).sum())
    places = np.searchsorted(EDGES, times, side="right")
    buckets = np.bincount(places, minlength=len(EDGES))
    return Did(float(count), float(failed), EDGES, tuple(buckets.astype(float).tolist()))


def _sum(parts: list[Did]) -> Did:
    buckets = np.sum([part.buckets for part in parts], axis=0)
    return Did(sum(part.requests for part in parts), sum(part.errors for part in parts), EDGES, tuple(buckets.tolist()))
