"""The rollout as a state machine: what may happen when, and what it does to traffic; pure.

    begun -> deployed -> staged (10%) -> staged (50%) -> staged (100%) -> promoted
       |         |            |                |               |
       +---------+------------+------ aborted -+---------------+---> rolled_back

An aborted candidate never gets traffic again in the same rollout. Where there is no champion yet, the candidate is
installed: deployed -> promoted, without stages, since there is nothing to compare with or to go back to.
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
    ABORTED = "aborted"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"


ENDED = frozenset({Phase.PROMOTED, Phase.ROLLED_BACK})


class NotAllowed(Permanent):
    """The rollout is in a state from which this step does not exist."""


@dataclass(frozen=True)
class Plan:
    """What a rollout is about, fixed when it begins."""

    candidate: str
    champion: str | None
    """None for the first delivery."""
    weights: tuple[int, ...] = (10, 50, 100)
    """Percent per stage, rising to 100."""


@dataclass(frozen=True)
class State:
    """Where a rollout stands."""

    phase: Phase = Phase.BEGUN
    weight: int = 0
    """The candidate's percent."""


@dataclass(frozen=True)
class Deployed:
    """The candidate's server is ready and has a route at 0%."""


@dataclass(frozen=True)
class Shift:
    """The candidate shall have this share."""

    weight: int


@dataclass(frozen=True)
class Abort:
    """A limit was missed, a deadline passed, a lease ran out."""


@dataclass(frozen=True)
class Promote:
    """Every stage was passed."""


@dataclass(frozen=True)
class RollBack:
    """The rest of the way back is due, or a person asks for it."""


Event = Deployed | Shift | Abort | Promote | RollBack


@dataclass(frozen=True)
class SetWeights:
    """Share the traffic so."""

    weights: dict[str, int] = field(hash=False)
    champion: str


@dataclass(frozen=True)
class MoveAliases:
    """Name the champion in the registry; the alias candidate goes."""

    champion: str


@dataclass(frozen=True)
class Retire:
    """Take a version's route and server away."""

    name: str


Effect = SetWeights | MoveAliases | Retire


def advance(plan: Plan, state: State, event: Event) -> tuple[State, tuple[Effect, ...]]:
    """Return the state after an event and the effects to carry out, in their order.

    An event that has happened already gives the same state and the same effects, so that a step may be repeated.

    Raises:
        NotAllowed: the step does not exist from this state.
    """
    match event:
        case Deployed():
            return _deployed(plan, state)
        case Shift(weight):
            return _shift(plan, state, weight)
        case Abort():
            return _abort(plan, state)
        case Promote():
            return _promote(plan, state)
        case RollBack():
            return _roll_back(plan, state)


def _deployed(plan: Plan, state: State) -> tuple[State, tuple[Effect, ...]]:
    if state.phase in (Phase.BEGUN, Phase.DEPLOYED):
        return replace(state, phase=Phase.DEPLOYED), ()
    raise _not_allowed(plan, state, "be deployed")


def _shift(plan: Plan, state: State, weight: int) -> tuple[State, tuple[Effect, ...]]:
    if plan.champion is None:
        raise NotAllowed(f"{plan.candidate} has no champion to share traffic with: install it")
    if weight not in plan.weights:
        stages = ", ".join(f"{share}%" for share in plan.weights)
        raise NotAllowed(f"{weight}% is no stage of this rollout of {plan.candidate}; its stages are {stages}")
    reached = plan.weights.index(state.weight) if state.weight in plan.weights else -1
    if state.phase not in (Phase.DEPLOYED, Phase.STAGED) or plan.weights.index(weight) - reached not in (0, 1):
        raise _not_allowed(plan, state, f"go to {weight}%")
    shares = {plan.champion: 100 - weight, plan.candidate: weight}
    return State(Phase.STAGED, weight), (SetWeights(shares, plan.champion),)


def _abort(plan: Plan, state: State) -> tuple[State, tuple[Effect, ...]]:
    if state.phase is Phase.ROLLED_BACK:
        return state, ()
    if state.phase is Phase.PROMOTED:
        raise _not_allowed(plan, state, "be aborted")
    return State(Phase.ABORTED, 0), _way_back(plan)


def _promote(plan: Plan, state: State) -> tuple[State, tuple[Effect, ...]]:
    first = plan.champion is None and state.phase is Phase.DEPLOYED
    if not first and state.weight != 100:
        raise _not_allowed(plan, state, "be promoted")
    retire = (Retire(plan.champion),) if plan.champion else ()
    effects = (SetWeights({plan.candidate: 100}, plan.candidate), MoveAliases(plan.candidate), *retire)
    return State(Phase.PROMOTED, 100), effects


def _roll_back(plan: Plan, state: State) -> tuple[State, tuple[Effect, ...]]:
    if state.phase is Phase.PROMOTED:
        raise _not_allowed(plan, state, "be rolled back")
    aliases = (MoveAliases(plan.champion),) if plan.champion else ()
    return State(Phase.ROLLED_BACK, 0), (*_way_back(plan), Retire(plan.candidate), *aliases)


def _way_back(plan: Plan) -> tuple[Effect, ...]:
    return (SetWeights({plan.champion: 100}, plan.champion),) if plan.champion else ()


def _not_allowed(plan: Plan, state: State, what: str) -> NotAllowed:
    at = f"{state.phase.value} at {state.weight}%"
    return NotAllowed(f"{plan.candidate} is {at} and cannot {what}; begin a new rollout")
