"""A dataset's rows as a model sees them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidegate.contract.encodings import Encodings, standardise, vocabulary
from tidegate.encoded import read_rows
from tidegate.errors import DataError
from tidegate.handoff import Dataset, Window
from tidegate.lake import Lake

KEY = "datasets/d/w"


def publish(folder, late):
    lake = Lake(f"file://{folder}")
    table = pa.table({"origin": ["JFK", "LGA", None], "number": [7, None, 9], "delay": [1.0, None, 3.0], "late": late})
    encodings = Encodings(
        (vocabulary("origin", ["JFK", "LGA"]), vocabulary("number", [7, 8]), standardise("delay", np.array([1.0, 3.0])))
    )
    with lake.publish(KEY) as draft:
        pq.write_table(table, draft.file("train.parquet"))
        draft.file("encodings.json").write_text(encodings.to_json())
    dataset = Dataset(
        delivery="d",
        window=Window(start="2013-01-01", end="2013-02-01"),
        key=KEY,
        train_rows=3,
        test_rows=0,
        label="late",
        features=[],
        digest=lake.require(KEY)["digest"],
        slices={},
    )
    return lake, dataset


def test_missing_and_unknown_values_become_the_last_index_or_zero(tmp_path):
    rows = read_rows(*publish(tmp_path, [0, 1, 1]), "train")
    assert rows.columns["origin"].tolist() == [[0], [1], [2]]
    assert rows.columns["number"].tolist() == [[0], [2], [2]]
    assert rows.columns["delay"].tolist() == [[-1.0], [0.0], [1.0]]
    assert (rows.columns["origin"].dtype, rows.columns["delay"].dtype) == (np.int64, np.float32)
    assert (rows.labels.tolist(), rows.labels.dtype) == ([[0.0], [1.0], [1.0]], np.float32)
    assert rows.take(np.array([2, 0])).labels.tolist() == [[1.0], [0.0]]


def test_a_dataset_built_anew_since_the_handoff_is_refused(tmp_path):
    lake, dataset = publish(tmp_path, [0, 1, 1])
    publish(tmp_path, [1, 1, 1])
    with pytest.raises(DataError, match="built anew"):
        read_rows(lake, dataset, "train")


def test_a_row_without_a_label_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"1 rows .* no label"):
        read_rows(*publish(tmp_path, [0, None, 1]), "train")
