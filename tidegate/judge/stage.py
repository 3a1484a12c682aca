"""Judges one stage of a rollout, interval by interval: pass, hold or fail, with the evidence; no clock, no I/O.

An alarm is one test martingale (`evidence`), mixed over everything that may go wrong: more failures than the guardrail
allows, more answers above the latency guardrail than one in a hundred, more failures than the champion's times the
margin (on the same seconds, and against its usual share: see `usual`), slower answers than the champion's times the
margin, and answers later than any of its. So the budget of false alarms is split over signals and
alternatives by their prior weights, over looks by Ville's inequality, and over stages by `budgets`. What the candidate
says, where a delivery asks for that, is a part of the same average (`quality`). A stage passes on
its minimum of requests and time, fresh figures, no limit missed; and the last stage beside the champion only when the
candidate has been shown to be hardly worse (`non_inferiority`).
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from tidegate.handoff import Check, Verdict
from tidegate.judge import latency, non_inferiority, rates, usual
from tidegate.judge.evidence import Evidence
from tidegate.judge.latency import Past, Ratios
from tidegate.judge.quality import QualityJudge
from tidegate.judge.quantiles import quantile
from tidegate.judge.tally import Tally, above

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tidegate.delivery import RolloutSpec, Stage
    from tidegate.judge.series import Did, Interval

STALE_AFTER_S = 5.0
"""Older figures than this are no figures: five scrapes of one second were missed."""
_REFRESH = 10  # intervals for which the latency alternatives stay as they were made
_SLOW = 0.1  # share of the champion's answers that count as slow when a candidate is to be shown no worse
_MEMORY = 0.995  # of the champion's failures, per interval: half of them are forgotten after 138
_HARDLY = 3.0  # failures of its past, fewer of which are hardly any
_P99 = 0.01  # share of answers that may lie above the p99 guardrail
_BESIDE = {
    "limit:errors": 0.05, "limit:p99": 0.03, "usual:errors": 0.36, "champion:errors": 0.11, "usual:latency": 0.27,
    "champion:latency": 0.18,
}  # fmt: skip
_ALONE = {"limit:errors": 0.6, "limit:p99": 0.4}
_DRIFT_REQUESTS = 500


def budgets(rollout: RolloutSpec) -> list[float]:
    """Return the share of the whole rollout's false alarms of each stage, and of the bake; half goes to the first.

    A bad version is found in the first stage or hardly ever, and its caution should not pay for later stages.
    """
    later = 0.5 * rollout.false_alarms / len(rollout.stages)
    return [0.5 * rollout.false_alarms, *(later for _ in rollout.stages)]


class StageJudge:
    """The judge of one stage; takes intervals in their order and gives a verdict whenever asked.

    Args:
        stage: its share of traffic, minimum requests, minimum time.
        rollout: guardrails, margins, patience.
        budget: the chance of a false alarm in this stage, of `budgets`.
        since: when the stage began, seconds.
        until: when it is too late to pass, seconds.
        shows_equal: whether passing this stage needs the candidate to be shown hardly worse than the champion.
    """

    def __init__(
        self,
        stage: Stage,
        rollout: RolloutSpec,
        budget: float,
        since: float,
        until: float = math.inf,
        shows_equal: bool = False,
    ):
        self._stage, self._spec, self._since, self._until = stage, rollout, since, until
        self._limit = math.log(1.0 / budget)
        self._past: Past | None = None
        self._age = 0
        self._ratios: Ratios | None = None
        self._beside = stage.percent < 100
        self._signals, prior = _layout(_BESIDE if self._beside else _ALONE)
        self._alarm = Evidence.over(prior)
        self._shows_equal = shows_equal and self._beside
        self._equal = {name: Evidence.over(np.asarray(non_inferiority.PRIOR)) for name in ("errors", "latency")}
        self.candidate, self.champion = Tally(), Tally()
        self._failed = self._answered = 0.0  # the champion's past, the older the less it counts
        self._recent: deque[Did] = deque(maxlen=usual.RECENT)
        self.quality = QualityJudge(rollout.quality, stage) if rollout.quality is not None else None
        self._last: Interval | None = None
        self._known_at = since

    def take(self, interval: Interval) -> None:
        """Take in what both versions did in one interval."""
        self._last = interval
        mine, theirs = interval.candidate, interval.champion
        if mine is None or (theirs is None and self._beside):
            return
        self._known_at = interval.end
        self.candidate.add(mine)
        if theirs is not None:
            self.champion.add(theirs)
            self._recent.append(theirs)
        self._alarm = self._alarm.after(np.concatenate([self._ratio(name, mine, theirs) for name, _ in self._signals]))
        if theirs is not None:
            self._weigh_equality(mine, theirs)
            self.learn(theirs)

    @property
    def is_alarmed(self) -> bool:
        """Whether the evidence is enough to fail, whatever else is still to be heard."""
        return self._log_alarm >= self._limit

    @property
    def _log_alarm(self) -> float:
        """The natural logarithm of the stage's test martingale."""
        alarm = self._alarm.log_value
        return alarm if self.quality is None else self.quality.averaged_with(alarm)

    def is_decided(self, now: float) -> bool:
        """Whether the verdict as of `now` is other than hold; cheaper than to ask for it."""
        if self.is_alarmed or now >= self._until or now - self._known_at >= self._spec.no_data:
            return True
        enough = self.candidate.requests >= self._stage.requests and now - self._since >= self._stage.at_least
        return enough and not self._waiting(now, [check for check in self._checks() if not check.ok])

    def verdict(self, now: float) -> Verdict:
        """Return pass, hold or fail as of `now`, with the figures behind it."""
        checks = self._checks()
        missed = [check for check in checks if not check.ok]
        if self.is_alarmed:
            return self._verdict("fail", self._alarmed(), checks)
        waiting = self._waiting(now, missed)
        if waiting and now - self._known_at >= self._spec.no_data:
            return self._verdict("fail", f"no figures for {now - self._known_at:.0f} s: {waiting}", checks)
        if waiting and now >= self._until:
            return self._verdict("fail", f"not passed within its {self._until - self._since:.0f} s: {waiting}", checks)
        if waiting:
            return self._verdict("hold", waiting, checks)
        beside = f"; the champion: {self.champion}" if self._beside else ""
        took = now - self._since
        return self._verdict("pass", f"all limits kept over {self.candidate} in {took:.0f} s{beside}", checks)

    def _ratio(self, name: str, mine: Did, theirs: Did | None) -> NDArray[np.float64]:
        limits, margins = self._spec.limits, self._spec.versus_champion
        if name == "limit:errors":
            return rates.above_limit(mine.errors, mine.requests, limits.errors)
        if name == "limit:p99":
            slow, answers = above(mine.edges, mine.counts, limits.p99 * 1000)
            return rates.above_limit(slow, answers, _P99)
        if theirs is None:
            return np.zeros(dict(self._signals)[name])
        if name == "usual:errors":
            known = usual.share(self._failed, self._answered, [(did.errors, did.requests) for did in self._recent])
            if known is None:
                return np.zeros(len(rates.TIMES))
            times = rates.TIMES if self._failed >= _HARDLY else rates.RARE_TIMES
            return rates.above_limit(mine.errors, mine.requests, min(margins.errors * known, 0.5), times)
        if name == "usual:latency":
            return self._late(mine)
        if name == "champion:errors":
            return rates.versus_champion(mine.errors, mine.requests, theirs.errors, theirs.requests, margins.errors)
        found = self._alternatives(mine, theirs)
        return np.zeros(len(latency.PRIOR)) if found is None else found.log_ratios(mine.counts, theirs.counts)

    def _late(self, mine: Did) -> NDArray[np.float64]:
        """Weigh answers that come later, by the margin, than any of the champion's that are remembered."""
        past = self._past
        latest = past.latest() if past is not None and tuple(past.edges) == mine.edges else None
        if past is None or latest is None:
            return np.zeros(len(rates.FAR))
        after = latest + 1
        recent = [
            (float(did.counts[after:].sum()), float(did.counts.sum()))
            for did in self._recent
            if did.edges == mine.edges
        ]
        known = usual.share(float(past.counts[after:].sum()), float(past.counts.sum()), recent, least=1.0)
        if known is None:
            return np.zeros(len(rates.FAR))
        late, answers = above(mine.edges, mine.counts, mine.edges[latest] * self._spec.versus_champion.p99)
        return rates.above_limit(late, answers, min(known, 0.5), rates.FAR)

    def _alternatives(self, mine: Did, theirs: Did) -> Ratios | None:
        """Return the latency alternatives as the champion's past suggests them; what it does now is not looked at."""
        same = mine.edges == theirs.edges and self._past is not None and tuple(self._past.edges) == mine.edges
        if not same or self._past is None:
            return None
        if self._ratios is None or self._age >= _REFRESH:
            self._ratios, self._age = latency.ratios(self._past, self._spec.versus_champion.p99), 0
        self._age += 1
        return self._ratios

    def learn(self, theirs: Did) -> None:
        """Remember what the champion did in an interval, also in one before the stage."""
        self._failed = self._failed * _MEMORY + theirs.errors
        self._answered = self._answered * _MEMORY + theirs.requests
        if not theirs.edges:
            return
        if self._past is None or tuple(self._past.edges) != theirs.edges:
            self._past, self._ratios = Past.empty(np.asarray(theirs.edges)), None
        self._past = self._past.after(theirs.counts)

    def _weigh_equality(self, mine: Did, theirs: Did) -> None:
        wanted = self._spec.non_inferior
        ratio = non_inferiority.log_ratios(mine.errors, mine.requests, theirs.errors, theirs.requests, wanted.errors)
        self._equal["errors"] = self._equal["errors"].after(ratio)
        if self._past is None or mine.edges != theirs.edges or tuple(self._past.edges) != mine.edges:
            return
        edge = self._past.edge_above(_SLOW)
        slow, answers = above(mine.edges, mine.counts, edge * self._spec.versus_champion.p99)
        their_slow, their_answers = above(theirs.edges, theirs.counts, edge)
        ratio = non_inferiority.log_ratios(slow, answers, their_slow, their_answers, wanted.slow)
        self._equal["latency"] = self._equal["latency"].after(ratio)

    def _checks(self) -> list[Check]:
        mine, limits = self.candidate, self._spec.limits
        checks = []
        if mine.requests > 0:
            share = 100 * mine.errors / mine.requests
            limit = 100 * limits.errors
            checks.append(Check(name="errors", value=share, limit=limit, unit="%", ok=share <= limit))
        p99 = quantile(0.99, mine.edges, mine.buckets)
        if p99 is not None:
            limit = limits.p99 * 1000
            checks.append(Check(name="p99", value=p99, limit=limit, unit="ms", ok=p99 <= limit))
        return checks

    def _waiting(self, now: float, missed: Sequence[Check]) -> str:
        """Return what is still wanted before the stage passes; nothing where it passes."""
        quality = self.quality.waiting(now) if self.quality is not None else ""
        return self._unknown(now) or self._unfinished(now, missed) or quality or self._unproven()

    def _unknown(self, now: float) -> str:
        last = self._last
        if last is None:
            return "no data yet"
        if last.candidate is None:
            return "no data about the candidate, or its figures are not numbers"
        if self._beside and last.champion is None:
            return "no data about the champion, or its figures are not numbers"
        if now - last.end > STALE_AFTER_S:
            return f"stale data: {now - last.end:.1f} s old, limit {STALE_AFTER_S:.0f} s"
        if last.broken:
            return "counters began again, or scrapes are missing: waits for a whole interval"
        return ""

    def _unfinished(self, now: float, missed: Sequence[Check]) -> str:
        mine = self.candidate
        if mine.requests < self._stage.requests:
            return f"too few requests: {mine.requests:.0f} of {self._stage.requests}, {mine.errors:.0f} failed"
        if now - self._since < self._stage.at_least:
            return f"too early: {now - self._since:.1f} of {self._stage.at_least:.0f} s, {mine}"
        if not mine.edges:
            return f"no data about the candidate's latency, {mine}"
        if missed:
            shown = ", ".join(f"{c.name} {c.value:.4g}{c.unit} above {c.limit:.4g}{c.unit}" for c in missed)
            return f"{shown} over {mine}; not enough to be sure, too much to pass"
        if self._beside and self.champion.requests <= 0:
            return f"the champion answered nothing to compare with, {mine}"
        return self._drifted()

    def _drifted(self) -> str:
        """Return how the proxy's split differs from the stage's, beyond chance (five deviations) and a fifth of it."""
        total, share = self.candidate.requests + self.champion.requests, self._stage.weight
        if share is None or not self._beside or total < _DRIFT_REQUESTS:
            return ""
        seen = self.candidate.requests / total
        allowed = max(5 * math.sqrt(share * (1 - share) / total), 0.2 * min(share, 1 - share))
        return f"the proxy sends it {seen:.1%} instead of {share:.0%}" if abs(seen - share) > allowed else ""

    def _unproven(self) -> str:
        if not self._shows_equal:
            return ""
        wanted = -math.log1p(-self._spec.non_inferior.confidence)
        for name, margin in (("errors", self._spec.non_inferior.errors), ("latency", self._spec.non_inferior.slow)):
            value = self._equal[name].log_value
            if value < wanted:
                what = "failed answers" if name == "errors" else "slow answers"
                sure = 1 - math.exp(-max(value, 0.0))
                return (
                    f"not yet shown to have at most {margin:.1%} more {what} than the champion: sure to {sure:.0%} "
                    f"of {self._spec.non_inferior.confidence:.0%} after {self.candidate}"
                )
        return ""

    def _alarmed(self) -> str:
        name = self._explains(self._alarm.leading)
        mine, theirs, margins = self.candidate, self.champion, self._spec.versus_champion
        odds = f"{math.exp(min(self._log_alarm, 20.0)):,.0f} to 1 against it, limit {math.exp(self._limit):,.0f}"
        if self.quality is not None and self.quality.outweighs(self._alarm.log_value):
            what = self.quality.alarmed
        elif name == "limit:errors":
            what = f"fails more than the allowed {self._spec.limits.errors:.2%}: {mine}"
        elif name == "limit:p99":
            what = f"slower than the allowed p99 of {self._spec.limits.p99 * 1000:g} ms: {mine}"
        else:
            what = {
                "champion:latency": f"slower than {margins.p99:g}x the champion",
                "usual:latency": self._later(),
            }.get(name, f"fails {mine.failing_beside(theirs)}, allowed {margins.errors:g}x")
            what = f"{what}: {mine}; the champion: {theirs}"
        return f"{what} ({odds})"

    def _later(self) -> str:
        """Return how the candidate's answers came later than any that is remembered of the champion, in words."""
        margin, past, mine = self._spec.versus_champion.p99, self._past, self.candidate
        latest = past.latest() if past is not None else None
        limit_ms = float(past.edges[latest]) * margin if past is not None and latest is not None else math.inf
        late, answers = above(mine.edges, mine.buckets, limit_ms)
        if 2 * late > answers:
            return f"slower than {margin:g}x the champion"
        some = f"{late:.0f} of {answers:.0f} answers (over {limit_ms:.0f} ms)"
        return f"{some} came later than {margin:g}x the champion's latest"

    def _explains(self, leading: int) -> str:
        """Return the signal that the alternative at this place belongs to."""
        ends = np.cumsum([width for _, width in self._signals])
        return self._signals[int(np.searchsorted(ends, leading, side="right"))][0]

    def _verdict(self, decision: str, reason: str, checks: list[Check]) -> Verdict:
        at = self._last.end if self._last else self._since
        figures = {"log_evidence": self._log_alarm, "log_evidence_limit": self._limit}
        if self._beside:
            figures |= {f"log_equal_{name}": found.log_value for name, found in self._equal.items()}
        return Verdict.model_validate(
            {
                "decision": decision,
                "reason": reason,
                "checks": [*checks, *(self.quality.checks() if self.quality is not None else ())],
                "candidate": self.candidate.counts(at) if self._last and self._last.candidate else None,
                "champion": self.champion.counts(at) if self.champion.requests else None,
                "figures": figures,
            }
        )


def _layout(shares: dict[str, float]) -> tuple[list[tuple[str, int]], NDArray[np.float64]]:
    """Return (signal, alternatives) in their order, and the prior of all alternatives [sum of alternatives]."""
    of = {"champion:latency": latency.PRIOR, "usual:latency": rates.FAR_PRIOR}
    priors = {name: np.asarray(of.get(name, rates.TIMES_PRIOR)) for name in shares}
    return [(name, len(prior)) for name, prior in priors.items()], np.concatenate(
        [shares[name] * prior for name, prior in priors.items()]
    )
