"""What a candidate says, judged: each ratio's bound, false alarms and detection on simulated counters, holds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from tidegate.delivery import (
    DisagreementLimit,
    KafkaTopic,
    LabelsLimit,
    Limits,
    PredictionsLimit,
    QualitySpec,
    RolloutSpec,
    Stage,
)
from tidegate.judge import Did, Interval, StageJudge, quality
from tidegate.judge.quality import MORE, PRIOR_SHARE, QualityJudge, above_margin

MIRROR, TEN, ALL = Stage(mirror=1.0, requests=1), Stage(weight=0.1, requests=1), Stage(weight=1.0, requests=1)
PREDICTIONS = PredictionsLimit(differ=0.1, at_least=200)
DISAGREEMENT = DisagreementLimit(above=0.1, at_most=0.05, at_least=200)
LABELS = LabelsLimit(kafka=KafkaTopic(connection="events", topic="labels"), worse=0.02)
EVERY = QualitySpec(predictions=PREDICTIONS, disagreement=DISAGREEMENT, labels=LABELS)
EDGES = (*(round(0.05 * step, 2) for step in range(21)), math.inf)
ALARM = math.log(1 / 0.005)
RUNS = 300  # seeds 0 ... 299; at a chance of 0.5% more than 6 alarms come in 1 of 2,000 test runs


def shares(bad, answers):
    return Did(float(answers), float(bad))


def said(values):
    """A histogram of predictions."""
    buckets = np.bincount(np.searchsorted(EDGES, values), minlength=len(EDGES)).astype(float)
    return Did(float(len(values)), 0.0, EDGES, tuple(buckets.tolist()))


def interval(second, mine, theirs=None, broken=False):
    return Interval(float(second - 1), float(second), mine, theirs, broken)


def alarms(name, spec, draw, seconds, runs=RUNS, stage=MIRROR):
    """How many of the runs ever raise an alarm, and the median candidate answers until they do."""
    found, took = 0, []
    for seed in range(runs):
        judge, rng, answers = QualityJudge(spec, stage), np.random.default_rng(seed), 0.0
        for second in range(1, seconds + 1):
            mine, theirs = draw(rng)
            judge.take(name, interval(second, mine, theirs))
            answers += mine.requests
            if judge.log_value >= ALARM:
                found += 1
                took.append(answers)
                break
    return found, float(np.median(took)) if took else math.inf


def binomial(n, p):
    return [(k, math.comb(n, k) * p**k * (1 - p) ** (n - k)) for k in range(n + 1)]


@pytest.mark.parametrize(("mine", "theirs"), [(6, 9), (9, 6), (2, 20)])
@pytest.mark.parametrize(("rate", "margin"), [(0.0, 0.02), (0.1, 0.1), (0.6, 0.3)])
def test_the_ratio_has_an_expectation_of_at_most_1_on_the_null(mine, theirs, rate, margin):
    expected = np.zeros(len(MORE))
    for (x, chance), (y, other) in itertools.product(binomial(mine, rate + margin), binomial(theirs, rate)):
        expected += chance * other * np.exp(above_margin(x, mine, y, theirs, margin))[0]
    assert (expected <= 1 + 1e-12).all()
    worse = np.zeros(len(MORE))
    for (x, chance), (y, other) in itertools.product(binomial(mine, 1.0), binomial(theirs, 0.0)):
        worse += chance * other * np.exp(above_margin(x, mine, y, theirs, margin))[0]
    assert (worse > 1).all(), "an alternative gains"


@pytest.mark.parametrize("both", [0.0, 0.15, 0.3])
def test_the_bound_holds_however_two_answers_to_the_same_input_depend_on_each_other(both):
    mine, theirs, margin = 0.4, 0.3, 0.1
    cells = {(1, 1): both, (1, 0): mine - both, (0, 1): theirs - both, (0, 0): 1 - mine - theirs + both}
    assert min(cells.values()) >= 0
    expected = sum(chance * np.exp(above_margin(x, 1, y, 1, margin))[0] for (x, y), chance in cells.items())
    assert (expected <= 1 + 1e-12).all()


def mirrored(rng, shift=0.0):
    """Fifteen inputs a second, answered by both: almost, but never quite, alike."""
    theirs = rng.beta(2, 3, 15)
    return said(np.clip(theirs + rng.normal(0, 0.02, 15) + shift, 0, 1)), said(theirs)


def weighted(rng, mine=(2, 3)):
    """Requests of a stage at 10%, a tenth of them sampled, over-dispersed."""
    return said(rng.beta(*mine, rng.poisson(1.5 * rng.gamma(2, 0.5)))), said(rng.beta(2, 3, rng.poisson(13.5)))


def at_the_margin(rng):
    """A tenth of the candidate's predictions moved across an edge: what is just allowed."""
    mine, theirs = rng.random(15) * 0.4, rng.random(15) * 0.4
    return said(np.where(rng.random(15) < 0.1, 0.9, mine)), said(theirs)


@pytest.mark.parametrize(("draw", "stage"), [(mirrored, MIRROR), (weighted, TEN), (at_the_margin, MIRROR)])
def test_predictions_that_differ_no_more_than_allowed_raise_hardly_an_alarm(draw, stage):
    found, _ = alarms("predictions", QualitySpec(predictions=PREDICTIONS), draw, 100, 50, stage)
    print(f"{draw.__name__}: {found} of 50 runs of 100 s")
    assert found <= 2


@pytest.mark.parametrize(
    ("draw", "within"),
    [
        (lambda rng: mirrored(rng, 0.3), 200),
        (lambda rng: weighted(rng, (3, 2)), 500),
        (lambda rng: (said(np.full(15, 2.0)), said(rng.beta(2, 3, 15))), 60),
    ],
    ids=["shifted by 0.3", "another distribution at 10%", "no probabilities"],
)
def test_predictions_that_differ_more_are_found(draw, within):
    found, took = alarms("predictions", QualitySpec(predictions=PREDICTIONS), draw, 600, 20)
    print(f"found in {found} of 20 runs after {took:.0f} predictions (median)")
    assert found == 20
    assert took <= within


def test_disagreement_at_its_limit_raises_hardly_an_alarm_and_beyond_it_is_found():
    spec = QualitySpec(disagreement=DISAGREEMENT)
    found, _ = alarms("disagreement", spec, lambda rng: (shares(rng.binomial(15, 0.05), 15), None), 150)
    sure, took = alarms("disagreement", spec, lambda rng: (shares(rng.binomial(15, 0.2), 15), None), 150, 50)
    print(f"at the limit {found} of {RUNS}; 20% found in {sure} of 50 after {took:.0f} pairs (median)")
    assert found <= 6
    assert sure == 50
    assert took <= 120


def labelled(rng, mine):
    theirs = rng.poisson(9)
    own = rng.poisson(5)
    return shares(rng.binomial(own, mine), own), shares(rng.binomial(theirs, 0.15), theirs)


def test_labels_within_the_margin_raise_hardly_an_alarm_and_a_worse_candidate_is_found():
    spec = QualitySpec(labels=LABELS)
    found, _ = alarms("labels", spec, lambda rng: labelled(rng, 0.17), 150)
    sure, took = alarms("labels", spec, lambda rng: labelled(rng, 0.4), 600, 50)
    print(f"at the margin {found} of {RUNS}; 40% wrong for 15% found in {sure} of 50 after {took:.0f} labels (median)")
    assert found <= 6
    assert sure == 50
    assert took <= 250


def test_a_champion_that_says_nothing_in_a_second_loses_no_evidence():
    judge = QualityJudge(QualitySpec(labels=LABELS), TEN)
    for second in range(1, 200):
        theirs = shares(0, 10) if second % 10 == 0 else shares(0, 0)
        judge.take("labels", interval(second, shares(1, 1), theirs))
    assert judge.log_value > ALARM


SPEC = RolloutSpec(
    stages=[MIRROR, TEN, ALL], limits=Limits(errors=0.05, p99=0.5), deadline=600, no_data=600, quality=EVERY
)


def staged(stage=MIRROR, spec=SPEC, seconds=20, pairs=(0, 15), wrong=(1, 1), mine=None, theirs=None):
    """A stage in which nothing fails and nothing is slow, and this is said every second."""
    judge = StageJudge(stage, spec, 0.005, 0.0, 600.0)
    edges, fast = (10.0, math.inf), (100.0, 0.0)
    rng = np.random.default_rng(7)
    for second in range(1, seconds + 1):
        answered = Did(100.0, 0.0, edges, fast)
        carried = Did(100.0 * (1 if stage.mirror else 9), 0.0, edges, fast)
        judge.take(interval(second, answered, carried))
        if judge.quality is not None:
            drawn = rng.beta(2, 3, 15)
            judge.quality.take("disagreement", interval(second, shares(*pairs)))
            judge.quality.take("predictions", interval(second, said(drawn if mine is None else mine), said(drawn)))
            judge.quality.take("labels", interval(second, shares(wrong[0], 5), shares(wrong[1], 5)))
    return judge


def test_an_equal_candidate_passes_with_its_samples_and_the_figures_are_on_record():
    verdict = staged().verdict(20.0)
    assert verdict.decision == "pass"
    assert {check.name: check.ok for check in verdict.checks} == {
        "errors": True, "p99": True, "disagreement": True, "predictions": True, "wrong by labels": True,
    }  # fmt: skip


def test_other_answers_to_the_same_inputs_fail_with_both_figures():
    verdict = staged(pairs=(6, 15), seconds=4).verdict(4.0)
    assert verdict.decision == "fail"
    assert verdict.reason.startswith(
        "answers otherwise than the champion: 24 of 60 of the same inputs differ by more than 0.1, allowed 5% ("
    )
    assert verdict.reason.endswith(" to 1 against it, limit 200)")


def test_other_predictions_fail_with_the_edge_at_which_they_are_furthest_apart():
    spec = SPEC.model_copy(update={"quality": QualitySpec(predictions=PREDICTIONS)})
    verdict = staged(spec=spec, mine=np.full(15, 0.97), seconds=10).verdict(10.0)
    assert verdict.decision == "fail"
    assert "its predictions are not distributed as the champion's: 0% are at most 0." in verdict.reason
    assert "allowed distance 10% (150 and 150 seen)" in verdict.reason


def test_wrong_answers_by_labels_fail_also_where_the_champion_has_no_traffic_left():
    verdict = staged(ALL, wrong=(5, 0), seconds=20).verdict(20.0)
    assert verdict.decision == "fail"
    assert "wrong more often than the champion: 100 of 100 labelled answers, the champion 0 of 100" in verdict.reason


def test_too_few_samples_hold_and_say_how_many_there_are():
    assert staged(seconds=8).verdict(8.0).reason == "too few inputs answered by both: 120 of 200"
    spec = SPEC.model_copy(update={"quality": QualitySpec(predictions=PREDICTIONS)})
    verdict = staged(spec=spec, seconds=8).verdict(8.0)
    assert (verdict.decision, verdict.reason) == ("hold", "too few predictions seen: 120 of 200")


@pytest.mark.parametrize("stage", [TEN, ALL])
def test_pairs_are_waited_for_only_under_a_mirror(stage):
    judge = QualityJudge(QualitySpec(disagreement=DISAGREEMENT), stage)
    assert judge.waiting(100.0) == ""
    assert QualityJudge(QualitySpec(disagreement=DISAGREEMENT), MIRROR).waiting(100.0) != ""


def test_predictions_are_waited_for_only_while_the_champion_has_traffic():
    assert QualityJudge(QualitySpec(predictions=PREDICTIONS), ALL).waiting(1.0) == ""
    assert "no data about its predictions" in QualityJudge(QualitySpec(predictions=PREDICTIONS), TEN).waiting(1.0)


def test_labels_are_never_waited_for():
    judge = QualityJudge(QualitySpec(labels=LABELS), TEN)
    assert judge.waiting(1.0) == ""
    judge.take("labels", interval(1, shares(3, 3), shares(0, 3)))
    assert judge.waiting(1.0) == ""


@pytest.mark.parametrize(
    ("last", "now", "says"),
    [
        (interval(21, None, said([0.1])), 21.0, "no data about its predictions"),
        (interval(21, said([0.1]), None), 21.0, "no data about the champion's predictions"),
        (interval(21, said([0.1]), said([0.1]), broken=True), 21.0, "counters of predictions began again"),
        (interval(21, said([0.1]), said([0.1])), 26.5, "stale data about its predictions: 5.5 s old, limit 5 s"),
    ],
)
def test_unknown_broken_and_stale_figures_of_what_is_said_hold(last, now, says):
    judge = staged()
    assert judge.quality.waiting(20.0) == ""
    judge.quality.take("disagreement", interval(26, shares(0, 15)))
    judge.quality.take("predictions", last)
    assert says in judge.quality.waiting(now)


def test_a_share_above_its_limit_that_is_not_sure_holds():
    spec = SPEC.model_copy(update={"quality": QualitySpec(disagreement=DISAGREEMENT)})
    verdict = staged(spec=spec, pairs=(1, 15)).verdict(20.0)
    assert verdict.decision == "hold"
    assert "20 of 300 of the same inputs differ" in verdict.reason
    assert verdict.reason.endswith("not enough to be sure, too much to pass")


def test_without_quality_the_evidence_is_that_of_errors_and_latency_alone_to_the_last_bit():
    plain = staged(spec=SPEC.model_copy(update={"quality": None}))
    verdict = plain.verdict(20.0)
    assert plain.quality is None
    assert verdict.figures["log_evidence"] == plain._alarm.log_value
    assert {check.name for check in verdict.checks} == {"errors", "p99"}


def test_with_quality_a_known_share_of_the_evidence_is_its_own():
    judge = StageJudge(MIRROR, SPEC, 0.005, 0.0, 600.0)
    assert judge.verdict(1.0).figures["log_evidence"] == pytest.approx(0.0, abs=1e-12)
    assert sum(quality.WEIGHTS.values()) == pytest.approx(1.0)
    assert sum(quality.MORE_PRIOR) == pytest.approx(1.0)
    noisy = staged(pairs=(6, 15), seconds=4)
    expected = math.log(
        (1 - PRIOR_SHARE) * math.exp(noisy._alarm.log_value) + PRIOR_SHARE * math.exp(noisy.quality.log_value)
    )
    assert noisy.verdict(4.0).figures["log_evidence"] == pytest.approx(expected)
