"""From measurements to a gate's report: pure, so that every way to miss a limit can be tested without a server."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tidegate.errors import SpecError
from tidegate.handoff import Check, GateReport

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Literal

    from tidegate.delivery import GateSpec
    from tidegate.gate.load import Answer

QUALITIES = ("auc",)


@dataclass(frozen=True)
class Measured:
    """All that a gate measured of one candidate."""

    answers: Sequence[Answer]
    """Of the load, without its warm-up."""
    quality: Mapping[str, float | None]
    """The candidate's figures on the held-out rows; None where it did not answer."""
    champion: Mapping[str, float | None] | None = None
    """The champion's on the same rows; None if there is no champion."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What else people will want to see."""


def report(version: int, spec: GateSpec, measured: Measured, seconds: float) -> GateReport:
    """Hold the measurements against every limit; what was not measured, and NaN, misses its limit.

    Raises:
        SpecError: the delivery limits a quality figure that does not exist.
    """
    checks = [*_load_checks(spec, measured.answers), *_quality_checks(spec, measured)]
    shown = {"p50_ms": quantile_ms(measured.answers, 0.5), **measured.figures}
    return GateReport(
        version=version,
        passed=all(check.ok for check in checks),
        checks=checks,
        requests=len(measured.answers),
        seconds=seconds,
        figures={name: value for name, value in shown.items() if value is not None},
    )


def quantile_ms(answers: Sequence[Answer], share: float) -> float | None:
    """Return a quantile of the latencies in milliseconds, rounded up to one that was seen; failures count too."""
    if not answers:
        return None
    return float(np.quantile([answer.latency_s for answer in answers], share, method="higher")) * 1000


def known(spec: GateSpec) -> None:
    """Check that every limited quality figure exists, before anything is measured.

    Raises:
        SpecError: one does not.
    """
    unknown = sorted(set(spec.quality) - set(QUALITIES))
    if unknown:
        raise SpecError(f"gate.quality limits {', '.join(unknown)}, known are {', '.join(QUALITIES)}; use one of these")


def _load_checks(spec: GateSpec, answers: Sequence[Answer]) -> list[Check]:
    failed = sum(answer.status != 200 for answer in answers)
    errors = 100 * failed / len(answers) if answers else None
    return [
        _check("p99", quantile_ms(answers, 0.99), spec.p99 * 1000, "ms"),
        _check("errors", errors, spec.errors * 100, "%"),
    ]


def _quality_checks(spec: GateSpec, measured: Measured) -> list[Check]:
    known(spec)
    checks = []
    for name, limit in spec.quality.items():
        value = measured.quality.get(name)
        checks.append(_check(name, value, limit.at_least, better="higher"))
        if measured.champion is not None:
            theirs = measured.champion.get(name)
            lost = theirs - value if theirs is not None and value is not None else None
            checks.append(_check(f"{name} lost to champion", lost, limit.lose_at_most))
    return checks


def _check(
    name: str, value: float | None, limit: float, unit: str = "", better: Literal["lower", "higher"] = "lower"
) -> Check:
    measured = value if value is not None and math.isfinite(value) else None
    ok = measured is not None and (measured <= limit if better == "lower" else measured >= limit)
    return Check(name=name, value=measured, limit=limit, unit=unit, better=better, ok=ok)
