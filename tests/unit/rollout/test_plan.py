"""The plan explored: every state that any order of events, expiries and hours can reach, and what must hold in each."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from tidegate.delivery import RolloutSpec, delivery_named
from tidegate.rollout.plan import (
    ENDED,
    Abort,
    Bake,
    Deployed,
    MoveAliases,
    NotAllowed,
    Phase,
    Plan,
    Promote,
    Retire,
    RollBack,
    SetWeights,
    Shift,
    State,
    Step,
    Tick,
    advance,
    is_late,
)

MIRRORED = Plan("flights-v2", "flights-v1", (Step(0, 100), Step(10), Step(50), Step(100)), 3.0, 1.0)
FIRST = replace(MIRRORED, candidate="flights-v1", champion=None)


def shipped(spec: RolloutSpec) -> Plan:
    steps = tuple(Step(stage.percent, stage.mirror_percent) for stage in spec.stages)
    return Plan("flights-v2", "flights-v1", steps, 3.0, 1.0)


PLANS = {
    "default": shipped(RolloutSpec()),
    "flights": shipped(delivery_named("flights").rollout),
    "mirrored": MIRRORED,
    "first": FIRST,
}
TIMES = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 8.0, 9.0)


@dataclass(frozen=True)
class World:
    """A rollout's state and all that its effects have made of traffic, servers and aliases."""

    state: State
    now: float = 0.0
    weights: tuple[tuple[str, int], ...] = ()
    mirrors: tuple[tuple[str, int], ...] = ()
    champion: str | None = None
    loaded: frozenset[str] = frozenset()
    alias: str | None = None
    lease: bool = True
    gone: bool = field(default=False)
    """Whether the candidate was ever aborted or rolled back."""

    def weight(self, name: str | None) -> int:
        return dict(self.weights).get(name, 0)


def begun(plan: Plan) -> World:
    if plan.champion is None:
        return World(State())
    old = plan.champion
    return World(State(), weights=((old, 100),), champion=old, loaded=frozenset({old}), alias=old)


def events(plan: Plan):
    yield from (Deployed(), Bake(), Abort(), Promote(), Promote(forced=True), RollBack(), Tick())
    yield from (Shift(stage) for stage in range(-1, len(plan.steps) + 1))


def applied(plan: Plan, world: World, event, state: State, effects) -> World:
    loaded = world.loaded | {plan.candidate} if isinstance(event, Deployed) else world.loaded
    after = replace(
        world, state=state, loaded=loaded, gone=world.gone or state.phase in (Phase.ABORTED, Phase.ROLLED_BACK)
    )
    for effect in effects:
        if isinstance(effect, SetWeights):
            shares = tuple(sorted((name, share) for name, share in effect.weights.items() if share))
            after = replace(after, weights=shares, mirrors=tuple(effect.mirrors.items()), champion=effect.champion)
        elif isinstance(effect, Retire):
            assert after.weight(effect.name) == 0, "a server is retired after its traffic has gone"
            after = replace(after, loaded=after.loaded - {effect.name})
        elif isinstance(effect, MoveAliases):
            after = replace(after, alias=effect.champion)
    return after


def moves(plan: Plan, world: World):
    """Yield (event, world after it) for everything that may happen next: an event, a dead holder, an hour."""
    for event in events(plan):
        under_lease = isinstance(event, Deployed | Shift | Bake | Promote)
        if under_lease and not world.lease:
            continue  # the fence refuses it
        try:
            state, effects = advance(plan, world.state, event, world.now)
        except NotAllowed:
            continue
        yield event, applied(plan, world, event, state, effects)
    if world.lease:  # its holder dies; the guard takes the candidate's traffic at once
        freed = replace(world, lease=False)
        if plan.champion and world.state.phase is not Phase.PROMOTED:
            freed = replace(freed, weights=((plan.champion, 100),), mirrors=(), gone=True)
        yield "expiry", freed
    for later in TIMES:
        if later > world.now:
            yield "time", replace(world, now=later)
            break


def explore(plan: Plan) -> dict[World, list[tuple[object, World]]]:
    seen: dict[World, list[tuple[object, World]]] = {}
    todo = [begun(plan)]
    while todo:
        world = todo.pop()
        if world not in seen:
            seen[world] = list(moves(plan, world))
            todo += [after for _, after in seen[world]]
    return seen


@pytest.fixture(scope="module", params=list(PLANS))
def explored(request):
    plan = PLANS[request.param]
    return plan, explore(plan)


def test_weights_sum_to_100_and_name_only_loaded_servers(explored):
    plan, seen = explored
    for world in seen:
        assert sum(share for _, share in world.weights) in ({0, 100} if plan.champion is None else {100})
        assert {name for name, _ in (*world.weights, *world.mirrors)} <= world.loaded


def test_the_candidate_has_traffic_only_under_a_live_lease(explored):
    plan, seen = explored
    for world in seen:
        if world.state.phase is not Phase.PROMOTED and not world.lease and plan.champion:
            assert world.weight(plan.candidate) == 0
            assert not world.mirrors


def test_after_an_abort_the_candidate_never_rises(explored):
    plan, seen = explored
    for world, next_ones in seen.items():
        for _, after in next_ones:
            if world.state.phase in (Phase.ABORTED, Phase.ROLLED_BACK):
                assert after.weight(plan.candidate) <= world.weight(plan.candidate)
                assert after.state.phase in (Phase.ABORTED, Phase.ROLLED_BACK)


def test_the_champion_stays_loaded_until_another_one_is_promoted(explored):
    plan, seen = explored
    for world in seen:
        if plan.champion and world.state.phase is not Phase.PROMOTED:
            assert plan.champion in world.loaded
            assert world.champion == plan.champion
            assert world.alias == plan.champion


def test_every_state_comes_to_an_end_by_its_deadline(explored):
    plan, seen = explored
    for world, next_ones in seen.items():
        ended = world.state.phase in ENDED
        assert ended or is_late(plan, world.state, 1e9)
        if not ended and is_late(plan, world.state, world.now):
            (late,) = [after for event, after in next_ones if event == Tick()]
            assert late.state.phase is Phase.ROLLED_BACK


def test_an_end_is_an_end_and_every_open_state_has_a_way_back(explored):
    _, seen = explored
    for world, next_ones in seen.items():
        reached = {after.state.phase for _, after in next_ones}
        if world.state.phase in ENDED:
            assert reached <= {world.state.phase}
        else:
            assert Phase.ROLLED_BACK in reached


def test_every_event_may_be_repeated(explored):
    plan, seen = explored
    for world, next_ones in seen.items():
        for event, after in next_ones:
            if isinstance(event, (str, Tick)) or after.now > world.now:
                continue
            again, effects = advance(plan, after.state, event, after.now)
            assert again == after.state
            assert applied(plan, after, event, again, effects) == after


def test_only_a_person_promotes_what_has_not_baked(explored):
    plan, seen = explored
    for world, next_ones in seen.items():
        for event, after in next_ones:
            if event == Promote() and world.state.phase is not Phase.PROMOTED and plan.champion:
                assert world.state.phase is Phase.BAKING
                assert world.now >= world.state.since + plan.bake_s
                assert after.alias == plan.candidate


def test_all_phases_are_reached():
    assert {world.state.phase for world in explore(MIRRORED)} == set(Phase)


def test_the_first_delivery_is_installed_without_stages():
    state, _ = advance(FIRST, State(), Deployed(), 0.0)
    with pytest.raises(NotAllowed, match="no champion to share"):
        advance(FIRST, state, Shift(0), 0.0)
    after, effects = advance(FIRST, state, Promote(), 0.0)
    assert after.phase is Phase.PROMOTED
    assert effects == (SetWeights({"flights-v1": 100}, "flights-v1"), MoveAliases("flights-v1"))


@pytest.mark.parametrize("stage", [-1, 1, 4])
def test_a_stage_cannot_be_skipped_or_invented(stage):
    state, _ = advance(MIRRORED, State(), Deployed(), 0.0)
    with pytest.raises(NotAllowed, match=r"stage|cannot go to"):
        advance(MIRRORED, state, Shift(stage), 0.0)


def test_a_late_shift_is_refused_with_the_deadline_and_the_remedy():
    state, _ = advance(MIRRORED, State(), Deployed(), 0.0)
    with pytest.raises(NotAllowed, match=r"deadline of 3 s has passed; .*rollout\.deadline"):
        advance(MIRRORED, state, Shift(0), 3.0)


def test_a_mirror_gives_the_candidate_copies_and_no_traffic():
    state, _ = advance(MIRRORED, State(), Deployed(), 0.0)
    after, (weights,) = advance(MIRRORED, state, Shift(0), 0.0)
    assert (after.stage, after.weight) == (0, 0)
    assert weights == SetWeights({"flights-v1": 100, "flights-v2": 0}, "flights-v1", {"flights-v2": 100})
