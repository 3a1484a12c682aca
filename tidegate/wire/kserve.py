"""The KServe v2 protocol in JSON, as Triton speaks it: typed tensors [n, 1], one per feature.

Binary tensors cost Triton a little less to read, but need a header that differs from row to row, and a person can
neither read nor send them by hand.
https://github.com/kserve/kserve/blob/master/docs/predict-api/v2/required_api.md
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tidegate.handoff import Feature
from tidegate.wire import Predictions, columns_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidegate.wire import Columns

PREDICT, DESCRIBE = "/infer", ""


def prefix(model: str) -> str:
    """See Wire.prefix."""
    return f"/v2/models/{model}/"


def path(model: str, version: int | None = None) -> str:
    """See Wire.path; a server holds one version, and its answers name it."""
    return f"/v2/models/{model}"


def bodies(features: Sequence[Feature], columns: Columns, request_id: str = "") -> list[bytes]:
    """See Wire.bodies."""
    shown = columns_of(features, columns)
    return [_body(features, [[values[row]] for values in shown], request_id) for row in range(len(shown[0]))]


def batch(features: Sequence[Feature], columns: Columns, start: int, end: int, request_id: str = "") -> bytes:
    """See Wire.batch."""
    shown = columns_of(features, {name: values[start:end] for name, values in columns.items()})
    return _body(features, shown, request_id)


def predictions(answer: Any) -> Predictions:
    """See Wire.predictions."""
    version = str(answer.get("model_version", "(unnamed)"))  # optional by the protocol; Triton gives it
    return Predictions([float(value) for value in answer["outputs"][0]["data"]], version)


def inputs(answer: Any) -> list[Feature]:
    """See Wire.inputs."""
    return [
        Feature(name=found["name"], encoding="standardise", dtype=found["datatype"], size=1)
        for found in answer["inputs"]
    ]


def _body(features: Sequence[Feature], values: list[list[str]], request_id: str) -> bytes:
    inputs = ",".join(
        f'{{"name":"{feature.name}","datatype":"{feature.dtype}","shape":[{len(shown)},1],"data":[{",".join(shown)}]}}'
        for feature, shown in zip(features, values, strict=True)
    )
    named = f'"id":{json.dumps(request_id)},' if request_id else ""
    return f'{{{named}"inputs":[{inputs}]}}'.encode()
