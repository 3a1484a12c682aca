"""Encodings: frozen once, applied alike everywhere."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from tidegate.contract.encodings import Encodings, standardise, vocabulary


def test_an_unknown_or_missing_category_gets_the_index_after_the_last() -> None:
    carrier = vocabulary("carrier", ["UA", "AA", "UA", None])

    assert carrier.vocabulary == ("AA", "UA")
    assert carrier.size == 2
    assert carrier.encode(np.array(["UA", "AA", "ZZ", None], dtype=object)).tolist() == [1, 0, 2, 2]


def test_text_is_known_as_bytes_too_and_the_shape_is_kept() -> None:
    found = vocabulary("c", ["b", "ä"]).encode(np.array([["ä".encode()], [b"b"], [b"?"]], dtype=object))

    assert found.tolist() == [[1], [0], [2]]
    assert found.dtype == np.int64


def test_integers_are_a_vocabulary_too_and_nan_is_unknown() -> None:
    flight = vocabulary("flight", [1545, 11])

    assert flight.dtype == "INT64"
    assert flight.encode(np.array([11, 1545, 7], dtype=np.int64)).tolist() == [0, 1, 2]
    assert flight.encode(np.array([11.0, np.nan])).tolist() == [0, 2]


def test_a_standardised_feature_has_mean_zero_and_a_missing_value_is_the_mean() -> None:
    feature = standardise("x", np.array([1.0, 3.0, np.nan]))
    found = feature.encode(np.array([1.0, 3.0, np.nan, np.inf]))

    assert found.tolist() == [-1.0, 1.0, 0.0, 0.0]
    assert found.dtype == np.float32
    assert feature.encode(np.array([None, 3.0], dtype=object)).tolist() == [0.0, 1.0]


def test_a_constant_or_empty_column_does_not_divide_by_zero() -> None:
    assert standardise("x", np.array([5.0, 5.0])).encode(np.array([5.0, 6.0])).tolist() == [0.0, 1.0]
    assert standardise("x", np.array([np.nan])).encode(np.array([2.0])).tolist() == [2.0]


def test_json_brings_back_the_same_encodings_and_the_same_text() -> None:
    known = Encodings((vocabulary("c", ["b", "a"]), vocabulary("n", [3, 1]), standardise("x", np.array([0.1, 0.3]))))
    text = known.to_json()

    assert Encodings.from_json(text) == known
    assert Encodings.from_json(text).to_json() == text


def test_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match="format 99"):
        Encodings.from_json('{"format": 99, "features": []}')


def test_a_missing_column_is_named() -> None:
    with pytest.raises(KeyError, match="no column for the features c"):
        Encodings((vocabulary("c", ["a"]),)).encode({"d": np.array(["a"])})


def test_importing_them_loads_numpy_and_nothing_heavier() -> None:
    heavy = "{'yaml', 'pydantic', 'pyarrow', 'jsonschema', 'duckdb'}"
    code = f"import sys, tidegate.contract.encodings; sys.exit(' '.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
