"""A stage watched: the traffic is back within the look that finds a breach, and nothing unknown ever passes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tidegate.clients.metrics_source import FakeMetrics, QualitySeen, Seen
from tidegate.clients.model_server import FakeModelServer
from tidegate.clients.records import FakeLedger
from tidegate.clients.traffic import FakeTraffic
from tidegate.delivery import NonInferior, PredictionsLimit, QualitySpec, RolloutSpec, Stage
from tidegate.errors import Unavailable
from tidegate.judge import Sample, Scrape
from tidegate.rollout import actions
from tidegate.rollout.watch import Watch

SPEC = RolloutSpec(
    stages=[Stage(weight=0.1, requests=200, at_least=5), Stage(weight=1.0, requests=200, at_least=5)],
    deadline=600,
    no_data=30,
    bake=20,
    non_inferior=NonInferior(errors=0.05),
)
AWAY = Unavailable("Prometheus at http://127.0.0.1:9090 did not answer within 2 s")
START = 1_000_000.0  # Prometheus' clock when the stage began: far from the ledger's, which the watch must not mind


class NoRegistry:
    def set_alias(self, delivery, alias, version):
        pass

    def drop_alias(self, delivery, alias):
        pass


def seen(seconds, failing=0, mine=20, theirs=180, before=20):
    """Scrapes from `before` seconds before the stage to `seconds` into it, of steady traffic."""

    def sample(rate, second, errors=0):
        count = rate * (second + before)
        return Sample(count, errors * max(second, 0), {10.0: count, 20.0: count, float("inf"): count})

    scrapes = [
        Scrape(START + second, {"flights-v1": sample(theirs, second), "flights-v2": sample(mine, second, failing)})
        for second in range(-before, seconds + 1)
    ]
    return Seen(START + seconds + 0.1, scrapes)


@pytest.fixture
def staged():
    """The second version has 10%; gives (hands, rollout id, lease)."""
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
        rollout, lease = actions.begin(hands, "flights", f"flights-v{version}", f"r{version}", "run", SPEC, "dag")
        actions.deploy(hands, rollout.id, lease, "dag")
        if version == 1:
            actions.promote(hands, rollout.id, lease, "dag")
    actions.shift(hands, rollout.id, lease, 0, "dag")
    return hands, rollout.id, lease


def watch(staged, answers, age=0.1):
    """Return a watch that begins when the stage is `age` seconds old."""
    hands, rollout_id, lease = staged
    hands.ledger.wait(age)
    return Watch(hands, FakeMetrics(answers), hands.ledger.rollout(rollout_id), lease, SPEC)


def once(staged, answer, age=0.1):
    return watch(staged, [answer], age).look()


def candidates(staged):
    return staged[0].traffic.read("flights").candidates


def test_a_good_stage_passes_and_the_lease_is_renewed_and_the_verdict_is_on_record(staged):
    verdict = once(staged, seen(20), age=20.1)
    assert verdict.decision == "pass"
    assert staged[0].ledger.lease("flights").remaining_s == 60
    assert candidates(staged) == {"flights-v2": 10}
    (passed,) = [event for event in staged[0].ledger.events if event.kind == "passed"]
    assert passed.detail["verdict"]["candidate"]["requests"] == 400


def test_what_was_answered_before_the_stage_does_not_count(staged):
    verdict = once(staged, seen(9), age=9.1)
    assert verdict.decision == "hold"
    assert "too few requests: 180 of 200" in verdict.reason


@pytest.mark.parametrize("ledger_away", [False, True])
def test_a_breach_takes_the_traffic_back_within_the_look_also_without_the_ledger(staged, ledger_away):
    found = watch(staged, [seen(1), seen(2, failing=15)], age=1.1)
    assert found.look().decision == "hold"
    staged[0].ledger.away = Unavailable("away") if ledger_away else None
    verdict = found.look()
    assert verdict.decision == "fail"
    assert "failed" in verdict.reason
    assert candidates(staged) == {}


def test_an_abort_is_recorded_with_the_evidence(staged):
    once(staged, seen(2, failing=15), age=2.1)
    (aborted,) = [event for event in staged[0].ledger.events if event.kind == "aborted"]
    assert aborted.actor == "judge at stage 10"
    assert aborted.detail["verdict"]["figures"]["log_evidence"] > 5
    assert aborted.detail["verdict"]["candidate"]["errors"] == 30


def test_a_second_watch_takes_up_where_another_one_broke_off(staged):
    first = watch(staged, [seen(12)], age=12.1)
    assert first.look().decision == "pass"
    again = watch(staged, [seen(13)], age=1.0)
    verdict = again.look()
    assert verdict.decision == "pass"
    assert verdict.candidate.requests == 260


def test_only_what_is_new_is_asked_for(staged):
    found = watch(staged, [seen(1), seen(2)])
    found.look()
    found.look()
    (_, first), (_, second) = found._metrics.asked
    assert first > 60
    assert second < 20


def test_holds_while_prometheus_is_away_and_fails_when_patience_ends(staged):
    found = watch(staged, [AWAY])
    assert found.look().decision == "hold"
    staged[0].ledger.wait(29)
    assert found.look().decision == "hold"
    assert candidates(staged) == {"flights-v2": 10}
    staged[0].ledger.wait(1.5)
    verdict = found.look()
    assert verdict.decision == "fail"
    assert "no data for 30 s: Prometheus at" in verdict.reason
    assert candidates(staged) == {}


def test_prometheus_may_be_away_for_a_moment(staged):
    found = watch(staged, [AWAY, seen(20)], age=20.1)
    assert found.look().decision == "hold"
    assert found.look().decision == "pass"


def test_does_not_pass_while_the_ledger_is_away(staged):
    found = watch(staged, [seen(20)], age=20.1)
    staged[0].ledger.away = Unavailable("away")
    verdict = found.look()
    assert verdict.decision == "hold"
    assert "the lease was not renewed" in verdict.reason


ASKS = SPEC.model_copy(update={"quality": QualitySpec(predictions=PredictionsLimit(differ=0.1, at_least=100))})


def said(seconds, mine=0.2, theirs=0.2, restarts=None):
    """Ten predictions a second of each version, in buckets up to 0.5 and above, from before the stage on."""

    def sample(prediction, second):
        total = 10.0 * (second - restarts if restarts is not None and second >= restarts else second + 10)
        return Sample(total, 0.0, {0.5: total if prediction <= 0.5 else 0.0, float("inf"): total})

    return QualitySeen(
        [
            Scrape(START + second + 0.4, {"flights-v1": sample(theirs, second), "flights-v2": sample(mine, second)})
            for second in range(-10, seconds + 1)
        ]
    )


def asking(staged, answers, what, age):
    hands, rollout_id, lease = staged
    hands.ledger.wait(age)
    return Watch(hands, FakeMetrics(answers, what), hands.ledger.rollout(rollout_id), lease, ASKS)


def test_what_is_said_passes_with_its_samples_and_not_before(staged):
    few = asking(staged, [seen(20), seen(25)], said(8), 20.1)
    verdict = few.look()
    assert verdict.decision == "hold"
    assert "stale data about its predictions" in verdict.reason
    few._metrics.said = said(24)
    assert few.look().decision == "pass"


def test_a_candidate_that_says_something_else_loses_its_traffic_at_once(staged):
    verdict = asking(staged, [seen(10)], said(9, mine=0.9), 10.1).look()
    assert verdict.decision == "fail"
    assert "its predictions are not distributed as the champion's: 0% are at most 0.5" in verdict.reason
    assert candidates(staged) == {}


def test_what_was_said_before_the_stage_does_not_count(staged):
    verdict = asking(staged, [seen(20)], said(19), 20.1).look()
    (check,) = [check for check in verdict.checks if check.name == "predictions"]
    assert check.ok
    late = asking(staged, [seen(8)], said(7), 0.0)
    late._age_s = 8.1
    assert late.look().reason.startswith("too few")


def test_without_the_quality_process_a_stage_holds_and_says_what_is_missing(staged):
    verdict = asking(staged, [seen(20)], QualitySeen(), 20.1).look()
    assert verdict.decision == "hold"
    assert "no data about its predictions: is the process `quality` running" in verdict.reason


def test_a_quality_process_that_began_again_holds_for_a_whole_interval(staged):
    found = asking(staged, [seen(20), seen(22)], said(19, restarts=19), 20.1)
    assert "counters of predictions began again" in found.look().reason
    found._metrics.said = said(21, restarts=19)
    assert found.look().decision == "pass"


def test_a_breach_is_not_held_up_by_asking_what_is_said(staged, monkeypatch):
    found = asking(staged, [seen(2, failing=15)], said(1), 2.1)
    monkeypatch.setattr(found._metrics, "quality", lambda *_: pytest.fail("asked before the traffic was back"))
    assert found.look().decision == "fail"
    assert candidates(staged) == {}


def test_a_prometheus_that_does_not_answer_about_what_is_said_holds(staged, monkeypatch):
    found = asking(staged, [seen(20)], said(19), 20.1)
    monkeypatch.setattr(found._metrics, "quality", lambda *_: (_ for _ in ()).throw(AWAY))
    verdict = found.look()
    assert verdict.decision == "hold"
    assert "no data about its predictions" in verdict.reason


def test_an_expired_lease_fails_and_the_traffic_goes_back(staged):
    assert once(staged, seen(61), age=61).decision == "fail"
    assert candidates(staged) == {}


def test_a_lease_taken_over_fails_and_leaves_the_traffic_to_its_new_holder(staged):
    staged[0].ledger.acquire("flights", "rollback", 60, seize=True)
    before = staged[0].traffic.read("flights")
    assert once(staged, seen(20), age=20.1).decision == "fail"
    assert staged[0].traffic.read("flights") == before


def test_traffic_that_somebody_took_away_fails_and_says_who(staged):
    actions.abort(staged[0].traffic, "flights", "guard: the lease of run expired")
    verdict = once(staged, seen(20))
    assert verdict.decision == "fail"
    assert "has 0% instead of 10%: guard: the lease of run expired" in verdict.reason


def test_a_pause_holds_what_would_pass_and_ends_with_a_resume(staged):
    hands, rollout_id, _ = staged
    found = watch(staged, [seen(20)], age=20.1)
    hands.ledger.ask(rollout_id, "pause", "ada")
    verdict = found.look()
    assert verdict.decision == "hold"
    assert "paused by ada; else it would pass" in verdict.reason
    hands.ledger.ask(rollout_id, "resume", "ada")
    assert found.look().decision == "pass"


def test_a_pause_does_not_hold_back_an_abort(staged):
    staged[0].ledger.ask(staged[1], "pause", "ada")
    assert once(staged, seen(2, failing=15), age=2.1).decision == "fail"
    assert candidates(staged) == {}


def test_a_person_may_pass_a_stage_that_would_wait(staged):
    staged[0].ledger.ask(staged[1], "promote", "ada")
    verdict = once(staged, seen(1), age=1.1)
    assert verdict.decision == "pass"
    assert "ada asked not to wait for the judge" in verdict.reason


def test_the_bake_is_watched_by_the_guardrails_for_its_time(staged):
    hands, rollout_id, lease = staged
    actions.shift(hands, rollout_id, lease, 1, "dag")
    actions.bake(hands, rollout_id, lease, "dag")
    found = watch(staged, [seen(5, mine=200, theirs=0), seen(21, mine=200, theirs=0)], age=5.1)
    assert (found.name, found.look().decision) == ("bake", "hold")
    assert found.look().decision == "pass"


def test_a_bad_answer_while_it_bakes_leads_back(staged):
    hands, rollout_id, lease = staged
    actions.shift(hands, rollout_id, lease, 1, "dag")
    actions.bake(hands, rollout_id, lease, "dag")
    verdict = once(staged, seen(5, failing=100, mine=200, theirs=0), age=5.1)
    assert verdict.decision == "fail"
    assert staged[0].traffic.read("flights").weights == {"flights-v1": 100, "flights-v2": 0}
