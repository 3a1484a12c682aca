"""Rows that are read in pieces: each once, in an order that depends on seed and epoch only."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.contract.encodings import Encodings, standardise
from tidegate.errors import DataError
from tidegate.handoff import Dataset, Window
from tidegate.lake import Lake
from tidegate.train.cluster import Place, Steps
from tidegate.train.rows import HeldRows, StoredRows, open_rows, pieces

ROWS = 1000
KEY = "datasets/d/w"


def published(folder, labels=None, group=64):
    """A dataset whose one feature is the row's number."""
    lake = Lake(f"file://{folder}")
    encodings = Encodings((standardise("number", np.array([-1.0, 1.0])),))
    table = pa.table({"number": np.arange(ROWS, dtype=float), "late": labels or [n % 4 == 0 for n in range(ROWS)]})
    with lake.publish(KEY) as draft:
        pq.write_table(table, draft.file("train.parquet"), row_group_size=group)
        draft.file("encodings.json").write_text(encodings.to_json())
    window = Window(start="2013-01-01", end="2013-02-01")
    fields = {"delivery": "d", "window": window, "label": "late", "features": [], "slices": {}}
    digest = lake.require(KEY)["digest"]
    return lake, Dataset(key=KEY, train_rows=ROWS, test_rows=0, digest=digest, **fields)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return open_rows(*published(tmp_path_factory.mktemp("rows")), memory=100)


def numbers(rows, place, steps, seed, first, count):
    """The first `count` steps' row numbers, a list for each step."""
    found = itertools.chain.from_iterable(
        piece.columns["number"].reshape(-1).tolist() for piece in pieces(rows, place, steps, seed, first)
    )
    return [[round(next(found)) for _ in range(steps.local)] for _ in range(count)]


def test_what_fits_is_held_and_what_does_not_is_left_in_its_file(tmp_path):
    lake, dataset = published(tmp_path)
    held, left = open_rows(lake, dataset, memory=8 * ROWS), open_rows(lake, dataset, memory=8 * ROWS - 1)
    assert isinstance(held, HeldRows)
    assert isinstance(left, StoredRows)
    assert len(held) == len(left) == ROWS
    assert held.base_rate() == left.base_rate() == 0.25
    assert len({held.digest(), left.digest()}) == 2


@settings(max_examples=30, deadline=None)
@given(workers=st.integers(1, 4), batch=st.integers(4, 300), seed=st.integers(0, 9))
def test_in_an_epoch_no_row_comes_twice_and_few_are_left_out(stored, workers, batch, seed):
    steps = Steps.cut(ROWS, batch, workers)
    seen = [
        number
        for rank in range(workers)
        for step in numbers(stored, Place(rank, workers), steps, seed, 0, steps.count)
        for number in step
    ]
    assert len(seen) == len(set(seen)) == steps.count * steps.local * workers
    assert ROWS - len(seen) < steps.local * workers


@settings(max_examples=30, deadline=None)
@given(first=st.integers(0, 90), rank=st.integers(0, 1), batch=st.integers(20, 200))
def test_from_any_step_on_the_rows_are_those_of_an_unbroken_run(stored, first, rank, batch):
    steps, place = Steps.cut(ROWS, batch, 2), Place(rank, 2)
    unbroken = numbers(stored, place, steps, 3, 0, first + 5)
    assert numbers(stored, place, steps, 3, first, 5) == unbroken[first:]


def test_epochs_have_other_orders_and_rows_of_other_groups_are_mixed(stored):
    steps = Steps.cut(ROWS, 100, 1)
    first, second = (numbers(stored, Place(), steps, 3, epoch * steps.count, 1)[0] for epoch in (0, 1))
    assert first != second
    assert len({number // 64 for number in first}) > 2


def test_a_row_without_a_label_is_refused_before_training(tmp_path):
    lake, dataset = published(tmp_path, [None, *([1] * (ROWS - 1))])
    with pytest.raises(DataError, match=r"1 rows of datasets/d/w/train\.parquet have no label"):
        open_rows(lake, dataset, memory=100)
