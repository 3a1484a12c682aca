import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tidegate.clients.model_server import FakeModelServer
from tidegate.clients.records import FakeLedger
from tidegate.clients.traffic import FakeTraffic, Split
from tidegate.delivery import RolloutSpec, Stage
from tidegate.errors import Conflict, DataError, LeaseLost, Unavailable
from tidegate.rollout import actions
from tidegate.rollout.plan import NotAllowed

SPEC = RolloutSpec(
    stages=[Stage(weight=0.1, requests=1), Stage(weight=0.5, requests=1), Stage(weight=1.0, requests=1)],
    deadline=3600,
    bake=100,
)
AWAY = Unavailable("the ledger's Postgres at 127.0.0.1:5432 did not answer within 3 s")


class Registry:
    def __init__(self):
        self.aliases = {"candidate": 2}

    def set_alias(self, delivery, alias, version):
        self.aliases[alias] = version

    def drop_alias(self, delivery, alias):
        self.aliases.pop(alias, None)


def bundle(delivery, version):
    if version > 8:
        raise DataError(f"nothing is published at bundles/{delivery}/v{version}")
    return SimpleNamespace(name=f"{delivery}-v{version}", version=version)


@pytest.fixture
def hands():
    traffic = FakeTraffic()
    return actions.Hands(FakeLedger(), traffic, traffic, FakeModelServer(), Registry(), bundle, ttl_s=60)


def start(hands, version, rollout_id=None):
    rollout_id = rollout_id or f"r{version}"
    rollout, lease = actions.begin(
        hands, "flights", f"flights-v{version}", rollout_id, f"run-{rollout_id}", SPEC, "dag"
    )
    actions.deploy(hands, rollout.id, lease, "dag")
    return rollout.id, lease


def deliver(hands, version):
    rollout, lease = start(hands, version)
    if hands.traffic.read("flights").champion is not None:
        for stage in range(3):
            actions.shift(hands, rollout, lease, stage, "dag")
        bake(hands, rollout, lease)
    return actions.promote(hands, rollout, lease, "dag")


def bake(hands, rollout, lease):
    """Hold 100% for the bake's 100 s, the lease renewed as a watch does."""
    actions.bake(hands, rollout, lease, "dag")
    for _ in range(2):
        hands.ledger.wait(50)
        hands.ledger.renew(lease, 60)


@pytest.fixture
def delivered(hands):
    """v1 is the champion."""
    deliver(hands, 1)
    return hands


def weights(hands):
    return {name: weight for name, weight in hands.traffic.read("flights").weights.items() if weight}


def kinds(hands):
    return [event.kind for event in hands.ledger.events]


def test_the_first_delivery_gets_everything_at_once(hands):
    outcome = deliver(hands, 1)
    assert (outcome.outcome, outcome.champion, outcome.left) == ("promoted", "flights-v1", None)
    assert weights(hands) == {"flights-v1": 100}
    assert hands.registry.aliases == {"champion": 1}
    assert not hands.ledger.lease("flights").live


def test_a_candidate_goes_through_every_stage_and_the_old_champion_goes(delivered):
    rollout, lease = start(delivered, 2)
    seen = []
    for stage in range(3):
        actions.shift(delivered, rollout, lease, stage, "dag")
        seen.append(weights(delivered))
    assert seen == [
        {"flights-v1": 90, "flights-v2": 10},
        {"flights-v1": 50, "flights-v2": 50},
        {"flights-v2": 100},
    ]
    bake(delivered, rollout, lease)
    assert "flights-v1" in delivered.servers.deployed, "the champion stays warm until the end"
    assert delivered.traffic.read("flights").champion == "flights-v1", "and it is still where a way back leads"
    actions.promote(delivered, rollout, lease, "dag")
    assert list(delivered.servers.deployed) == ["flights-v2"]
    assert delivered.registry.aliases == {"champion": 2}
    assert delivered.ledger.rollout(rollout).outcome == "promoted"


def test_every_change_of_traffic_is_an_event_with_its_fence(delivered):
    deliver(delivered, 2)
    changed = {split.revision for _, split in delivered.traffic.history}
    logged = {event.detail["revision"] for event in delivered.ledger.events if "revision" in event.detail}
    assert changed == logged
    moves = [event for event in delivered.ledger.events if event.kind in ("shifted", "promoted")]
    assert all(event.fence and event.actor == "dag" for event in moves)


def test_begin_and_deploy_may_be_repeated(delivered):
    first = start(delivered, 2)
    assert start(delivered, 2) == first
    assert kinds(delivered).count("begun") == 2  # one of v1, one of v2


def test_a_second_rollout_waits_for_the_first(delivered):
    start(delivered, 2)
    with pytest.raises(LeaseLost, match="held by run-r2"):
        start(delivered, 3)
    delivered.ledger.wait(61)
    with pytest.raises(Conflict, match="rollout r2 of flights"):
        start(delivered, 3)
    assert not delivered.ledger.lease("flights").live, "it does not keep the lease it cannot use"


def test_a_rollout_id_of_another_candidate_is_refused(delivered):
    start(delivered, 2, "same")
    with pytest.raises(DataError, match="about flights-v2, not flights-v3"):
        start(delivered, 3, "same")


def test_the_champion_is_not_rolled_out_again(delivered):
    with pytest.raises(NotAllowed, match="champion of flights already"):
        start(delivered, 1, "again")


def test_no_traffic_moves_without_a_live_lease(delivered):
    rollout, lease = start(delivered, 2)
    delivered.ledger.wait(61)
    with pytest.raises(LeaseLost):
        actions.shift(delivered, rollout, lease, 0, "dag")
    assert weights(delivered) == {"flights-v1": 100}


def test_no_traffic_moves_while_the_ledger_is_away(delivered):
    rollout, lease = start(delivered, 2)
    delivered.ledger.away = AWAY
    with pytest.raises(Unavailable):
        actions.shift(delivered, rollout, lease, 0, "dag")
    assert weights(delivered) == {"flights-v1": 100}


def test_a_candidate_whose_server_is_not_ready_gets_no_traffic(delivered):
    rollout, lease = start(delivered, 2)
    delivered.servers.retire("flights-v2")
    with pytest.raises(Unavailable, match="server of flights-v2 is not ready"):
        actions.shift(delivered, rollout, lease, 0, "dag")
    assert weights(delivered) == {"flights-v1": 100}


def test_a_candidate_that_cannot_be_served_never_gets_a_route(delivered):
    delivered.servers.broken = frozenset({"flights-v2"})
    with pytest.raises(DataError):
        start(delivered, 2)
    assert "flights-v2" not in delivered.traffic.read("flights").endpoints


def at_ten_percent(hands, version=2):
    rollout, lease = start(hands, version)
    actions.shift(hands, rollout, lease, 0, "dag")
    return rollout, lease


@pytest.mark.parametrize("ledger_away", [False, True])
def test_an_abort_gives_the_champion_everything_and_bars_whoever_moved_it(delivered, ledger_away):
    rollout, lease = at_ten_percent(delivered)
    delivered.ledger.away = AWAY if ledger_away else None
    for _ in range(2):
        actions.abort_rollout(delivered, rollout, "flights", "judge", "errors 3 above 2")
        assert weights(delivered) == {"flights-v1": 100}
    delivered.ledger.away = None
    with pytest.raises((LeaseLost, NotAllowed)):
        actions.shift(delivered, rollout, lease, 0, "dag")
    split = delivered.traffic.read("flights")
    with pytest.raises(LeaseLost):
        delivered.traffic.write(
            "flights", {"flights-v2": 100}, champion="flights-v1", expected=split.revision, fence=lease.fence
        )


def test_what_was_aborted_while_the_ledger_was_away_is_logged_later_and_once(delivered):
    rollout, _ = at_ten_percent(delivered)
    delivered.ledger.away = AWAY
    split = actions.abort_rollout(delivered, rollout, "flights", "judge", "errors 3 above 2")
    delivered.ledger.away = None
    assert not delivered.ledger.logged("flights", split.revision)
    done = actions.reconcile(delivered, "flights")
    assert any("judge: errors 3 above 2" in sentence for sentence in done)
    assert delivered.ledger.logged("flights", split.revision)
    assert actions.reconcile(delivered, "flights") == []


def test_an_abort_gets_through_between_other_writers(delivered):
    at_ten_percent(delivered)
    traffic, write, left = delivered.traffic, delivered.traffic.write, [3]

    def crowded(delivery, weights, **given):
        if left[0]:
            left[0] -= 1
            raise Conflict("somebody else was faster")
        return write(delivery, weights, **given)

    traffic.write = crowded
    actions.abort(traffic, "flights", "test")
    assert weights(delivered) == {"flights-v1": 100}


def test_a_rollback_goes_all_the_way_and_the_second_one_says_so(delivered):
    rollout, _ = at_ten_percent(delivered)
    outcome = actions.rollback(delivered, "flights", "b1", "dag", "errors 3 above 2", rollout_id=rollout)
    assert (outcome.outcome, outcome.champion, outcome.left) == ("rolled_back", "flights-v1", "flights-v2")
    assert "errors 3 above 2" in outcome.sentence
    assert weights(delivered) == {"flights-v1": 100}
    assert list(delivered.servers.deployed) == ["flights-v1"]
    assert delivered.registry.aliases == {"champion": 1}
    before = (delivered.traffic.read("flights"), len(delivered.ledger.events))
    for given in (rollout, None):
        again = actions.rollback(delivered, "flights", "b2", "a person", "once more", rollout_id=given)
        assert again.outcome == "already"
        assert "already rolled back flights-v2" in again.sentence
    assert (delivered.traffic.read("flights"), len(delivered.ledger.events)) == before


def test_a_person_rolls_back_the_running_rollout_and_takes_its_lease_over(delivered):
    rollout, lease = at_ten_percent(delivered)
    outcome = actions.rollback(delivered, "flights", "b1", "a person", "looks odd")
    assert outcome.outcome == "rolled_back"
    with pytest.raises((LeaseLost, NotAllowed)):
        actions.shift(delivered, rollout, lease, 1, "dag")
    assert weights(delivered) == {"flights-v1": 100}


@pytest.mark.parametrize("broken", ["confirm", "retire", "set_alias"])
def test_a_rollback_that_dies_midway_is_finished_by_the_next_call(delivered, broken):
    rollout, _ = at_ten_percent(delivered)
    owner = {"confirm": delivered.proxy, "retire": delivered.servers, "set_alias": delivered.registry}[broken]
    whole = getattr(owner, broken)

    def dies(*_, **__):
        raise Unavailable("killed")

    setattr(owner, broken, dies)
    with pytest.raises(Unavailable):
        actions.rollback(delivered, "flights", "b1", "dag", "bad", rollout_id=rollout)
    assert weights(delivered) == {"flights-v1": 100}, "traffic is back before anything else"
    setattr(owner, broken, whole)
    assert actions.rollback(delivered, "flights", "b1", "dag", "bad", rollout_id=rollout).outcome == "rolled_back"
    assert list(delivered.servers.deployed) == ["flights-v1"]


def test_a_rollback_moves_the_traffic_also_while_the_ledger_is_away_and_finishes_later(delivered):
    rollout, _ = at_ten_percent(delivered)
    delivered.ledger.away = AWAY
    with pytest.raises(Unavailable):
        actions.rollback(delivered, "flights", "b1", "dag", "bad", rollout_id=rollout)
    assert weights(delivered) == {"flights-v1": 100}
    delivered.ledger.away = None
    outcome = actions.rollback(delivered, "flights", "b1", "dag", "bad", rollout_id=rollout)
    assert outcome.outcome == "rolled_back"


def test_a_champion_whose_server_died_is_started_before_it_gets_the_traffic(delivered):
    rollout, _ = at_ten_percent(delivered)
    delivered.servers.retire("flights-v1")
    actions.rollback(delivered, "flights", "b1", "dag", "bad", rollout_id=rollout)
    assert delivered.servers.ready("flights-v1")


def test_without_a_rollout_the_champion_gives_way_to_the_one_before_it_once(delivered):
    deliver(delivered, 2)
    outcome = actions.rollback(delivered, "flights", "b1", "a person", "looks odd")
    assert (outcome.outcome, outcome.champion, outcome.left) == ("reverted", "flights-v1", "flights-v2")
    assert weights(delivered) == {"flights-v1": 100}
    assert list(delivered.servers.deployed) == ["flights-v1"]
    assert delivered.registry.aliases == {"champion": 1}
    for rollback_id in ("b1", "b2"):
        assert actions.rollback(delivered, "flights", rollback_id, "a person", "again").outcome == "already"
    assert weights(delivered) == {"flights-v1": 100}


def test_a_revert_that_dies_midway_is_finished_by_the_next_call(delivered):
    deliver(delivered, 2)
    whole = delivered.servers.retire

    def dies(name):
        raise Unavailable("killed")

    delivered.servers.retire = dies
    with pytest.raises(Unavailable):
        actions.rollback(delivered, "flights", "b1", "a person", "odd")
    delivered.servers.retire = whole
    assert actions.rollback(delivered, "flights", "b1", "a person", "odd").outcome == "reverted"


def test_a_person_may_name_the_version_to_go_back_to(delivered):
    deliver(delivered, 2)
    deliver(delivered, 3)
    assert actions.rollback(delivered, "flights", "b1", "a person", "odd", version=1).champion == "flights-v1"


def test_a_version_without_a_bundle_is_refused_and_nothing_moves(delivered):
    with pytest.raises(DataError, match="nothing is published"):
        actions.rollback(delivered, "flights", "b1", "a person", "odd", version=9)
    assert weights(delivered) == {"flights-v1": 100}


def test_there_may_be_nothing_to_roll_back(hands):
    assert actions.rollback(hands, "flights", "b1", "a person", "odd").outcome == "nothing"
    deliver(hands, 1)
    outcome = actions.rollback(hands, "flights", "b2", "a person", "odd")
    assert (outcome.outcome, outcome.champion) == ("nothing", "flights-v1")


def test_a_first_delivery_that_is_rolled_back_leaves_nothing(hands):
    rollout, _ = start(hands, 1)
    assert actions.rollback(hands, "flights", "b1", "dag", "bad", rollout_id=rollout).outcome == "rolled_back"
    assert hands.servers.deployed == {}
    assert weights(hands) == {}


def test_promotion_may_be_repeated_and_needs_the_whole_bake(delivered):
    rollout, lease = at_ten_percent(delivered)
    with pytest.raises(NotAllowed):
        actions.promote(delivered, rollout, lease, "dag")
    with pytest.raises(NotAllowed):
        actions.bake(delivered, rollout, lease, "dag")
    for stage in (1, 2):
        actions.shift(delivered, rollout, lease, stage, "dag")
    actions.bake(delivered, rollout, lease, "dag")
    delivered.ledger.wait(50)
    with pytest.raises(NotAllowed, match="baking at 100% and cannot be promoted"):
        actions.promote(delivered, rollout, lease, "dag")
    delivered.ledger.renew(lease, 60)
    delivered.ledger.wait(50)
    actions.promote(delivered, rollout, lease, "dag")
    assert actions.promote(delivered, rollout, lease, "dag").outcome == "already"


def test_reconcile_rolls_back_what_lost_its_lease(delivered):
    rollout, _ = at_ten_percent(delivered)
    assert actions.reconcile(delivered, "flights") == []
    delivered.ledger.wait(61)
    (sentence,) = actions.reconcile(delivered, "flights")
    assert "flights-v2 was rolled back" in sentence
    assert "has run out" in sentence
    assert delivered.ledger.rollout(rollout).outcome == "rolled_back"
    assert actions.reconcile(delivered, "flights") == []


def test_reconcile_tells_a_drifted_proxy_again(delivered):
    delivered.traffic.drift["flights"] = Split(weights={"flights-v7": 100})
    (sentence,) = actions.reconcile(delivered, "flights")
    assert "drifted" in sentence
    assert actions.reconcile(delivered, "flights") == []


def test_reconcile_takes_traffic_from_versions_nobody_rolls_out(delivered):
    delivered.traffic.route("flights", "flights-v5", "127.0.0.1:5")
    split = delivered.traffic.read("flights")
    both = {"flights-v1": 50, "flights-v5": 50}
    delivered.traffic.write("flights", both, champion="flights-v1", expected=split.revision, fence=split.fence)
    done = actions.reconcile(delivered, "flights", keep=1)
    assert weights(delivered) == {"flights-v1": 100}
    assert "without a rollout" in done[0]


def test_reconcile_retires_idle_versions_but_the_newest(delivered):
    for version in (5, 6, 10):
        delivered.traffic.route("flights", f"flights-v{version}", f"127.0.0.1:{version}")
    actions.reconcile(delivered, "flights", keep=2)
    assert set(delivered.traffic.read("flights").endpoints) == {"flights-v1", "flights-v6", "flights-v10"}


def test_reconcile_leaves_a_running_rollouts_candidate_alone(delivered):
    start(delivered, 2)
    actions.reconcile(delivered, "flights")
    assert "flights-v2" in delivered.traffic.read("flights").endpoints


@pytest.mark.parametrize("name", ["flights", "flights-v", "flights-vx"])
def test_a_name_without_a_version_is_refused(name):
    with pytest.raises(DataError):
        actions.version_of(name)


def test_reconcile_finishes_a_revert_whose_holder_died(delivered):
    deliver(delivered, 2)
    whole = delivered.servers.retire

    def dies(name):
        raise Unavailable("killed")

    delivered.servers.retire = dies
    with pytest.raises(Unavailable):
        actions.rollback(delivered, "flights", "b1", "a person", "odd")
    delivered.servers.retire = whole
    delivered.ledger.wait(61)
    (sentence,) = actions.reconcile(delivered, "flights")
    assert "flights-v2 gave way to flights-v1" in sentence
    assert list(delivered.servers.deployed) == ["flights-v1"]


def test_a_rollout_that_was_promoted_is_not_undone_by_its_own_rollback(delivered):
    deliver(delivered, 2)
    outcome = actions.rollback(delivered, "flights", "b1", "dag", "a later task failed", rollout_id="r2")
    assert (outcome.outcome, outcome.champion) == ("nothing", "flights-v2")
    assert weights(delivered) == {"flights-v2": 100}


def test_a_new_lease_is_above_the_fences_that_aborts_left_behind(delivered):
    for _ in range(5):
        actions.abort(delivered.traffic, "flights", "guard: the ledger is away")
    deliver(delivered, 2)
    assert weights(delivered) == {"flights-v2": 100}


def test_a_person_may_promote_without_waiting_and_the_record_says_who(delivered):
    rollout, lease = at_ten_percent(delivered)
    delivered.ledger.ask(rollout, "promote", "ada")
    assert actions.promote(delivered, rollout, lease, "dag").outcome == "promoted"
    assert weights(delivered) == {"flights-v2": 100}
    assert delivered.ledger.rollout(rollout).reason == "ada asked not to wait"


def test_what_goes_wrong_while_it_bakes_leads_back_to_the_champion(delivered):
    rollout, lease = start(delivered, 2)
    for stage in range(3):
        actions.shift(delivered, rollout, lease, stage, "dag")
    actions.bake(delivered, rollout, lease, "dag")
    assert weights(delivered) == {"flights-v2": 100}
    actions.abort_rollout(delivered, rollout, "flights", "judge at bake", "slower")
    assert weights(delivered) == {"flights-v1": 100}
    outcome = actions.rollback(delivered, "flights", "b1", "dag", "slower", rollout_id=rollout)
    assert (outcome.outcome, outcome.champion) == ("rolled_back", "flights-v1")


def test_reconcile_ends_a_rollout_whose_deadline_passed_and_gives_its_watcher_a_minute(delivered):
    rollout, lease = at_ten_percent(delivered)
    for _ in range(72):
        delivered.ledger.wait(50)
        delivered.ledger.renew(lease, 60)
    assert actions.reconcile(delivered, "flights") == []
    delivered.ledger.wait(55)
    delivered.ledger.renew(lease, 60)
    delivered.ledger.wait(10)
    (sentence,) = actions.reconcile(delivered, "flights")
    assert "its deadline of 3600 s has passed" in sentence
    assert delivered.ledger.rollout(rollout).outcome == "rolled_back"


def test_a_lease_is_kept_alive_while_a_server_takes_long_to_load(delivered):
    deploy, renewals = delivered.servers.deploy, threading.Event()
    renew = delivered.ledger.renew

    def counted(lease, ttl_s):
        renewals.set()
        return renew(lease, ttl_s)

    def slow(bundle):
        assert renewals.wait(5), "the lease is renewed while the server loads"
        return deploy(bundle)

    hands = replace(delivered, ttl_s=0.3)
    hands.servers.deploy, hands.ledger.renew = slow, counted
    rollout, lease = actions.begin(hands, "flights", "flights-v2", "r2", "run", SPEC, "dag")
    renewals.clear()
    actions.deploy(hands, rollout.id, lease, "dag")


def test_a_mirror_copies_traffic_and_ends_with_the_abort(delivered):
    spec = SPEC.model_copy(update={"stages": [Stage(mirror=1.0, requests=1), *SPEC.stages]})
    rollout, lease = actions.begin(delivered, "flights", "flights-v2", "r2", "run", spec, "dag")
    actions.deploy(delivered, rollout.id, lease, "dag")
    split = actions.shift(delivered, rollout.id, lease, 0, "dag")
    assert (weights(delivered), dict(split.mirrors)) == ({"flights-v1": 100}, {"flights-v2": 100})
    actions.abort_rollout(delivered, rollout.id, "flights", "judge", "bad")
    assert not delivered.traffic.read("flights").mirrors


def test_reconcile_withdraws_old_bundles_but_not_the_way_back(delivered):
    asked = []

    def withdraw(delivery, keep, in_use):
        asked.append((delivery, keep, sorted(in_use)))
        return [7] if len(asked) == 1 else []

    for version in (2, 3):
        deliver(delivered, version)
    hands = replace(delivered, withdraw=withdraw)
    (sentence,) = actions.reconcile(hands, "flights", keep=2)
    assert "withdrew the bundles of v7" in sentence
    assert asked == [("flights", 2, [2, 3])]
    assert actions.reconcile(hands, "flights", keep=2) == []
    start(delivered, 4)
    actions.reconcile(hands, "flights", keep=2)
    assert len(asked) == 2, "while a rollout runs nothing is withdrawn"
