"""Envoy's buckets end where the next number of two digits begins; ours are made to end where the judge wants them."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from tidegate.clients.envoy_histogram import EDGES_MS, bucket_of, edge_of


@pytest.mark.parametrize(
    ("bucket", "edge"), [(0.5, 1), (1, 2), (5, 6), (9, 10), (10, 11), (99, 100), (100, 110), (250, 260), (1000, 1100)]
)
def test_a_bucket_holds_all_that_counts_as_its_number(bucket, edge):
    assert edge_of(bucket) == edge


def test_the_last_bucket_has_no_end():
    assert edge_of(math.inf) == math.inf


@pytest.mark.parametrize("edge", EDGES_MS)
def test_every_edge_is_where_its_bucket_ends(edge):
    assert edge_of(bucket_of(edge)) == pytest.approx(edge)


def test_a_margin_of_a_fourth_finds_an_edge_nearby():
    for edge in EDGES_MS[3:-1]:
        assert min(other for other in (*EDGES_MS, math.inf) if other >= 1.25 * edge) <= 1.6 * edge


def test_edges_ascend():
    assert all(before < after for before, after in pairwise(EDGES_MS))
