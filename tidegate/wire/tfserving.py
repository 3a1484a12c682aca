"""TensorFlow Serving's own REST protocol: columns [n, 1] by feature in, probabilities [n, 1] out.

Its answers do not name the version, so whoever must know it asks /versions/<n>, which no other version answers.
https://github.com/tensorflow/serving/blob/master/tensorflow_serving/g3doc/api_rest.md
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from tidegate.handoff import Feature
from tidegate.wire import Predictions, columns_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidegate.wire import Columns

PREDICT, DESCRIBE = ":predict", "/metadata"
_DTYPES: dict[str, Literal["BYTES", "INT64", "FP32"]] = {"DT_STRING": "BYTES", "DT_INT64": "INT64", "DT_FLOAT": "FP32"}


def prefix(model: str) -> str:
    """See Wire.prefix; the colon keeps out /versions/<n> and /labels/<l>, which would go round the weights."""
    return f"/v1/models/{model}:"


def path(model: str, version: int | None = None) -> str:
    """See Wire.path."""
    return f"/v1/models/{model}" if version is None else f"/v1/models/{model}/versions/{version}"


def bodies(features: Sequence[Feature], columns: Columns, request_id: str = "") -> list[bytes]:
    """See Wire.bodies; the protocol has no id."""
    shown = columns_of(features, columns)
    return [_body(features, [[values[row]] for values in shown]) for row in range(len(shown[0]))]


def batch(features: Sequence[Feature], columns: Columns, start: int, end: int, request_id: str = "") -> bytes:
    """See Wire.batch; the protocol has no id."""
    return _body(features, columns_of(features, {name: values[start:end] for name, values in columns.items()}))


def predictions(answer: Any) -> Predictions:
    """See Wire.predictions; a model with one output has its tensor without a name."""
    return Predictions([float(row[0]) for row in answer["outputs"]], None)


def inputs(answer: Any) -> list[Feature]:
    """See Wire.inputs."""
    found = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]
    return [
        Feature(name=name, encoding="standardise", dtype=_DTYPES[tensor["dtype"]], size=1)
        for name, tensor in sorted(found.items())
    ]


def _body(features: Sequence[Feature], values: list[list[str]]) -> bytes:
    columns = ",".join(
        f'"{feature.name}":[{",".join(f"[{value}]" for value in shown)}]'
        for feature, shown in zip(features, values, strict=True)
    )
    return f'{{"inputs":{{{columns}}}}}'.encode()
