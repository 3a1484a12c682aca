"""One look at a stage: count, judge, take the candidate's traffic away at once on a breach, renew the lease."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tidegate.errors import LeaseLost, Unavailable
from tidegate.handoff import Counts, Verdict
from tidegate.judge import judge
from tidegate.rollout.steps import Hands, abort_rollout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tidegate.clients.metrics_source import Metrics
    from tidegate.clients.records import Lease, Rollout
    from tidegate.delivery import RolloutSpec, Stage

_log = logging.getLogger(__name__)


def look(
    hands: Hands,
    metrics: Metrics,
    rollout: Rollout,
    lease: Lease,
    spec: RolloutSpec,
    stage: Stage,
    since: float,
    now: float,
) -> Verdict:
    """Judge the stage as it stands; a verdict that fails has moved the traffic back already.

    A breach is acted on before the ledger is asked anything: a ledger that is slow or away must not delay it.

    Args:
        hands: what it touches; the ledger may be away.
        metrics: live figures per version.
        rollout: which candidate and champion.
        lease: the right to move this traffic, renewed with each look.
        spec: limits, deadline and the lease's expiry.
        stage: the stage that is watched.
        since: when the stage began, Unix seconds.
        now: Unix seconds.
    """
    split = hands.traffic.read(rollout.delivery)
    if split.weights.get(rollout.candidate, 0) != stage.percent:
        share = split.weights.get(rollout.candidate, 0)
        taken = f"{rollout.candidate} has {share}% instead of {stage.percent}%: {split.cause}"
        return Verdict(decision="fail", reason=taken)
    counts = _counts(metrics, rollout, since, now)
    champion = counts.get(rollout.champion) if rollout.champion else None
    verdict = judge(stage, spec, counts.get(rollout.candidate), champion, now - since, now)
    if verdict.decision == "fail":
        abort_rollout(hands, rollout.id, rollout.delivery, f"judge at {stage.percent}%", verdict.reason)
        return verdict
    try:
        hands.ledger.renew(lease, hands.ttl_s)
    except LeaseLost as lost:
        return _without_lease(hands, rollout, str(lost))
    except Unavailable as away:
        _log.warning("the lease was not renewed: %s", away)
        return verdict.model_copy(update={"decision": "hold", "reason": f"the lease was not renewed: {away}"})
    return verdict


def _counts(metrics: Metrics, rollout: Rollout, since: float, now: float) -> Mapping[str, Counts | None]:
    names = [rollout.candidate, *([rollout.champion] if rollout.champion else [])]
    try:
        return metrics.counts(names, since, now)
    except Unavailable as away:
        _log.warning("no figures: %s", away)
        return {}


def _without_lease(hands: Hands, rollout: Rollout, lost: str) -> Verdict:
    """Fail; where nobody else took the lease over, and so moves the traffic, it is moved back here."""
    try:
        present = hands.ledger.lease(rollout.delivery)
    except Unavailable:
        present = None
    if present is None or not present.live:
        abort_rollout(hands, rollout.id, rollout.delivery, "watch", lost)
    return Verdict(decision="fail", reason=lost)
