"""One stage judged: what fails, what holds and says why, what passes; on exact and on simulated traffic."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks import simulated
from tidegate.delivery import Limits, NonInferior, RolloutSpec, Stage
from tidegate.judge import Did, Interval, StageJudge, budgets

EDGES = simulated.EDGES
TEN, ALL = Stage(weight=0.1, requests=200, at_least=5), Stage(weight=1.0, requests=200, at_least=5)
SPEC = RolloutSpec(stages=[TEN, ALL], limits=Limits(errors=0.05, p99=0.5), deadline=600, no_data=30)


def did(requests, errors=0, ms=5.0):
    buckets = np.zeros(len(EDGES))
    buckets[np.searchsorted(EDGES, ms)] = float(int(requests))
    return Did(float(requests), float(errors), EDGES, tuple(buckets.tolist()))


def interval(second, mine, theirs=None, broken=False):
    return Interval(float(second - 1), float(second), mine, theirs, broken)


def judge(stage=TEN, spec=SPEC, until=600.0, shows_equal=False):
    found = StageJudge(stage, spec, 0.005, 0.0, until, shows_equal)
    for _ in range(5):
        found.learn(did(180))
    return found


def after(seconds, mine, theirs=None, **given):
    found = judge(**given)
    for second in range(1, seconds + 1):
        found.take(interval(second, mine, theirs or did(180)))
    return found


def test_an_equal_candidate_passes_after_its_requests_and_says_so_with_figures():
    verdict = after(10, did(20, 0)).verdict(10.0)
    assert verdict.decision == "pass"
    assert "200 requests, 0 failed, p99 5." in verdict.reason
    assert "the champion: 1800 requests" in verdict.reason
    assert {check.name: check.ok for check in verdict.checks} == {"errors": True, "p99": True}
    assert verdict.figures["log_evidence"] < verdict.figures["log_evidence_limit"] == pytest.approx(math.log(200))


def test_a_candidate_that_fails_every_answer_is_found_in_one_scrape():
    verdict = after(1, did(10, 10)).verdict(1.0)
    assert verdict.decision == "fail"
    assert "10 requests, 10 failed" in verdict.reason
    assert "to 1 against it, limit 200" in verdict.reason


def test_few_very_late_answers_are_found_although_the_champion_had_none():
    def late(answers, of):
        usual, slow = did(of - answers), did(answers, ms=500.0)
        return Did(float(of), 0.0, EDGES, tuple(a + b for a, b in zip(usual.buckets, slow.buckets, strict=True)))

    found = judge()
    for _ in range(60):
        found.learn(did(180))
    for second in range(1, 8):
        found.take(interval(second, late(second % 2, 20), did(180)))
    verdict = found.verdict(7.0)
    assert verdict.decision == "fail"
    assert "4 of 140 answers (over 6 ms) came later than 1.25x the champion's latest" in verdict.reason


def test_late_answers_that_the_champion_has_too_are_weather():
    def stormy(of):
        return Did(
            float(of),
            0.0,
            EDGES,
            tuple(a + b for a, b in zip(did(0.9 * of).buckets, did(0.1 * of, ms=500.0).buckets, strict=True)),
        )

    assert after(40, stormy(20), stormy(180)).verdict(40.0).decision == "pass"


def test_a_candidate_that_fails_more_often_than_the_champion_is_told_so_in_words():
    verdict = after(12, did(20, 1), did(180, 0)).verdict(12.0)
    assert verdict.decision == "fail"
    assert "fails where the champion does not, allowed 1.5x" in verdict.reason
    assert "the champion: 2160 requests, 0 failed" in verdict.reason


def test_how_many_times_as_often_it_fails_is_said():
    verdict = after(12, did(20, 2), did(180, 1)).verdict(12.0)
    assert "fails 18.0 times as often as the champion, allowed 1.5x" in verdict.reason


def test_what_both_versions_feel_is_no_reason_to_abort():
    verdict = after(10, did(20, 1, ms=60.0), did(180, 9, ms=60.0)).verdict(10.0)
    assert verdict.decision != "fail"


def test_a_slower_candidate_fails_with_the_margin_and_both_figures():
    verdict = after(3, did(20, 0, ms=15.0)).verdict(3.0)
    assert verdict.decision == "fail"
    assert "slower than 1.25x the champion: 60 requests" in verdict.reason


def test_a_candidate_within_the_margin_is_not_slower():
    assert after(10, did(20, 0, ms=6.0)).verdict(10.0).decision == "pass"


@pytest.mark.parametrize(
    ("mine", "says"), [(did(20, 2), "fails more than the allowed 5.00%"), (did(20, 0, 900.0), "p99 of 500 ms")]
)
def test_guardrails_hold_also_where_there_is_no_champion_beside(mine, says):
    found = judge(ALL)
    for second in range(1, 100):
        found.take(interval(second, mine))
        verdict = found.verdict(float(second))
        if verdict.decision == "fail":
            break
    assert verdict.decision == "fail"
    assert says in verdict.reason


def test_nothing_known_holds_and_the_patience_ends_it():
    found = judge()
    assert found.verdict(1.0).decision == "hold"
    assert found.verdict(29.9).reason == "no data yet"
    verdict = found.verdict(30.0)
    assert verdict.decision == "fail"
    assert "no figures for 30 s" in verdict.reason


@pytest.mark.parametrize(
    ("last", "now", "says"),
    [
        (interval(11, None, did(180)), 11.0, "no data about the candidate"),
        (interval(11, did(20), None), 11.0, "no data about the champion"),
        (interval(11, did(20), did(180), broken=True), 11.0, "counters began again, or scrapes are missing"),
        (interval(11, did(20), did(180)), 16.1, "stale data: 5.1 s old, limit 5 s"),
    ],
)
def test_unknown_broken_and_stale_figures_hold(last, now, says):
    found = after(10, did(20))
    assert found.verdict(10.0).decision == "pass"
    found.take(last)
    verdict = found.verdict(now)
    assert verdict.decision == "hold"
    assert says in verdict.reason


def test_too_few_requests_and_too_little_time_are_said_as_such():
    assert "too few requests: 100 of 200, 0 failed" in after(5, did(20)).verdict(6.0).reason
    assert "too early: 4.0 of 5 s" in after(4, did(100)).verdict(4.0).reason
    verdict = after(4, did(0), did(200)).verdict(4.0)
    assert (verdict.decision, verdict.reason) == ("hold", "too few requests: 0 of 200, 0 failed")


def test_a_stage_that_does_not_pass_in_its_time_fails_with_what_it_waited_for():
    verdict = after(5, did(20), until=5.0).verdict(5.0)
    assert verdict.decision == "fail"
    assert "not passed within its 5 s: too few requests: 100 of 200" in verdict.reason


def test_a_rate_above_the_guardrail_never_passes_though_it_is_not_sure():
    verdict = after(
        12, did(20, 1), did(180, 10), spec=SPEC.model_copy(update={"limits": Limits(errors=0.04, p99=0.5)})
    ).verdict(12.0)
    assert verdict.decision == "hold"
    assert "errors 5% above 4%" in verdict.reason


def test_a_champion_without_answers_gives_nothing_to_compare_with():
    verdict = after(12, did(20), did(0)).verdict(12.0)
    assert verdict.decision == "hold"
    assert "the champion answered nothing" in verdict.reason


def test_a_split_that_differs_from_the_stages_holds():
    verdict = after(10, did(50), did(150)).verdict(10.0)
    assert verdict.decision == "hold"
    assert "the proxy sends it 25.0% instead of 10%" in verdict.reason


def test_promotion_needs_more_than_the_absence_of_an_alarm():
    given = {"stage": Stage(weight=0.5, requests=100, at_least=1), "shows_equal": True}
    few = after(2, did(100), did(100), **given).verdict(2.0)
    assert few.decision == "hold"
    assert "not yet shown to have at most 1.0% more failed answers than the champion" in few.reason
    many = after(12, did(100), did(100), **given).verdict(12.0)
    assert many.decision == "pass"


def test_a_candidate_a_little_worse_is_neither_aborted_nor_promoted():
    given = {"stage": Stage(weight=0.5, requests=100, at_least=1), "shows_equal": True}
    spec = SPEC.model_copy(update={"non_inferior": NonInferior(errors=0.002)})
    verdict = after(12, did(100, 1), did(100, 1), spec=spec, **given).verdict(12.0)
    assert verdict.decision == "hold"


def test_the_budget_of_all_stages_and_the_bake_is_the_rollouts():
    spec = RolloutSpec()
    assert sum(budgets(spec)) == pytest.approx(spec.false_alarms)
    assert len(budgets(spec)) == len(spec.stages) + 1
    assert budgets(spec)[0] == 0.5 * spec.false_alarms


@pytest.mark.parametrize("kind", simulated.KINDS, ids=lambda kind: kind.name)
def test_identical_versions_raise_no_alarm_in_any_kind_of_traffic(kind):
    spec = SPEC.model_copy(update={"limits": Limits(errors=0.2, p99=5.0)})
    for seed in range(10, 14):  # how often it does alarm is measured in benchmarks/judge.py
        found = StageJudge(Stage(weight=kind.weight, requests=10**6), spec, 0.01, 0.0)
        for one in simulated.run(kind, kind.base, 120, np.random.default_rng(seed)):
            found.take(one)
            assert found.verdict(one.end).decision == "hold"
