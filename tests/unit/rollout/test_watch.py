from types import SimpleNamespace

import pytest

from tidegate.clients.metrics_source import FakeMetrics
from tidegate.clients.model_server import FakeModelServer
from tidegate.clients.records import FakeLedger
from tidegate.clients.traffic import FakeTraffic
from tidegate.delivery import RolloutSpec, Stage
from tidegate.errors import Unavailable
from tidegate.handoff import Counts
from tidegate.rollout import actions
from tidegate.rollout.watch import look

SPEC = RolloutSpec(stages=[Stage(weight=0.1, requests=200), Stage(weight=1.0, requests=200)], deadline=60)
STAGE = SPEC.stages[0]
GOOD = {"flights-v1": Counts(requests=2000, errors=0, p99_ms=9, sampled_at=110)}
GOOD["flights-v2"] = Counts(requests=220, errors=0, p99_ms=9, sampled_at=110)
BAD = {**GOOD, "flights-v2": Counts(requests=20, errors=9, p99_ms=9, sampled_at=110)}
AWAY = Unavailable("away")


class NoRegistry:
    def set_alias(self, delivery, alias, version):
        pass

    def drop_alias(self, delivery, alias):
        pass


@pytest.fixture
def staged():
    """The second version has 10%; gives (hands, rollout, lease)."""
    traffic = FakeTraffic()
    hands = actions.Hands(
        FakeLedger(),
        traffic,
        traffic,
        FakeModelServer(),
        NoRegistry(),
        lambda name, version: SimpleNamespace(name=f"{name}-v{version}", version=version),
        ttl_s=60,
    )
    for version in (1, 2):
        rollout, lease = actions.begin(hands, "flights", f"flights-v{version}", f"r{version}", "run", [10, 100], "dag")
        actions.deploy(hands, rollout.id, lease, "dag")
        if version == 1:
            actions.promote(hands, rollout.id, lease, "dag")
    actions.shift(hands, rollout.id, lease, 10, "dag")
    return hands, rollout, lease


def once(staged, answer, now=110.0):
    hands, rollout, lease = staged
    return look(hands, FakeMetrics([answer]), rollout, lease, SPEC, STAGE, 100.0, now)


def candidates(staged):
    return staged[0].traffic.read("flights").candidates


def test_a_good_stage_passes_and_the_lease_is_renewed(staged):
    staged[0].ledger.wait(50)
    assert once(staged, GOOD).decision == "pass"
    assert staged[0].ledger.lease("flights").remaining_s == 60
    assert candidates(staged) == {"flights-v2": 10}


@pytest.mark.parametrize("ledger_away", [False, True])
def test_a_breach_takes_the_traffic_back_within_the_look_also_without_the_ledger(staged, ledger_away):
    staged[0].ledger.away = AWAY if ledger_away else None
    verdict = once(staged, BAD)
    assert verdict.decision == "fail"
    assert "errors 9 above 2" in verdict.reason
    assert candidates(staged) == {}


def test_holds_while_prometheus_is_away_and_fails_at_the_deadline(staged):
    assert once(staged, AWAY).decision == "hold"
    assert candidates(staged) == {"flights-v2": 10}
    verdict = once(staged, AWAY, now=160.0)
    assert verdict.decision == "fail"
    assert "no data about the candidate" in verdict.reason
    assert candidates(staged) == {}


def test_does_not_pass_while_the_ledger_is_away(staged):
    staged[0].ledger.away = AWAY
    verdict = once(staged, GOOD)
    assert verdict.decision == "hold"
    assert "the lease was not renewed" in verdict.reason


def test_an_expired_lease_fails_and_the_traffic_goes_back(staged):
    staged[0].ledger.wait(61)
    assert once(staged, GOOD).decision == "fail"
    assert candidates(staged) == {}


def test_a_lease_taken_over_fails_and_leaves_the_traffic_to_its_new_holder(staged):
    staged[0].ledger.acquire("flights", "rollback", 60, seize=True)
    before = staged[0].traffic.read("flights")
    assert once(staged, GOOD).decision == "fail"
    assert staged[0].traffic.read("flights") == before


def test_traffic_that_somebody_took_away_fails_and_says_who(staged):
    actions.abort(staged[0].traffic, "flights", "guard: the lease of run expired")
    verdict = once(staged, GOOD)
    assert verdict.decision == "fail"
    assert "has 0% instead of 10%: guard: the lease of run expired" in verdict.reason
