from __future__ import annotations

import json
import math

import pytest

from tidegate.handoff import Feature
from tidegate.wire import MISSING_INT, prefixes, wire
from tidegate.wire.tfserving import batch, bodies, inputs, path, predictions, prefix

FEATURES = [
    Feature(name="carrier", encoding="vocabulary", dtype="BYTES", size=2),
    Feature(name="hour", encoding="vocabulary", dtype="INT64", size=24),
    Feature(name="distance", encoding="standardise", dtype="FP32", size=1),
]
COLUMNS = {"carrier": ['A"A', None], "hour": [5, None], "distance": [1.5, None], "late": [0, 1]}


def test_a_row_becomes_one_column_per_feature_and_no_label() -> None:
    first = json.loads(bodies(FEATURES, COLUMNS)[0])
    assert first == {"inputs": {"carrier": [['A"A']], "hour": [[5]], "distance": [[1.5]]}}


def test_missing_values_travel_as_the_graph_expects_them() -> None:
    missing = json.loads(bodies(FEATURES, COLUMNS)[1])["inputs"]
    assert (missing["carrier"], missing["hour"]) == ([[""]], [[MISSING_INT]])
    assert math.isnan(missing["distance"][0][0])


def test_a_batch_holds_the_rows_asked_for() -> None:
    columns = {name: values * 2 for name, values in COLUMNS.items()}
    assert json.loads(batch(FEATURES, columns, 0, 3))["inputs"]["hour"] == [[5], [MISSING_INT], [5]]
    with pytest.raises(KeyError, match="hour"):
        batch(FEATURES, {"carrier": ["AA"], "distance": [1.0]}, 0, 1)


def test_an_answer_has_probabilities_and_no_version_so_the_path_names_it() -> None:
    found = predictions({"outputs": [[0.25], [0.5]]})
    assert (found.probabilities, found.version) == ([0.25, 0.5], None)
    assert path("flights", 7) + ":predict" == "/v1/models/flights/versions/7:predict"
    with pytest.raises(KeyError):
        predictions({"error": "Servable not found"})


def test_the_prefix_is_of_this_model_alone_and_of_no_version_or_label() -> None:
    assert (path("flights") + ":predict").startswith(prefix("flights"))
    for other in (path("flights_late") + ":predict", path("flights", 7) + ":predict", "/v1/models/flights"):
        assert not other.startswith(prefix("flights"))
    assert prefixes("flights") == {"/v1/models/flights:", "/v2/models/flights/"}


def test_inputs_are_read_from_the_signature_with_their_types() -> None:
    tensors = {"hour": {"dtype": "DT_INT64"}, "carrier": {"dtype": "DT_STRING"}, "distance": {"dtype": "DT_FLOAT"}}
    answer = {"metadata": {"signature_def": {"signature_def": {"serving_default": {"inputs": tensors}}}}}
    assert {each.name: each.dtype for each in inputs(answer)} == {
        "carrier": "BYTES", "distance": "FP32", "hour": "INT64",
    }  # fmt: skip


def test_both_protocols_ask_for_a_prediction_below_their_prefix() -> None:
    for name in ("kserve", "tfserving"):
        spoken = wire(name)  # type: ignore[arg-type]
        assert (spoken.path("flights") + spoken.PREDICT).startswith(spoken.prefix("flights"))
