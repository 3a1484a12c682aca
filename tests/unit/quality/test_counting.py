"""What versions say, counted: pairs, labels in any order, bounded memory."""

from __future__ import annotations

import math

import pytest

from tidegate.quality.counting import EDGES, Counting
from tidegate.served import Served


def served(prediction, digest="d", request_id=""):
    return Served(request_id, digest, {}, prediction, 1.0)


@pytest.fixture
def counting():
    found = Counting(above=0.1)
    found.begin("v1")
    found.begin("v2")
    return found


def pairs(counting, one="v2", other="v1"):
    version = counting.versions[one]
    return version.pairs[other], version.disagreements[other]


def wrong(counting, name):
    return counting.versions[name].labelled, counting.versions[name].wrong


def test_a_prediction_falls_into_the_bucket_whose_edge_it_does_not_pass(counting):
    for prediction in (0.0, 0.05, 0.051, 1.0, 1.5, math.nan, math.inf, -0.2):
        counting.saw("v1", served(prediction))
    buckets = counting.versions["v1"].buckets
    assert buckets[EDGES.index(0.0)] == 2
    assert buckets[EDGES.index(0.05)] == buckets[EDGES.index(0.1)] == buckets[EDGES.index(1.0)] == 1
    assert buckets[-1] == 3
    assert counting.versions["v1"].total == pytest.approx(0.0 + 0.05 + 0.051 + 1.0 + 1.5 - 0.2)


@pytest.mark.parametrize(
    ("mine", "theirs", "differ"), [(0.3, 0.35, 0), (0.3, 0.45, 1), (0.45, 0.3, 1), (math.nan, 0.3, 1)]
)
def test_the_same_input_at_both_is_a_pair_seen_from_both_sides(counting, mine, theirs, differ):
    counting.saw("v1", served(theirs))
    counting.saw("v2", served(mine))
    assert pairs(counting) == pairs(counting, "v1", "v2") == (1, differ)


def test_an_input_counts_once_however_often_it_comes(counting):
    for _ in range(5):
        counting.saw("v1", served(0.3))
        counting.saw("v2", served(0.9))
    counting.saw("v2", served(0.9, "another"))
    assert pairs(counting) == (1, 1)
    assert sum(counting.versions["v2"].buckets) == 6


def test_labels_find_answers_in_either_order_and_count_once(counting):
    counting.saw("v1", served(0.9, "a", "r1"))
    counting.labelled("r1", 0)
    counting.labelled("r2", 1)
    counting.saw("v1", served(0.9, "b", "r2"))
    counting.saw("v2", served(0.4, "b", "r2"))
    counting.labelled("r2", 1)
    counting.saw("v2", served(0.4, "b", "r2"))
    assert (wrong(counting, "v1"), wrong(counting, "v2")) == ((2, 1), (1, 1))


def test_no_number_is_wrong_whatever_the_label(counting):
    counting.saw("v1", served(math.nan, "a", "r1"))
    counting.labelled("r1", 1)
    assert wrong(counting, "v1") == (1, 1)


def test_an_answer_without_an_id_gets_no_label(counting):
    counting.saw("v1", served(0.9))
    counting.labelled("", 0)
    assert wrong(counting, "v1") == (0, 0)


def test_what_was_served_before_is_found_and_not_counted(counting):
    counting.remember("v1", served(0.9, "a", "r1"))
    assert sum(counting.versions["v1"].buckets) == 0
    counting.saw("v2", served(0.2, "a"))
    counting.labelled("r1", 0)
    assert pairs(counting) == (1, 1)
    assert wrong(counting, "v1") == (1, 1)


def test_a_version_that_went_is_forgotten_and_may_come_again(counting):
    counting.saw("v1", served(0.3, "a", "r1"))
    counting.saw("v2", served(0.9, "a", "r1"))
    counting.end("v2")
    assert set(counting.versions) == {"v1"}
    assert counting.versions["v1"].pairs == {}
    counting.labelled("r1", 1)
    counting.begin("v2")
    assert pairs(counting) == (0, 0)
    counting.saw("v2", served(0.9, "a", "r1"))
    assert pairs(counting) == (1, 1)
    assert wrong(counting, "v2") == (1, 0)


def test_memory_is_bounded_and_keeps_the_newest():
    counting = Counting(above=0.1, remembered=10)
    counting.begin("v1")
    counting.begin("v2")
    for number in range(100):
        counting.saw("v1", served(0.5, f"d{number}", f"r{number}"))
    assert len(counting._inputs) == len(counting._ids) == 10
    for number in range(100):
        counting.labelled(f"r{number}", 1)
    assert wrong(counting, "v1")[0] <= 10
    counting.saw("v2", served(0.5, "d99"))
    counting.saw("v2", served(0.5, "d0"))
    assert pairs(counting) == (1, 0)
