from __future__ import annotations

import json
import math

import pytest

from tidegate.handoff import Feature
from tidegate.wire import MISSING_INT
from tidegate.wire.kserve import batch, bodies

FEATURES = [
    Feature(name="carrier", encoding="vocabulary", dtype="BYTES", size=2),
    Feature(name="hour", encoding="vocabulary", dtype="INT64", size=24),
    Feature(name="distance", encoding="standardise", dtype="FP32", size=1),
]
COLUMNS = {"carrier": ['A"A', None], "hour": [5, None], "distance": [1.5, None], "late": [0, 1]}


def test_a_row_becomes_one_typed_tensor_per_feature_and_no_label() -> None:
    first = json.loads(bodies(FEATURES, COLUMNS)[0])
    assert first == {
        "inputs": [
            {"name": "carrier", "datatype": "BYTES", "shape": [1, 1], "data": ['A"A']},
            {"name": "hour", "datatype": "INT64", "shape": [1, 1], "data": [5]},
            {"name": "distance", "datatype": "FP32", "shape": [1, 1], "data": [1.5]},
        ]
    }


def test_missing_values_travel_as_the_serving_model_expects_them() -> None:
    values = [tensor["data"][0] for tensor in json.loads(bodies(FEATURES, COLUMNS)[1])["inputs"]]
    assert values[:2] == ["", MISSING_INT]
    assert math.isnan(values[2])


def test_a_batch_holds_the_rows_asked_for_and_the_last_one_what_is_left() -> None:
    columns = {name: values * 2 for name, values in COLUMNS.items()}
    tensors = json.loads(batch(FEATURES, columns, 3, 9))["inputs"]
    assert [tensor["shape"] for tensor in tensors] == [[1, 1]] * 3
    assert json.loads(batch(FEATURES, columns, 0, 3))["inputs"][1]["data"] == [5, MISSING_INT, 5]


def test_a_feature_without_a_column_is_refused() -> None:
    with pytest.raises(KeyError, match="hour"):
        bodies(FEATURES, {"carrier": ["AA"], "distance": [1.0]})


def test_a_request_names_itself_where_it_is_asked_to() -> None:
    columns = {"carrier": ["AA"], "hour": [5], "distance": [1.0]}
    bare, named = bodies(FEATURES, columns)[0], bodies(FEATURES, columns, 'a "name"')[0]
    assert "id" not in json.loads(bare)
    assert json.loads(named) == {"id": 'a "name"', **json.loads(bare)}
    assert json.loads(batch(FEATURES, columns, 0, 1, "x"))["id"] == "x"
