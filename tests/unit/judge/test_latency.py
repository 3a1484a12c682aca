"""Ratios of histograms: no shape is assumed, slower by the margin is no evidence, slower than that is."""

from __future__ import annotations

import numpy as np
import pytest

from tidegate.judge.latency import LATE, PRIOR, SLOWER, Past, ratios

EDGES = np.array([*(0.5 * 1.25**step for step in range(42)), np.inf])


def histogram(times) -> np.ndarray:
    return np.histogram(times, bins=[0.0, *EDGES])[0].astype(float)


def past_of(times) -> Past:
    return Past.empty(EDGES).after(histogram(times))


def lognormal(chance, median, spread, count):
    return median * np.exp(spread * chance.standard_normal(count))


def drift(mine, theirs, seconds=400, margin=1.25, past=None):
    """Return the mean of exp(log ratio) over many scrapes, per alternative; and the summed log ratios."""
    chance = np.random.default_rng(4)
    found = ratios(past or past_of(theirs(chance, 5000)), margin)
    each = np.array(
        [found.log_ratios(histogram(mine(chance, 20)), histogram(theirs(chance, 180))) for _ in range(seconds)]
    )
    return np.exp(each).mean(axis=0), each.sum(axis=0)


def test_the_alternatives_have_a_prior_that_sums_to_one():
    assert len(PRIOR) == len(SLOWER) + len(LATE)
    assert sum(PRIOR) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "theirs",
    [
        lambda chance, count: lognormal(chance, 5, 0.5, count),
        lambda chance, count: lognormal(chance, 5, 1.5, count),
        lambda chance, count: (
            np.where(chance.random(count) < 0.1, 300.0, 2.0) * np.exp(0.1 * chance.standard_normal(count))
        ),
    ],
)
@pytest.mark.parametrize("slower", [1.0, 1.25])
def test_a_candidate_slower_by_no_more_than_the_margin_gives_no_evidence_on_average(theirs, slower):
    mean, total = drift(lambda chance, count: slower * theirs(chance, count), theirs)
    assert (total < 3.0).all()
    assert (np.minimum(mean, 5.0)[: len(SLOWER) - 1] < 1.15).all()


def test_weather_that_both_feel_cancels_out_though_the_past_was_fair():
    def fair(chance, count):
        return lognormal(chance, 5, 0.5, count)

    def storm(chance, count):
        return lognormal(chance, 50, 0.9, count)

    _, total = drift(storm, storm, past=past_of(fair(np.random.default_rng(5), 5000)))
    assert (total < 3.0).all()


@pytest.mark.parametrize(("factor", "scrapes"), [(3.0, 2), (2.0, 5), (1.7, 15)])
def test_a_slower_candidate_is_found_in_a_few_scrapes_of_twenty_answers(factor, scrapes):
    def theirs(chance, count):
        return lognormal(chance, 5, 0.5, count)

    _, total = drift(lambda chance, count: factor * theirs(chance, count), theirs, seconds=scrapes)
    assert total.max() > 7.0


def test_a_few_very_late_answers_are_found():
    def theirs(chance, count):
        return lognormal(chance, 5, 0.5, count)

    def mine(chance, count):
        return theirs(chance, count) + 500.0 * (chance.random(count) < 0.05)

    _, total = drift(mine, theirs, seconds=30)
    assert total[len(SLOWER) :].max() > 7.0


def test_too_short_a_past_has_no_alternatives():
    assert ratios(past_of(np.full(150, 5.0)), 1.25) is None
    assert ratios(Past.empty(EDGES), 1.25) is None


def test_ratios_rise_with_the_category_which_the_proof_needs():
    found = ratios(past_of(lognormal(np.random.default_rng(6), 5, 0.8, 5000)), 1.25)
    assert (np.diff(found.log_ratio, axis=1) >= 0).all()
    assert (np.diff(found.candidate) > 0).all()


def test_every_answer_of_the_champion_is_in_a_category_once():
    found = ratios(past_of(lognormal(np.random.default_rng(6), 5, 0.8, 5000)), 1.25)
    assert found.champion.sum(axis=1) == pytest.approx(1.0)
    assert (found.champion >= 0).all()


def test_the_champion_times_the_margin_is_never_in_a_lower_category_than_itself():
    """So an identical candidate keeps the null hypothesis, whatever the buckets and the shape of latencies are."""
    past = past_of(lognormal(np.random.default_rng(6), 5, 0.8, 5000))
    found = ratios(past, 1.25)
    itself = np.cumsum(past.counts)[found.candidate]
    slower = np.cumsum(past.counts @ found.champion)[:-1]
    assert (slower <= itself + 1e-6).all()


COARSE = np.array([1.0, 4.0, 10.0, 40.0, 100.0, np.inf])


@pytest.mark.parametrize(("median", "spread"), [(2.0, 0.3), (5.0, 0.1), (9.9, 0.02), (30.0, 1.0)])
def test_coarse_buckets_give_no_evidence_against_an_identical_candidate(median, spread):
    chance = np.random.default_rng(8)

    def scrape(count):
        return np.histogram(lognormal(chance, median, spread, count), bins=[0.0, *COARSE])[0].astype(float)

    past = Past.empty(COARSE)
    for _ in range(30):
        past = past.after(scrape(200))
    found = ratios(past, 1.25)
    if found is not None:
        total = sum(found.log_ratios(scrape(20), scrape(180)) for _ in range(400))
        assert (total < 3.0).all()


def test_coarse_buckets_still_show_a_candidate_that_is_twice_as_slow():
    chance = np.random.default_rng(9)

    def scrape(count, median=5.0):
        return np.histogram(lognormal(chance, median, 0.5, count), bins=[0.0, *COARSE])[0].astype(float)

    past = Past.empty(COARSE)
    for _ in range(30):
        past = past.after(scrape(200))
    found = ratios(past, 1.25)
    assert sum(found.log_ratios(scrape(20, 10.0), scrape(180)) for _ in range(5)).max() > 7.0


def test_the_past_forgets():
    past = Past.empty(EDGES).after(histogram(np.full(1000, 5.0)))
    for _ in range(700):
        past = past.after(histogram(np.full(10, 50.0)))
    assert past.edge_above(0.5) > 35.0
