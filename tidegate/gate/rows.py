"""Rows as bodies of KServe v2 requests, in JSON: typed tensors [n, 1], one per feature.

Binary tensors cost Triton a little less to read, but need a header that differs from row to row, and a person can
neither read nor send them by hand. Missing values travel as `tidegate.clients.triton_model` says.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tidegate.handoff import Feature

    Columns = Mapping[str, Sequence[Any]]

MISSING_INT = -(2**63)


def bodies(features: Sequence[Feature], columns: Columns) -> list[bytes]:
    """Return one request body per row of the columns (None is a missing value), in their order.

    Raises:
        KeyError: a feature has no column.
    """
    shown = _columns(features, columns)
    return [_body(features, [[values[row]] for values in shown]) for row in range(len(shown[0]))]


def batch(features: Sequence[Feature], columns: Columns, start: int, end: int) -> bytes:
    """Return one request body for the rows [start, end).

    Raises:
        KeyError: a feature has no column.
    """
    return _body(features, _columns(features, {name: values[start:end] for name, values in columns.items()}))


def _columns(features: Sequence[Feature], columns: Columns) -> list[list[str]]:
    return [[_value(feature, value) for value in columns[feature.name]] for feature in features]


def _value(feature: Feature, value: Any) -> str:
    if feature.dtype == "BYTES":
        return json.dumps("" if value is None else str(value))
    if feature.dtype == "INT64":
        return str(MISSING_INT if value is None else int(value))
    return json.dumps(float("nan") if value is None else float(value))  # NaN as Triton's parser reads it


def _body(features: Sequence[Feature], values: list[list[str]]) -> bytes:
    inputs = ",".join(
        f'{{"name":"{feature.name}","datatype":"{feature.dtype}","shape":[{len(shown)},1],"data":[{",".join(shown)}]}}'
        for feature, shown in zip(features, values, strict=True)
    )
    return f'{{"inputs":[{inputs}]}}'.encode()
