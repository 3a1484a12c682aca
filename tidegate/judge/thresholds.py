"""Fixed limits on what a candidate did in one stage, as measured at the proxy: pass, hold or fail.

Limits are checked as counts allow: errors fail a candidate as soon as there are more of them than the stage could
ever forgive, long before its minimum of requests; a p99 says something only when enough answers lie behind it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tidegate.handoff import Check, Counts, Verdict

if TYPE_CHECKING:
    from tidegate.delivery import RolloutSpec, Stage

STALE_AFTER_S = 5.0
"""Older figures than this are no figures: five scrapes of one second were missed."""
P99_REQUESTS = 100
"""Fewer answers have a p99 that rests on a single one of them."""
RATIO_REQUESTS = 1000
"""From here on ten answers lie above the p99: a ratio of two of them that is too high fails; before, it holds."""
RATIO_ERRORS = 5
"""Fewer errors of the candidate are chance when compared with the champion's; the absolute limit still counts them."""


def judge(
    stage: Stage,
    rollout: RolloutSpec,
    candidate: Counts | None,
    champion: Counts | None,
    elapsed_s: float,
    now: float,
) -> Verdict:
    """Judge a candidate on one stage of its rollout.

    Args:
        stage: weight, minimum requests and minimum time of the stage.
        rollout: the limits, absolute and against the champion, and the stage's deadline.
        candidate: what the candidate did since the stage began; None where nothing is known.
        champion: the same of the champion; not looked at where the candidate has 100%.
        elapsed_s: seconds since the stage began.
        now: Unix time in seconds, to tell stale figures.
    """
    verdict = _judge(stage, rollout, candidate, champion, elapsed_s, now)
    if verdict.decision == "hold" and elapsed_s >= rollout.deadline:
        reason = f"not passed within the deadline of {rollout.deadline:.0f} s: {verdict.reason}"
        return verdict.model_copy(update={"decision": "fail", "reason": reason})
    return verdict


def _judge(
    stage: Stage, rollout: RolloutSpec, candidate: Counts | None, champion: Counts | None, elapsed_s: float, now: float
) -> Verdict:
    if candidate is None:
        return Verdict(decision="hold", reason="no data about the candidate", champion=champion)
    if not _finite(candidate):
        return _verdict("hold", "the candidate's figures are not numbers (NaN)", [], candidate, champion)
    checks = _absolute(stage, rollout, candidate)
    missed = [check for check in checks if not check.ok]
    if missed:
        return _verdict("fail", _sentence(missed, candidate), checks, candidate, champion)
    waiting = _unready(stage, candidate, elapsed_s, now)
    if waiting:
        return _verdict("hold", waiting, checks, candidate, champion)
    if stage.percent == 100:
        note = "all traffic is the candidate's, so there is no champion beside it"
    else:
        unknown = _unknown_champion(champion, now)
        if unknown or champion is None:
            return _verdict("hold", unknown, checks, candidate, champion)
        relative, note = _relative(rollout, candidate, champion)
        checks += relative
        missed = [check for check in relative if not check.ok]
        if missed:
            sure = any(check.name == "errors/champion" for check in missed) or candidate.requests >= RATIO_REQUESTS
            reason = _sentence(missed, candidate) + ("" if sure else f"; waits for {RATIO_REQUESTS} to be sure")
            return _verdict("fail" if sure else "hold", reason, checks, candidate, champion)
    reason = f"all limits kept over {_done(candidate)} in {elapsed_s:.0f} s; {note}"
    return _verdict("pass", reason, checks, candidate, champion)


def _absolute(stage: Stage, rollout: RolloutSpec, candidate: Counts) -> list[Check]:
    allowed = rollout.limits.errors * max(candidate.requests, stage.requests)
    checks = [
        Check(name="errors", value=candidate.errors, limit=allowed, unit="", ok=candidate.errors <= allowed + 1e-9)
    ]
    if candidate.p99_ms is not None and candidate.requests >= min(P99_REQUESTS, stage.requests):
        limit = rollout.limits.p99 * 1000
        checks.append(Check(name="p99", value=candidate.p99_ms, limit=limit, unit="ms", ok=candidate.p99_ms <= limit))
    return checks


def _unready(stage: Stage, candidate: Counts, elapsed_s: float, now: float) -> str:
    stale = _stale("the candidate", candidate, now)
    if stale:
        return stale
    if candidate.requests < stage.requests:
        return f"too few requests: {candidate.requests:.0f} of {stage.requests}, {candidate.errors:.0f} failed"
    if elapsed_s < stage.at_least:
        return f"too early: {elapsed_s:.1f} of {stage.at_least:.0f} s, {_done(candidate)}"
    if candidate.p99_ms is None:
        return f"no data about the candidate's latency, {_done(candidate)}"
    return ""


def _unknown_champion(champion: Counts | None, now: float) -> str:
    if champion is None:
        return "no data about the champion"
    if not _finite(champion):
        return "the champion's figures are not numbers (NaN)"
    return _stale("the champion", champion, now)


def _relative(rollout: RolloutSpec, candidate: Counts, champion: Counts) -> tuple[list[Check], str]:
    if champion.requests < P99_REQUESTS:
        return [], f"not compared: the champion answered only {champion.requests:.0f} of {P99_REQUESTS} requests"
    checks = []
    if candidate.errors >= RATIO_ERRORS:
        limit = rollout.versus_champion.errors * champion.errors / champion.requests * candidate.requests
        ok = candidate.errors <= limit + 1e-9
        checks.append(Check(name="errors/champion", value=candidate.errors, limit=limit, ok=ok))
    if candidate.p99_ms is not None and champion.p99_ms is not None and candidate.requests >= P99_REQUESTS:
        limit = rollout.versus_champion.p99 * champion.p99_ms
        checks.append(
            Check(name="p99/champion", value=candidate.p99_ms, limit=limit, unit="ms", ok=candidate.p99_ms <= limit)
        )
    if not checks:
        return [], "not compared with the champion: too few requests or errors, or no latency of the champion"
    rate = champion.errors / champion.requests
    p99 = "unknown" if champion.p99_ms is None else f"{champion.p99_ms:.1f} ms"
    return checks, f"the champion: {rate:.2%} errors, p99 {p99}"


def _stale(who: str, counts: Counts, now: float) -> str:
    if counts.sampled_at is None:
        return f"no data about {who}: no sample has a time"
    age = now - counts.sampled_at
    return f"stale data about {who}: {age:.1f} s old, limit {STALE_AFTER_S:.0f} s" if age > STALE_AFTER_S else ""


def _finite(counts: Counts) -> bool:
    figures = (counts.requests, counts.errors, counts.p50_ms, counts.p99_ms)
    return all(figure is None or math.isfinite(figure) for figure in figures)


def _sentence(missed: list[Check], candidate: Counts) -> str:
    parts = [f"{check.name} {check.value:.4g}{check.unit} above {check.limit:.4g}{check.unit}" for check in missed]
    return f"{', '.join(parts)} after {_done(candidate)}"


def _done(counts: Counts) -> str:
    p99 = "" if counts.p99_ms is None else f", p99 {counts.p99_ms:.1f} ms"
    return f"{counts.requests:.0f} requests, {counts.errors:.0f} failed{p99}"


def _verdict(
    decision: str, reason: str, checks: list[Check], candidate: Counts | None, champion: Counts | None
) -> Verdict:
    return Verdict.model_validate(
        {"decision": decision, "reason": reason, "checks": checks, "candidate": candidate, "champion": champion}
    )
