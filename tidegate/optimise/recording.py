"""Which held-out rows are recorded with their answers, and how their raw values are written down."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from tidegate.optimise.parity import spread
from tidegate.recorded import RecordedAnswers

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
    names = [feature.name for feature in dataset.features]
    table = pq.read_table(lake.local(dataset.key, "test.parquet"), columns=names).take(rows[some])
    columns = {feature.name: raw(feature, table.column(feature.name).to_pylist()) for feature in dataset.features}
    answers = tuple(float(value) for value in probabilities[some])
    return RecordedAnswers(tuple(int(row) for row in rows[some]), columns, answers, tolerance)


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
