"""The rollout as a state machine: what may happen when, and what it does to traffic; pure.

    begun -> deployed -> staged (10%) -> staged (50%) -> staged (100%) -> baking -> promoted
       |         |            |                |               |            |
       +---------+------------+------ aborted -+---------------+------------+---> rolled_back

An aborted candidate never gets traffic again in the same rollout. While it bakes it has all traffic, but the champion
stays loaded, and is still the champion: whatever goes wrong leads back to it. What is not baking by the deadline is
rolled back. Where there is no champion yet, the candidate is installed: deployed -> promoted, without stages, since
there is nothing to compare with or to go back to.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from tidegate.errors import Permanent


class Phase(StrEnum):
    """How far a rollout has come."""

    BEGUN = "begun"
    DEPLOYED = "deployed"
    STAGED = "staged"
    BAKING = "baking"
    ABORTED = "aborted"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"


ENDED = frozenset({Phase.PROMOTED, Phase.ROLLED_BACK})


class NotAllowed(Permanent):
    """The rollout is in a state from which this step does not exist."""


@dataclass(frozen=True)
class Step:
    """One stage: percent of live traffic, or percent of it that is mirrored (then the weight is 0)."""

    weight: int
    mirror: int = 0

    def __str__(self) -> str:
        return f"{self.weight}%" if self.weight else f"a mirror of {self.mirror}%"


@dataclass(frozen=True)
class Plan:
    """What a rollout is about, fixed when it begins."""

    candidate: str
    champion: str | None
    """None for the first delivery."""
    steps: tuple[Step, ...] = (Step(10), Step(50), Step(100))
    """The stages: mirrors first, then weights rising to 100."""
    deadline_s: float = 3600.0
    """From the beginning to the bake."""
    bake_s: float = 600.0
    """How long it holds 100% before it is the champion."""


@dataclass(frozen=True)
class State:
    """Where a rollout stands; times are seconds of one clock."""

    phase: Phase = Phase.BEGUN
    stage: int = -1
    """Position of the stage it has reached; -1 before the first."""
    weight: int = 0
    """The candidate's percent."""
    began: float = 0.0
    since: float = 0.0
    """When it entered this stage, or its bake."""


@dataclass(frozen=True)
class Deployed:
    """The candidate's server is ready and has a route at 0%."""


@dataclass(frozen=True)
class Shift:
    """The candidate shall have the share of this stage (its position)."""

    stage: int


@dataclass(frozen=True)
class Bake:
    """The last stage was passed: hold all traffic for a while, with the champion still loaded."""


@dataclass(frozen=True)
class Abort:
    """A limit was missed, a lease ran out."""


@dataclass(frozen=True)
class Promote:
    """Every stage was passed and it has baked, or a person takes that upon himself (`forced`)."""

    forced: bool = False


@dataclass(frozen=True)
class RollBack:
    """The rest of the way back is due, or a person asks for it."""


@dataclass(frozen=True)
class Tick:
    """Time goes on: what is late is rolled back."""


Event = Deployed | Shift | Bake | Abort | Promote | RollBack | Tick


@dataclass(frozen=True)
class SetWeights:
    """Share the traffic so, and mirror it so; who is not named gets nothing."""

    weights: dict[str, int] = field(hash=False)
    champion: str
    mirrors: dict[str, int] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class MoveAliases:
    """Name the champion in the registry; the alias candidate goes."""

    champion: str


@dataclass(frozen=True)
class Retire:
    """Take a version's route and server away."""

    name: str


Effect = SetWeights | MoveAliases | Retire


def advance(plan: Plan, state: State, event: Event, now: float) -> tuple[State, tuple[Effect, ...]]:
    """Return the state after an event at `now` (seconds) and the effects to carry out, in their order.

    An event that has happened already gives the same state and the same effects, so that a step may be repeated.

    Raises:
        NotAllowed: the step does not exist from this state.
    """
    match event:
        case Deployed():
            return _deployed(plan, state, now)
        case Shift(stage):
            return _shift(plan, state, stage, now)
        case Bake():
            return _bake(plan, state, now)
        case Abort():
            return _abort(plan, state, now)
        case Promote(forced):
            return _promote(plan, state, now, forced)
        case RollBack():
            return _roll_back(plan, state, now)
        case Tick():
            return _roll_back(plan, state, now) if is_late(plan, state, now) else (state, ())


def is_late(plan: Plan, state: State, now: float) -> bool:
    """Whether a rollout should have come further by `now`: past its deadline, or aborted and not yet back."""
    if state.phase in ENDED:
        return False
    if state.phase is Phase.BAKING:
        return now >= state.since + plan.bake_s + plan.deadline_s
    if state.phase is Phase.ABORTED:
        return now >= state.since
    return now >= state.began + plan.deadline_s


def _deployed(plan: Plan, state: State, now: float) -> tuple[State, tuple[Effect, ...]]:
    _in_time(plan, state, now, "be deployed")
    if state.phase is Phase.BEGUN:
        return replace(state, phase=Phase.DEPLOYED, since=now), ()
    if state.phase is Phase.DEPLOYED:
        return state, ()
    raise _not_allowed(plan, state, "be deployed")


def _shift(plan: Plan, state: State, stage: int, now: float) -> tuple[State, tuple[Effect, ...]]:
    if plan.champion is None:
        raise NotAllowed(f"{plan.candidate} has no champion to share traffic with: install it")
    if not 0 <= stage < len(plan.steps):
        raise NotAllowed(f"{plan.candidate} has no stage {stage}; its stages are {', '.join(map(str, plan.steps))}")
    step = plan.steps[stage]
    _in_time(plan, state, now, f"go to {step}")
    if state.phase not in (Phase.DEPLOYED, Phase.STAGED) or stage - state.stage not in (0, 1):
        raise _not_allowed(plan, state, f"go to {step}")
    entered = stage != state.stage
    after = replace(state, phase=Phase.STAGED, stage=stage, weight=step.weight, since=now if entered else state.since)
    return after, (_set(plan.champion, plan.candidate, step),)


def _bake(plan: Plan, state: State, now: float) -> tuple[State, tuple[Effect, ...]]:
    if plan.champion is None:
        raise NotAllowed(f"{plan.candidate} is the first delivery: there is nothing to bake against")
    effects = (_set(plan.champion, plan.candidate, Step(100)),)
    if state.phase is Phase.BAKING:
        return state, effects
    _in_time(plan, state, now, "bake")
    if state.phase is not Phase.STAGED or state.stage != len(plan.steps) - 1:
        raise _not_allowed(plan, state, "bake")
    return replace(state, phase=Phase.BAKING, since=now), effects


def _abort(plan: Plan, state: State, now: float) -> tuple[State, tuple[Effect, ...]]:
    if state.phase is Phase.ROLLED_BACK:
        return state, ()
    if state.phase is Phase.PROMOTED:
        raise _not_allowed(plan, state, "be aborted")
    since = state.since if state.phase is Phase.ABORTED else now
    return replace(state, phase=Phase.ABORTED, weight=0, since=since), _way_back(plan)


def _promote(plan: Plan, state: State, now: float, forced: bool) -> tuple[State, tuple[Effect, ...]]:
    retire = (Retire(plan.champion),) if plan.champion else ()
    effects = (SetWeights({plan.candidate: 100}, plan.candidate), MoveAliases(plan.candidate), *retire)
    if state.phase is Phase.PROMOTED:
        return state, effects
    if plan.champion is None:
        ready = state.phase is Phase.DEPLOYED
    elif state.phase is Phase.BAKING:
        ready = forced or now >= state.since + plan.bake_s
    else:
        ready = forced and state.phase in (Phase.DEPLOYED, Phase.STAGED)
    if not ready:
        raise _not_allowed(plan, state, "be promoted")
    return replace(state, phase=Phase.PROMOTED, weight=100, since=now), effects


def _roll_back(plan: Plan, state: State, now: float) -> tuple[State, tuple[Effect, ...]]:
    if state.phase is Phase.PROMOTED:
        raise _not_allowed(plan, state, "be rolled back")
    since = state.since if state.phase is Phase.ROLLED_BACK else now
    aliases = (MoveAliases(plan.champion),) if plan.champion else ()
    after = replace(state, phase=Phase.ROLLED_BACK, weight=0, since=since)
    return after, (*_way_back(plan), Retire(plan.candidate), *aliases)


def _in_time(plan: Plan, state: State, now: float, what: str) -> None:
    if now >= state.began + plan.deadline_s:
        at = f"{state.phase.value} at {state.weight}%"
        raise NotAllowed(
            f"{plan.candidate} is {at} and cannot {what}: its deadline of {plan.deadline_s:.0f} s has passed; "
            "begin a new rollout, or give it more time (rollout.deadline)"
        )


def _set(champion: str, candidate: str, step: Step) -> SetWeights:
    mirrors = {candidate: step.mirror} if step.mirror else {}
    return SetWeights({champion: 100 - step.weight, candidate: step.weight}, champion, mirrors)


def _way_back(plan: Plan) -> tuple[Effect, ...]:
    return (SetWeights({plan.champion: 100}, plan.champion),) if plan.champion else ()


def _not_allowed(plan: Plan, state: State, what: str) -> NotAllowed:
    at = f"{state.phase.value} at {state.weight}%"
    return NotAllowed(f"{plan.candidate} is {at} and cannot {what}; begin a new rollout")
