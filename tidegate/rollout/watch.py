"""Watches one stage: read what is new, judge, take the candidate's traffic away at once on a breach, renew the lease.

All times are those of the servers that state them: a stage is as old as the ledger says, a scrape as Prometheus says.
The clock of the process that watches is never compared with either.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tidegate.delivery import Stage
from tidegate.errors import LeaseLost, Unavailable
from tidegate.handoff import Verdict
from tidegate.judge import StageJudge, budgets, intervals
from tidegate.judge.series import Scrape
from tidegate.rollout.plan import Phase
from tidegate.rollout.steps import Hands, abort_rollout, note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidegate.clients.metrics_source import Metrics
    from tidegate.clients.records import Lease, Rollout
    from tidegate.delivery import RolloutSpec

_log = logging.getLogger(__name__)

PAST_S = 180.0
"""How far before a stage the champion's latencies are looked at."""
_OVERLAP_S = 15.0  # that are asked for again, so that a scrape that came in late is not missed


class Watch:
    """The watch over one stage of a rollout, or over its bake; a new one takes up where another broke off.

    Args:
        hands: what it touches; the ledger may be away.
        metrics: the proxy's counters per version.
        rollout: as recorded when its stage began.
        lease: the right to move this traffic, renewed with each look.
        spec: limits, margins, deadline.
    """

    def __init__(self, hands: Hands, metrics: Metrics, rollout: Rollout, lease: Lease, spec: RolloutSpec):
        self._hands, self._metrics, self._rollout, self._lease, self._spec = hands, metrics, rollout, lease, spec
        self._bakes = rollout.phase == Phase.BAKING
        self._stage = _bake(spec) if self._bakes else spec.stages[rollout.stage]
        self._age_s = rollout.stage_age_s
        self._judge: StageJudge | None = None
        self._last: Scrape | None = None
        self._said: dict[str, Scrape] = {}
        self._now = self._since = 0.0
        self._blind_since: float | None = None

    @property
    def name(self) -> str:
        """What is watched, in words."""
        return "bake" if self._bakes else f"stage {self._stage.name}"

    def look(self) -> Verdict:
        """Judge as things stand; a verdict that fails has moved the traffic back already.

        A breach is acted on before the ledger is asked anything: a ledger that is slow or away must not delay it.
        """
        rollout = self._rollout
        if taken := self._taken():
            return Verdict(decision="fail", reason=taken)
        verdict = self._judged()
        if verdict.decision == "fail":
            evidence = {"verdict": verdict.model_dump(mode="json")}
            abort_rollout(self._hands, rollout.id, rollout.delivery, f"judge at {self.name}", verdict.reason, evidence)
            return verdict
        try:
            self._hands.ledger.renew(self._lease, self._hands.ttl_s)
            return self._as_asked(verdict)
        except LeaseLost as lost:
            return self._without_lease(str(lost))
        except Unavailable as away:
            _log.warning("the lease was not renewed: %s", away)
            return verdict.model_copy(update={"decision": "hold", "reason": f"the lease was not renewed: {away}"})

    @property
    def next_scrape_in_s(self) -> float:
        """Seconds until the next scrape may be there; a guess that is right while scrapes come every second."""
        return 0.25 if self._last is None else min(max(self._last.at + 1.05 - self._now, 0.05), 1.0)

    def _taken(self) -> str:
        """Return how the traffic differs from what this stage gave the candidate; nothing where it does not."""
        split = self._hands.traffic.read(self._rollout.delivery)
        name = self._rollout.candidate
        share, mirror = split.weights.get(name, 0), split.mirrors.get(name, 0)
        if (share, mirror) == (self._stage.percent, self._stage.mirror_percent):
            return ""
        return f"{name} has {share}% instead of {self._stage.percent}%: {split.cause}"

    def _judged(self) -> Verdict:
        rollout = self._rollout
        names = [name for name in (rollout.candidate, rollout.champion) if name is not None]
        wanted = PAST_S + self._age_s if self._last is None else self._now - self._last.at + _OVERLAP_S
        try:
            seen = self._metrics.scrapes(names, wanted)
        except Unavailable as away:
            _log.warning("no figures: %s", away)
            return self._blind(str(away))
        self._now, self._blind_since = seen.now, None
        if self._judge is None:
            self._judge = self._begun(seen.now)
        fresh = [scrape for scrape in seen.scrapes if self._last is None or scrape.at > self._last.at]
        before = [self._last] if self._last else []
        for interval in intervals([*before, *fresh], rollout.candidate, rollout.champion):
            if interval.start >= self._since:
                self._judge.take(interval)
            elif interval.champion is not None:
                self._judge.learn(interval.champion)
        self._last = fresh[-1] if fresh else self._last
        if not self._judge.is_alarmed:  # else nothing may delay the way back
            self._hear(self._judge)
        return self._judge.verdict(seen.now)

    def _hear(self, judge: StageJudge) -> None:
        """Give the judge what both versions said since the last look, where the delivery asks for that."""
        quality, champion = judge.quality, self._rollout.champion
        if quality is None or champion is None:
            return
        oldest = min((scrape.at for scrape in self._said.values()), default=self._since - _OVERLAP_S)
        try:
            seen = self._metrics.quality(self._rollout.candidate, champion, self._now - oldest + _OVERLAP_S)
        except Unavailable as away:  # a stage that waits for it holds: no data, or stale
            _log.warning("nothing is known of what is said: %s", away)
            return
        for name in quality.signals:
            scrapes: Sequence[Scrape] = getattr(seen, name)
            last = self._said.get(name)
            fresh = [scrape for scrape in scrapes if last is None or scrape.at > last.at]
            other = None if name == "disagreement" else champion
            for interval in intervals([*([last] if last else []), *fresh], self._rollout.candidate, other):
                if interval.start >= self._since:
                    quality.take(name, interval)
            if fresh:
                self._said[name] = fresh[-1]

    def _begun(self, now: float) -> StageJudge:
        rollout, spec = self._rollout, self._spec
        self._since = now - self._age_s
        until = now + rollout.deadline_s - rollout.age_s if not self._bakes else self._since + 2 * spec.bake + 600.0
        if self._stage.at_most is not None:
            until = min(until, self._since + self._stage.at_most)
        compared = [position for position, stage in enumerate(spec.stages) if stage.percent < 100]
        return StageJudge(
            self._stage,
            spec,
            budgets(spec)[-1 if self._bakes else rollout.stage],
            self._since,
            until,
            shows_equal=not self._bakes and bool(compared) and rollout.stage == compared[-1],
        )

    def _blind(self, why: str) -> Verdict:
        """Hold while Prometheus is away, by the ledger's clock; past the patience or the deadline, fail."""
        try:
            known = self._hands.ledger.rollout(self._rollout.id)
        except Unavailable:
            known = None
        if known is None:  # then the lease cannot be renewed either, and the guard takes over
            return Verdict(decision="hold", reason=f"no data: {why}")
        self._blind_since = known.age_s if self._blind_since is None else self._blind_since
        silent = known.age_s - self._blind_since
        overdue = not self._bakes and known.age_s >= known.deadline_s
        failed = overdue or silent >= self._spec.no_data
        return Verdict(decision="fail" if failed else "hold", reason=f"no data for {silent:.0f} s: {why}")

    def _as_asked(self, verdict: Verdict) -> Verdict:
        """Return the verdict as people's wishes change it: a pause holds, a promotion does not wait."""
        known = self._hands.ledger.rollout(self._rollout.id)
        if known is not None and known.promote_by:
            reason = f"{known.promote_by} asked not to wait for the judge: {verdict.reason}"
            return verdict.model_copy(update={"decision": "pass", "reason": reason})
        if known is not None and known.paused_by and verdict.decision == "pass":
            reason = f"paused by {known.paused_by}; else it would pass: {verdict.reason}"
            return verdict.model_copy(update={"decision": "hold", "reason": reason})
        if verdict.decision == "pass":
            note(
                self._hands, self._rollout, "passed", f"judge at {self.name}", self._lease,
                verdict=verdict.model_dump(mode="json"),
            )  # fmt: skip
        return verdict

    def _without_lease(self, lost: str) -> Verdict:
        """Fail; where nobody else took the lease over, and so moves the traffic, it is moved back here."""
        delivery = self._rollout.delivery
        try:
            present = self._hands.ledger.lease(delivery)
        except Unavailable:
            present = None
        if present is None or not present.live:
            abort_rollout(self._hands, self._rollout.id, delivery, "watch", lost)
        return Verdict(decision="fail", reason=lost)


def _bake(spec: RolloutSpec) -> Stage:
    """Return the bake as a stage: all traffic, for its time."""
    return Stage(weight=1.0, requests=1, at_least=spec.bake)
