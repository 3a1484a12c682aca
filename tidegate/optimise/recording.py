"""Which held-out rows are recorded with their answers, and how their raw values are written down."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from tidegate.optimise.parity import spread
from tidegate.recorded import RecordedAnswers
from tidegate.wire import MISSING_INT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from tidegate.handoff import Dataset, Feature
    from tidegate.lake import Lake

ROWS = 64
"""Recorded at most, spread over the compared rows; asked one by one they take a server about 0.1 s."""


def record(
    lake: Lake, dataset: Dataset, rows: NDArray[Any], probabilities: NDArray[Any], tolerance: float
) -> RecordedAnswers:
    """Record some of the compared rows of test.parquet with the SavedModel's probabilities.

    Args:
        lake: where the dataset is.
        dataset: whose held-out rows they are.
        rows: numbers [n] of the compared rows in test.parquet.
        probabilities: what the SavedModel gave them, [n].
        tolerance: the largest absolute difference that the delivery allows.
    """
    some = spread(len(rows), ROWS)
    columns = raw_rows(lake, dataset, rows[some])
    answers = tuple(float(value) for value in probabilities[some])
    return RecordedAnswers(tuple(int(row) for row in rows[some]), columns, answers, tolerance)


def as_sent(lake: Lake, dataset: Dataset, rows: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return rows of test.parquet as a server gets them: per feature a column [n, 1] of its type, see `tidegate.wire`.

    Args:
        lake: where the dataset is.
        dataset: whose held-out rows they are.
        rows: their numbers, [n].
    """
    columns = raw_rows(lake, dataset, rows)
    return {feature.name: tensor(feature, columns[feature.name]) for feature in dataset.features}


def raw_rows(lake: Lake, dataset: Dataset, rows: NDArray[Any]) -> dict[str, tuple[Any, ...]]:
    """Return rows of test.parquet by feature, as `raw` has them."""
    names = [feature.name for feature in dataset.features]
    table = pq.read_table(lake.local(dataset.key, "test.parquet"), columns=names).take(rows)
    return {feature.name: raw(feature, table.column(feature.name).to_pylist()) for feature in dataset.features}


def tensor(feature: Feature, values: Sequence[Any]) -> NDArray[Any]:
    """Return a column [n, 1] of raw values (None is missing) in the type that the feature has on the wire."""
    missing, kind = _TENSORS[feature.dtype]
    return np.asarray([missing if value is None else value for value in values], dtype=kind).reshape(-1, 1)


def raw(feature: Feature, values: Sequence[Any]) -> tuple[Any, ...]:
    """Return a column's raw values as JSON has them: text, integer or number by the feature's dtype, None if missing.

    A number that is not finite is missing too: the encodings make no difference between them.
    """
    plain = _PLAIN[feature.dtype]
    return tuple(None if value is None else plain(value) for value in values)


def _number(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


_PLAIN: dict[str, Callable[[Any], Any]] = {"BYTES": str, "INT64": int, "FP32": _number}
_TENSORS: dict[str, tuple[Any, Any]] = {
    "BYTES": ("", object),
    "INT64": (MISSING_INT, np.int64),
    "FP32": (np.nan, np.float32),
}
