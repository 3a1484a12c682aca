"""The figures as a whole: what is given, what is too few, what differs for sure."""

from __future__ import annotations

import numpy as np
import pytest

from tidegate.evaluate.figures import Figures, Predictions, figures
from tidegate.evaluate.groups import Rows
from tidegate.evaluate.words import flat, lines, surely
from tidegate.metrics import auc, log_loss

ROWS = 6000


def predictions(candidate=0.3, champion: float | None = 0.3, seed=1, dependent=True):
    """Two models that see one signal with noise of their own, on rows of 60 days."""
    random = np.random.default_rng(seed)
    logit = random.normal(-1, 1.5, ROWS)
    labels = (random.random(ROWS) < 1 / (1 + np.exp(-logit))) * 1.0
    said = [
        None if noise is None else 1 / (1 + np.exp(-(logit + random.normal(0, noise, ROWS))))
        for noise in (candidate, champion)
    ]
    return Predictions(labels, said[0], said[1], np.arange(ROWS) // 100 if dependent else None)


def by(**groups):
    return {"carrier": [Rows(name, np.asarray(rows)) for name, rows in groups.items()]}


def test_all_rows_have_the_figures_that_training_and_the_gate_compute():
    rows = predictions()
    overall = figures(rows, 0.25, {}, 200).overall
    assert overall.candidate is not None
    assert overall.candidate.auc.value == pytest.approx(auc(rows.labels, rows.candidate))
    assert overall.candidate.log_loss.value == pytest.approx(log_loss(rows.labels, rows.candidate))
    assert overall.candidate.brier.value == pytest.approx(np.mean((rows.candidate - rows.labels) ** 2))
    assert overall.candidate.mean_prediction == pytest.approx(rows.candidate.mean())
    assert overall.positive_share == pytest.approx(rows.labels.mean())
    assert overall.base_log_loss == pytest.approx(log_loss(rows.labels, np.full(ROWS, 0.25)))
    for interval in (overall.candidate.auc, overall.candidate.log_loss, overall.candidate.brier):
        assert interval.low < interval.value < interval.high


def test_a_model_beside_itself_differs_by_nothing_at_all():
    rows = predictions()
    same = Predictions(rows.labels, rows.candidate, rows.candidate, rows.clusters)
    apart = figures(same, 0.25, {}, 200).overall.difference
    assert apart is not None
    assert (apart.auc.low, apart.auc.value, apart.auc.high) == (0, 0, 0)
    assert apart.surely == {}


@pytest.mark.parametrize("dependent", [True, False])
def test_a_clearly_better_and_a_clearly_worse_candidate_are_said_to_be_so_in_every_figure(dependent):
    better = figures(predictions(0.1, 1.5, dependent=dependent), 0.25, {}, 200).overall.difference
    worse = figures(predictions(1.5, 0.1, dependent=dependent), 0.25, {}, 200).overall.difference
    assert better is not None
    assert worse is not None
    assert better.surely == dict.fromkeys(("auc", "log_loss", "brier"), "better")
    assert worse.surely == dict.fromkeys(("auc", "log_loss", "brier"), "worse")
    assert better.auc.value > 0 > better.log_loss.value


def test_equally_good_models_rarely_differ_for_sure_in_any_of_twenty_groups():
    cuts = by(**{f"g{number}": np.arange(number, ROWS, 20) for number in range(20)})
    wrong = plain = 0
    for seed in range(24):
        found = figures(predictions(0.5, 0.5, seed, dependent=False), 0.25, cuts, 200)
        groups = [each.difference for each in found.by["carrier"] if each.difference]
        assert len(groups) == 20
        wrong += any("auc" in each.surely for each in groups)
        plain += any(each.auc.excludes_zero for each in groups)
    assert wrong <= 4, "5% of 24 runs are 1"
    assert plain > 8, "without the correction most runs would have blamed some group"


def test_groups_with_too_few_rows_or_too_few_of_a_label_say_so_and_have_no_figures():
    rows = predictions()
    negative = np.flatnonzero(rows.labels == 0)
    cuts = by(large=np.arange(3000), small=np.arange(150), onesided=negative[:300])
    large, small, onesided = figures(rows, 0.25, cuts, 200).by["carrier"]
    assert large.few is None
    assert large.difference is not None
    assert (small.few, small.candidate, small.difference) == ("150 rows, fewer than 200", None, None)
    assert onesided.few == "0 positive rows, fewer than 10"
    assert small.positive_share == pytest.approx(rows.labels[:150].mean())


def test_without_a_champion_there_is_no_comparison():
    found = figures(predictions(champion=None), 0.25, by(a=np.arange(1000)), 200)
    assert found.overall.champion is None
    assert found.overall.difference is None
    assert list(found.reliability) == ["candidate"]
    assert found.roc.champion is None
    assert not any(name.startswith(("champion", "difference")) for name in flat(found.overall))


def test_rows_of_too_few_days_have_figures_without_intervals():
    rows = predictions()
    few = Predictions(rows.labels, rows.candidate, rows.champion, np.arange(ROWS) // 1000)
    overall = figures(few, 0.25, {}, 200).overall
    assert overall.candidate is not None
    assert overall.difference is not None
    assert overall.candidate.auc.low is None
    assert overall.difference.surely == {}


def test_figures_come_back_from_their_json():
    found = figures(predictions(), 0.25, by(a=np.arange(1000), b=np.arange(20)), 200)
    assert Figures.model_validate_json(found.model_dump_json()) == found


def test_figures_in_words():
    found = figures(predictions(1.5, 0.1), 0.25, by(UA=np.arange(4000), AS=np.arange(60)), 200)
    first, second, third = lines(found)
    assert first.startswith("all rows: 6000 rows, AUC 0.")
    assert "auc surely worse" in second
    assert third == "carrier AS: too few: 60 rows, fewer than 200"
    assert list(surely(found, "worse"))[1] == "carrier UA: auc, log_loss, brier"
    assert list(surely(found, "better")) == []
    named = flat(found.overall)
    assert named["difference_auc_low"] < named["difference_auc"] < named["difference_auc_high"] < 0
    assert named["rows"] == 6000


def test_the_band_of_the_roc_difference_holds_nought_for_equal_models_and_not_for_unequal_ones():
    equal, unequal = (figures(predictions(*noise), 0.25, {}, 200).roc for noise in ((0.5, 0.5), (0.1, 1.5)))
    inside = [low <= 0 <= high for low, high in zip(equal.low, equal.high, strict=True)]
    assert np.mean(inside) > 0.8
    middle = slice(10, 60)
    assert min(unequal.low[middle]) > 0
    assert figures(predictions(0.1, 1.5), 0.25, {}, 200).roc == unequal, "the same rows give the same band"


def test_a_roc_curve_rises_from_nothing_to_all_and_bears_the_auc():
    rows = predictions()
    curve = figures(rows, 0.25, {}, 200).roc
    assert curve.candidate[-1] == 1.0
    assert (np.diff(curve.candidate) >= 0).all()
    area = np.trapezoid(curve.candidate, curve.false_positive_rate)
    assert area == pytest.approx(auc(rows.labels, rows.candidate), abs=2e-3)
