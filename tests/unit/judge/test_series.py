"""From counters to what was done between two scrapes: restarts, gaps and strangers are told apart."""

from __future__ import annotations

import math

import pytest

from tidegate.judge.series import Sample, Scrape, intervals

INF = math.inf


def did(*scrapes, champion="a"):
    return list(intervals(scrapes, "b", champion))


def test_differences_are_exact_and_buckets_are_no_longer_cumulative():
    before = Scrape(10.0, {"a": Sample(100, 1, {5.0: 90, INF: 100}), "b": Sample(10, 0, {5.0: 9, INF: 10})})
    after = Scrape(11.0, {"a": Sample(190, 2, {5.0: 150, INF: 190}), "b": Sample(30, 4, {5.0: 19, INF: 30})})
    (one,) = did(before, after)
    assert (one.start, one.end, one.broken) == (10.0, 11.0, False)
    assert (one.candidate.requests, one.candidate.errors, one.candidate.buckets) == (20, 4, (10.0, 10.0))
    assert (one.champion.requests, one.champion.buckets, one.champion.edges) == (90, (60.0, 30.0), (5.0, INF))


def test_a_version_that_a_scrape_does_not_show_yet_has_answered_nothing():
    (one,) = did(Scrape(1.0, {"a": Sample(5)}), Scrape(2.0, {"a": Sample(7), "b": Sample(3, 2)}))
    assert (one.candidate.requests, one.candidate.errors) == (3, 2)
    assert not one.broken


def test_a_scrape_that_saw_nobody_is_no_baseline():
    (one,) = did(Scrape(1.0, {}), Scrape(2.0, {"a": Sample(500), "b": Sample(300)}))
    assert (one.candidate, one.champion) == (None, None)


def test_a_counter_that_fell_began_again_and_breaks_the_interval():
    (one,) = did(
        Scrape(1.0, {"a": Sample(500, 9), "b": Sample(50, 5)}), Scrape(2.0, {"a": Sample(510, 9), "b": Sample(4, 1)})
    )
    assert (one.candidate.requests, one.candidate.errors) == (4, 1)
    assert one.broken


@pytest.mark.parametrize("bad", [Sample(math.nan), Sample(20, math.nan), Sample(20, 0, {INF: math.nan}), Sample(-1)])
def test_what_is_no_number_is_unknown_and_not_zero(bad):
    good = Scrape(1.0, {"a": Sample(1), "b": Sample(10, 0, {INF: 10})})
    assert did(good, Scrape(2.0, {"a": Sample(2), "b": bad}))[0].candidate is None
    assert did(Scrape(0.0, {"a": Sample(1), "b": bad}), good)[0].candidate is None


def test_a_missing_scrape_breaks_the_interval():
    scrapes = [Scrape(at, {"a": Sample(at), "b": Sample(at)}) for at in (1.0, 2.0, 9.0)]
    assert [one.broken for one in did(*scrapes)] == [False, True]


def test_a_version_that_vanished_is_unknown():
    (one,) = did(Scrape(1.0, {"a": Sample(1), "b": Sample(1)}), Scrape(2.0, {"a": Sample(2)}))
    assert one.candidate is None
    assert one.champion.requests == 1
