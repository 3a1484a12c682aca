import itertools

import pytest

from tidegate.rollout.plan import (
    Abort,
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
    advance,
)

PLAN = Plan("flights-v2", "flights-v1", (10, 50, 100))
FIRST = Plan("flights-v1", None, (10, 50, 100))
EVENTS = (Deployed(), Shift(10), Shift(50), Shift(100), Abort(), Promote(), RollBack())


def walk(plan):
    """Every transition reachable from the beginning by any sequence of events."""
    seen, todo, steps = set(), [State()], []
    while todo:
        state = todo.pop()
        if state in seen:
            continue
        seen.add(state)
        for event in EVENTS:
            try:
                after, effects = advance(plan, state, event)
            except NotAllowed:
                continue
            steps.append((state, event, after, effects))
            todo.append(after)
    return seen, steps


@pytest.mark.parametrize("plan", [PLAN, FIRST])
def test_weights_always_sum_to_100_and_name_only_the_two_versions(plan):
    _, steps = walk(plan)
    writes = [effect for *_, effects in steps for effect in effects if isinstance(effect, SetWeights)]
    assert writes
    for write in writes:
        assert sum(write.weights.values()) == 100
        assert set(write.weights) <= {plan.candidate, plan.champion}
        assert write.champion in write.weights


def test_every_state_is_reached_and_every_open_one_has_a_way_back():
    states, steps = walk(PLAN)
    assert {state.phase for state in states} == set(Phase)
    for state in states:
        if state.phase is not Phase.PROMOTED:
            assert any(before == state and after.phase is Phase.ROLLED_BACK for before, _, after, _ in steps)


@pytest.mark.parametrize("plan", [PLAN, FIRST])
def test_after_an_abort_the_candidate_never_rises_again(plan):
    for length in range(1, 5):
        for events in itertools.product(EVENTS, repeat=length):
            state, gone = State(), False
            for event in events:
                try:
                    state, effects = advance(plan, state, event)
                except NotAllowed:
                    continue
                shares = [e.weights.get(plan.candidate, 0) for e in effects if isinstance(e, SetWeights)]
                gone = gone or state.phase in (Phase.ABORTED, Phase.ROLLED_BACK)
                if gone:
                    assert state.weight == 0
                    assert not any(shares)


def test_a_stage_is_never_skipped():
    _, steps = walk(PLAN)
    rises = {(before.weight, after.weight) for before, event, after, _ in steps if isinstance(event, Shift)}
    assert rises == {(0, 10), (10, 10), (10, 50), (50, 50), (50, 100), (100, 100)}


def test_only_a_candidate_at_100_percent_is_promoted():
    _, steps = walk(PLAN)
    assert {before for before, event, *_ in steps if isinstance(event, Promote)} == {
        State(Phase.STAGED, 100),
        State(Phase.PROMOTED, 100),
    }


def test_the_first_delivery_is_installed_without_stages():
    state, _ = advance(FIRST, State(), Deployed())
    with pytest.raises(NotAllowed, match="install"):
        advance(FIRST, state, Shift(10))
    state, effects = advance(FIRST, state, Promote())
    assert state == State(Phase.PROMOTED, 100)
    assert effects == (SetWeights({"flights-v1": 100}, "flights-v1"), MoveAliases("flights-v1"))


def test_the_way_back_moves_traffic_before_it_retires_the_server():
    _, effects = advance(PLAN, State(Phase.STAGED, 50), RollBack())
    assert effects == (
        SetWeights({"flights-v1": 100}, "flights-v1"),
        Retire("flights-v2"),
        MoveAliases("flights-v1"),
    )


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_may_be_repeated(event):
    _, steps = walk(PLAN)
    for before, happened, after, effects in steps:
        if happened == event and after.phase is not Phase.ROLLED_BACK:
            again, same = advance(PLAN, after, event)
            assert (again, same) == (after, effects), before


def test_a_weight_that_is_no_stage_is_refused():
    with pytest.raises(NotAllowed, match="20% is no stage"):
        advance(PLAN, State(Phase.DEPLOYED, 0), Shift(20))
