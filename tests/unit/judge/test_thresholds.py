import math

import pytest

from tidegate.delivery import Limits, RolloutSpec, Stage, VersusChampion
from tidegate.handoff import Counts
from tidegate.judge import judge
from tidegate.judge.thresholds import P99_REQUESTS, RATIO_REQUESTS, STALE_AFTER_S

NOW = 1_000.0
STAGE = Stage(weight=0.1, requests=200, at_least=5.0)
ALL = Stage(weight=1.0, requests=200, at_least=5.0)
SPEC = RolloutSpec(
    stages=[STAGE, ALL],
    limits=Limits(errors=0.01, p99=0.25),
    versus_champion=VersusChampion(errors=1.5, p99=2.0),
    deadline=60,
)


def counts(requests=300, errors=0, p99=20.0, age=0.5, p50=5.0):
    return Counts(requests=requests, errors=errors, p50_ms=p50, p99_ms=p99, sampled_at=NOW - age)


def ask(candidate, champion=None, stage=STAGE, elapsed=10.0):
    return judge(stage, SPEC, candidate, champion or counts(3000), elapsed, NOW)


def test_passes_with_all_limits_kept_and_says_so_with_figures():
    verdict = ask(counts(300, 1))
    assert verdict.decision == "pass"
    assert "300 requests, 1 failed, p99 20.0 ms" in verdict.reason
    assert all(check.ok for check in verdict.checks)
    assert {"errors", "p99", "p99/champion"} <= {check.name for check in verdict.checks}


@pytest.mark.parametrize(
    ("candidate", "says"),
    [
        (None, "no data about the candidate"),
        (counts(math.nan), "NaN"),
        (counts(300, math.nan), "NaN"),
        (counts(300, p99=math.nan), "NaN"),
        (counts(300, age=STALE_AFTER_S + 0.1), "stale data about the candidate: 5.1 s"),
        (Counts(requests=300, errors=0, p99_ms=3.0), "no sample has a time"),
        (counts(199), "too few requests: 199 of 200"),
        (counts(0, p99=None), "too few requests: 0 of 200"),
        (counts(300, p99=None), "no data about the candidate's latency"),
    ],
)
def test_holds_and_names_what_is_missing_about_the_candidate(candidate, says):
    verdict = ask(candidate)
    assert verdict.decision == "hold"
    assert says in verdict.reason


def test_holds_before_the_minimum_time():
    assert ask(counts(), elapsed=4.9).decision == "hold"
    assert ask(counts(), elapsed=5.0).decision == "pass"


@pytest.mark.parametrize(
    ("champion", "says"),
    [
        (counts(3000, age=6.0), "stale data about the champion"),
        (counts(math.nan), "champion's figures are not numbers"),
    ],
)
def test_holds_without_fresh_figures_of_the_champion(champion, says):
    verdict = ask(counts(), champion)
    assert verdict.decision == "hold"
    assert says in verdict.reason


def test_holds_without_any_figures_of_the_champion():
    verdict = judge(STAGE, SPEC, counts(), None, 10.0, NOW)
    assert (verdict.decision, verdict.reason) == ("hold", "no data about the champion")


def test_needs_no_champion_at_100_percent():
    assert judge(ALL, SPEC, counts(), None, 10.0, NOW).decision == "pass"


@pytest.mark.parametrize("requests", [3, 20, 199])
def test_fails_long_before_the_minimum_of_requests_once_no_stage_could_forgive_the_errors(requests):
    assert ask(counts(requests, 2)).decision == "hold"
    verdict = ask(counts(requests, 3), elapsed=0.5)
    assert verdict.decision == "fail"
    assert "errors 3 above 2" in verdict.reason


def test_errors_are_allowed_in_proportion_once_the_minimum_is_reached():
    assert ask(counts(1000, 10), counts(3000, 30)).decision == "pass"
    assert ask(counts(1000, 11), counts(3000, 30)).decision == "fail"


def test_stale_figures_can_fail_but_never_pass():
    assert ask(counts(300, 50, age=60)).decision == "fail"
    assert ask(counts(300, 0, age=60)).decision == "hold"


def test_a_p99_needs_enough_answers_to_fail():
    assert ask(counts(P99_REQUESTS - 1, p99=900.0)).decision == "hold"
    verdict = ask(counts(P99_REQUESTS, p99=900.0))
    assert verdict.decision == "fail"
    assert "p99 900ms above 250ms" in verdict.reason


def test_a_short_stage_does_not_pass_with_a_bad_p99():
    short = Stage(weight=0.1, requests=10, at_least=1.0)
    assert ask(counts(10, p99=900.0), stage=short).decision == "fail"


def test_a_p99_worse_than_the_champions_holds_until_there_are_enough_answers_to_be_sure():
    slow = {"p99": 41.0}
    early = ask(counts(300, **slow))
    assert early.decision == "hold"
    assert "p99/champion 41ms above 40ms" in early.reason
    assert ask(counts(RATIO_REQUESTS, **slow)).decision == "fail"


def test_more_errors_than_the_champion_fail_below_the_absolute_limit():
    verdict = ask(counts(1000, 9), counts(3000, 3))
    assert verdict.decision == "fail"
    assert "errors/champion 9 above 1.5" in verdict.reason


def test_a_few_errors_are_not_compared():
    assert ask(counts(1000, 4), counts(3000, 0)).decision == "pass"


def test_a_champion_with_too_few_requests_is_not_compared_and_the_reason_says_so():
    verdict = ask(counts(300, p99=200.0), counts(99, p99=1.0))
    assert verdict.decision == "pass"
    assert "not compared: the champion answered only 99 of 100" in verdict.reason


@pytest.mark.parametrize("candidate", [None, counts(10), counts(300, age=30)])
def test_what_still_holds_at_the_deadline_fails(candidate):
    verdict = ask(candidate, elapsed=60.0)
    assert verdict.decision == "fail"
    assert verdict.reason.startswith("not passed within the deadline of 60 s: ")


def test_a_pass_at_the_deadline_is_a_pass():
    assert ask(counts(), elapsed=60.0).decision == "pass"
