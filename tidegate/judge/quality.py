"""Evidence that a candidate says something else than the champion, though it answers in time and with status 200.

Three signals, each with a test martingale of its own (`evidence`), averaged by their weights, and together one part of
the stage's alarm; an average of test martingales is one, whatever their times are.

*Disagreement*: of the inputs that both versions answered, each counted once, at most a share `at_most` may be answered
otherwise: `rates.above_limit`.

*Labels* and *predictions* allow a margin above the champion's share. Null hypothesis: p <= p' + margin, whatever p' is.
Of n answers of the candidate x count, of n' of the champion x'. For 1 < a and b = 1 - (a - 1) n / n' > 0

    a^x  b^x'  exp(-n margin (a - 1))

has for independent answers the expectation (1 + p (a-1))^n (1 + p' (b-1))^n' exp(-n margin (a-1))
<= exp(n p (a-1) - n p' (a-1) - n margin (a-1)) = exp(n (a-1) (p - p' - margin)) <= 1 under it. Mirrored answers come in
pairs to the same input. A pair's factor has the expectation 1 + p (a-1) + p' (b-1) + (a-1)(b-1) P(both count), and the
last term is negative: so the bound is the same however the two depend on each other. The base a may depend on n and n',
never on x and x'. A margin that is added, not multiplied as that of errors: the share of wrong answers is no small
number, and that of predictions below an edge is anything from 0 to 1.

Labels count wrong answers. Predictions count, for every edge e, those at most e, and those above it: at all edges
together p <= p' + margin says that the two distribution functions are nowhere further apart than `margin`, which is the
distance of A. Kolmogorov and N. Smirnov. Answers are gathered until each version has some, since a champion without an
answer in a second says nothing about the candidate's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tidegate.handoff import Check
from tidegate.judge import rates
from tidegate.judge.evidence import Evidence
from tidegate.judge.series import GAP_S

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tidegate.delivery import DisagreementLimit, LabelsLimit, PredictionsLimit, QualitySpec, Stage
    from tidegate.judge.series import Did, Interval

PRIOR_SHARE = 0.25
"""Of the stage's alarm, where a delivery asks for any of these signals."""
WEIGHTS = {"disagreement": 0.4, "predictions": 0.3, "labels": 0.3}
MORE = (0.05, 0.15, 0.4, 1.0, 4.0)
"""Alternatives: the base `a` of the candidate's counts, less 1; at most nine tenths of what keeps b above 0."""
MORE_PRIOR = (0.15, 0.2, 0.3, 0.2, 0.15)
_FEW = 5.0  # answers of each version that are weighed together at least
_CHANCE = 2.0  # standard deviations that a share of labels may be above its limit by chance


def above_margin(
    bad: float | NDArray[np.float64],
    answers: float,
    champion_bad: float | NDArray[np.float64],
    champion_answers: float,
    margin: float,
) -> NDArray[np.float64]:
    """Return the log likelihood ratios [counts, MORE] of one look, with expectation <= 1 while p <= p' + margin.

    Args:
        bad: the candidate's answers that count, one number or [counts], out of `answers`.
        answers: the candidate's answers.
        champion_bad: likewise of the champion.
        champion_answers: the champion's answers.
        margin: by how much the candidate's share may exceed the champion's, in (0, 1).
    """
    mine, theirs = np.atleast_1d(np.asarray(bad, float)), np.atleast_1d(np.asarray(champion_bad, float))
    if answers <= 0 or champion_answers <= 0:
        return np.zeros((len(mine), len(MORE)))
    more = np.minimum(np.asarray(MORE), 0.9 * champion_answers / answers)
    fewer = np.log1p(-more * answers / champion_answers)
    result: NDArray[np.float64] = (
        mine[:, None] * np.log1p(more) + theirs[:, None] * fewer - answers * margin * more[None, :]
    )
    return result


class Signal(Protocol):
    """One of the signals."""

    waits: bool
    """Whether this stage waits for it."""

    def take(self, mine: Did, theirs: Did | None) -> None:
        """Weigh what both versions did in an interval."""

    @property
    def log_value(self) -> float:
        """The natural logarithm of its test martingale."""

    @property
    def alarmed(self) -> str:
        """What is wrong, for people, with figures."""

    @property
    def wanted(self) -> str:
        """What a stage that waits for it still waits for; nothing where it lets the stage pass."""

    @property
    def check(self) -> Check | None:
        """The figure beside its limit; None before there is one."""


class Disagreement:
    """Inputs that both versions answered, and how many of them otherwise."""

    def __init__(self, limit: DisagreementLimit, waits: bool):
        self._limit, self.waits = limit, waits
        self._evidence = Evidence.over(np.asarray(rates.TIMES_PRIOR))
        self._pairs = self._differ = 0.0

    def take(self, mine: Did, theirs: Did | None) -> None:
        """See Signal.take; `mine` has the pairs as requests and the disagreements as errors."""
        self._pairs += mine.requests
        self._differ += mine.errors
        if mine.requests > 0:
            ratio = rates.above_limit(mine.errors, mine.requests, self._limit.at_most)
            self._evidence = self._evidence.after(ratio)

    @property
    def log_value(self) -> float:
        """See Signal.log_value."""
        return self._evidence.log_value

    @property
    def alarmed(self) -> str:
        """See Signal.alarmed."""
        return (
            f"answers otherwise than the champion: {self._differ:.0f} of {self._pairs:.0f} of the same inputs differ "
            f"by more than {self._limit.above:g}, allowed {_percent(self._limit.at_most)}"
        )

    @property
    def wanted(self) -> str:
        """See Signal.wanted."""
        if self._pairs < self._limit.at_least:
            return f"too few inputs answered by both: {self._pairs:.0f} of {self._limit.at_least}"
        if self._differ / self._pairs > self._limit.at_most:
            return f"{self.alarmed}; not enough to be sure, too much to pass"
        return ""

    @property
    def check(self) -> Check | None:
        """See Signal.check."""
        if not self._pairs:
            return None
        share, limit = self._differ / self._pairs, self._limit.at_most
        return Check(name="disagreement", value=100 * share, limit=100 * limit, unit="%", ok=share <= limit)


@dataclass
class _Gathered:
    """Answers of both versions that have not been weighed yet."""

    mine: NDArray[np.float64]
    """[counts]; the last one is of all answers."""
    theirs: NDArray[np.float64]

    @classmethod
    def nothing(cls, width: int) -> _Gathered:
        """Return none."""
        return cls(np.zeros(width), np.zeros(width))

    def and_(self, mine: NDArray[np.float64], theirs: NDArray[np.float64]) -> _Gathered:
        """Return these and more."""
        return _Gathered(self.mine + mine, self.theirs + theirs)

    @property
    def few(self) -> bool:
        """Whether either version has too few."""
        return bool(min(self.mine[-1], self.theirs[-1]) < _FEW)


class Predictions:
    """Histograms of what both versions predict."""

    def __init__(self, limit: PredictionsLimit, waits: bool):
        self._limit, self.waits = limit, waits
        self._edges: tuple[float, ...] = ()
        self._evidence: Evidence | None = None
        self._all = self._new = _Gathered.nothing(1)

    def take(self, mine: Did, theirs: Did | None) -> None:
        """See Signal.take; the buckets are of predictions."""
        if theirs is None or not mine.edges or mine.edges != theirs.edges:
            return
        if mine.edges != self._edges:
            self._edges = mine.edges
            self._all = self._new = _Gathered.nothing(len(mine.edges))
            count = 2 * (len(mine.edges) - 1)
            self._evidence = Evidence.over(np.tile(np.asarray(MORE_PRIOR) / count, count))
        within = np.cumsum(mine.counts), np.cumsum(theirs.counts)
        self._all, self._new = self._all.and_(*within), self._new.and_(*within)
        if self._new.few or self._evidence is None:
            return
        mine_new, theirs_new = self._new.mine, self._new.theirs
        sides = []
        for is_above in (False, True):
            counts = [side[-1] - side[:-1] if is_above else side[:-1] for side in (mine_new, theirs_new)]
            sides.append(above_margin(counts[0], mine_new[-1], counts[1], theirs_new[-1], self._limit.differ))
        self._evidence = self._evidence.after(np.concatenate(sides).reshape(-1))
        self._new = _Gathered.nothing(len(self._edges))

    @property
    def log_value(self) -> float:
        """See Signal.log_value."""
        return 0.0 if self._evidence is None else self._evidence.log_value

    @property
    def alarmed(self) -> str:
        """See Signal.alarmed."""
        place, mine, theirs = self._furthest
        return (
            f"its predictions are not distributed as the champion's: {mine:.0%} are at most {self._edges[place]:g}, "
            f"of the champion's {theirs:.0%}, allowed distance {_percent(self._limit.differ)} "
            f"({self._seen[0]:.0f} and {self._seen[1]:.0f} seen)"
        )

    @property
    def wanted(self) -> str:
        """See Signal.wanted."""
        fewer = min(self._seen)
        if fewer < self._limit.at_least:
            whose = "" if fewer == self._seen[0] else " of the champion's"
            return f"too few{whose} predictions seen: {fewer:.0f} of {self._limit.at_least}"
        check = self.check
        if check is not None and not check.ok:
            return f"{self.alarmed}; not enough to be sure, too much to pass"
        return ""

    @property
    def check(self) -> Check | None:
        """See Signal.check."""
        if not min(self._seen):
            return None
        _, mine, theirs = self._furthest
        far, limit = abs(mine - theirs), self._limit.differ
        return Check(name="predictions", value=100 * far, limit=100 * limit, unit="%", ok=far <= limit)

    @property
    def _seen(self) -> tuple[float, float]:
        return float(self._all.mine[-1]), float(self._all.theirs[-1])

    @property
    def _furthest(self) -> tuple[int, float, float]:
        """The edge at which the distribution functions are furthest apart, and both of them there."""
        mine, theirs = self._all.mine / self._all.mine[-1], self._all.theirs / self._all.theirs[-1]
        place = int(np.argmax(np.abs(mine - theirs)))
        return place, float(mine[place]), float(theirs[place])


class Labels:
    """Answers whose label has come, and how many were wrong."""

    def __init__(self, limit: LabelsLimit):
        self._limit, self.waits = limit, False
        self._evidence = Evidence.over(np.asarray(MORE_PRIOR))
        self._all = self._new = _Gathered.nothing(2)

    def take(self, mine: Did, theirs: Did | None) -> None:
        """See Signal.take; requests are labelled answers, errors are wrong ones."""
        if theirs is None:
            return
        both = np.array([mine.errors, mine.requests]), np.array([theirs.errors, theirs.requests])
        self._all, self._new = self._all.and_(*both), self._new.and_(*both)
        if self._new.few:
            return
        new = self._new
        ratio = above_margin(new.mine[0], new.mine[1], new.theirs[0], new.theirs[1], self._limit.worse)
        self._evidence = self._evidence.after(ratio.reshape(-1))
        self._new = _Gathered.nothing(2)

    @property
    def log_value(self) -> float:
        """See Signal.log_value."""
        return self._evidence.log_value

    @property
    def alarmed(self) -> str:
        """See Signal.alarmed."""
        (wrong, labelled), (their_wrong, their_labelled) = self._all.mine, self._all.theirs
        return (
            f"wrong more often than the champion: {wrong:.0f} of {labelled:.0f} labelled answers, the champion "
            f"{their_wrong:.0f} of {their_labelled:.0f}, allowed {_percent(self._limit.worse)} more"
        )

    @property
    def wanted(self) -> str:
        """Nothing: labels come when they come, and no stage waits for them."""
        return ""

    @property
    def check(self) -> Check | None:
        """See Signal.check; `ok` allows for chance, since no stage waits until it has averaged out."""
        labelled, their_labelled = self._all.mine[1], self._all.theirs[1]
        if labelled <= 0 or their_labelled <= 0:
            return None
        wrong, their_wrong = float(self._all.mine[0] / labelled), float(self._all.theirs[0] / their_labelled)
        deviation = math.sqrt(wrong * (1 - wrong) / labelled + their_wrong * (1 - their_wrong) / their_labelled)
        more, limit = wrong - their_wrong, self._limit.worse
        ok = more <= limit + _CHANCE * deviation
        return Check(name="wrong by labels", value=100 * more, limit=100 * limit, unit="%", ok=bool(ok))


@dataclass
class QualityJudge:
    """All quality signals that a delivery asks for, in one stage; no clock, no I/O.

    Args:
        spec: which signals, and their limits.
        stage: predictions are waited for while the champion has traffic too, pairs while the candidate is mirrored.
    """

    spec: QualitySpec
    stage: Stage
    signals: dict[str, Signal] = field(init=False)

    def __post_init__(self) -> None:
        spec, stage = self.spec, self.stage
        self.signals = {}
        if spec.disagreement is not None:
            self.signals["disagreement"] = Disagreement(spec.disagreement, stage.mirror is not None)
        if spec.predictions is not None:
            self.signals["predictions"] = Predictions(spec.predictions, stage.percent < 100)
        if spec.labels is not None:
            self.signals["labels"] = Labels(spec.labels)
        total = sum(WEIGHTS[name] for name in self.signals)
        self._log_weights = {name: math.log(WEIGHTS[name] / total) for name in self.signals}
        self._last: dict[str, Interval] = {}

    def take(self, name: str, interval: Interval) -> None:
        """Take in what a signal's counters did in one interval; one that the delivery does not ask for is ignored."""
        if name not in self.signals:
            return
        self._last[name] = interval
        if interval.candidate is not None:
            self.signals[name].take(interval.candidate, interval.champion)

    @property
    def log_value(self) -> float:
        """The natural logarithm of the signals' average test martingale; 0 before the first interval."""
        return float(np.logaddexp.reduce([self._weighed(name) for name in self.signals]))

    def averaged_with(self, log_alarm: float) -> float:
        """Return the logarithm of the stage's test martingale, given that of errors and latency."""
        return float(np.logaddexp(math.log1p(-PRIOR_SHARE) + log_alarm, math.log(PRIOR_SHARE) + self.log_value))

    def outweighs(self, log_alarm: float) -> bool:
        """Whether more of the evidence is of these signals than of errors and latency."""
        return math.log(PRIOR_SHARE) + self.log_value > math.log1p(-PRIOR_SHARE) + log_alarm

    @property
    def alarmed(self) -> str:
        """What is wrong, by the signal with the most evidence."""
        return self.signals[max(self.signals, key=self._weighed)].alarmed

    def waiting(self, now: float) -> str:
        """Return what is still wanted before the stage passes; nothing where it passes."""
        for name, signal in self.signals.items():
            if signal.waits and (found := self._unknown(name, now) or signal.wanted):
                return found
        return ""

    def checks(self) -> list[Check]:
        """Return each signal's figure beside its limit, as far as there are figures."""
        return [check for signal in self.signals.values() if (check := signal.check) is not None]

    def _weighed(self, name: str) -> float:
        return self._log_weights[name] + self.signals[name].log_value

    def _unknown(self, name: str, now: float) -> str:
        last = self._last.get(name)
        if last is None or last.candidate is None or (name == "predictions" and last.champion is None):
            whose = "the champion's" if last is not None and last.candidate is not None else "its"
            return f"no data about {whose} {name}: is the process `quality` running, and serve.sample above 0%?"
        if now - last.end > GAP_S:
            return f"stale data about its {name}: {now - last.end:.1f} s old, limit {GAP_S:.0f} s"
        if last.broken:
            return f"counters of {name} began again, or scrapes are missing: waits for a whole interval"
        return ""


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"
