"""What a SavedModel says to raw rows, by the encodings it was trained with."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tidegate.contract.encodings import Encodings
from tidegate.encoded import encode
from tidegate.errors import DataError
from tidegate.saved_model import predictor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tidegate.handoff import Bundle, Dataset, Trained
    from tidegate.lake import Lake

_CHUNK = 8192  # rows predicted at once
_FOLDER = "saved_model/"
_READS = {"BYTES": "text", "INT64": "whole numbers", "FP32": "numbers"}


class CannotRead(Exception):
    """A model cannot say anything to these rows; the message says why, as the end of a sentence about it."""


def of_trained(lake: Lake, trained: Trained, dataset: Dataset, table: Any) -> NDArray[np.float64]:
    """Return a trained model's probabilities [n] of raw rows, by its dataset's encodings.

    Raises:
        DataError: the model is another than the handoff says, or a prediction is no probability.
    """
    digest = str(lake.require(trained.key)["digest"])
    if digest != trained.digest:
        raise DataError(
            f"model {trained.key} has digest {digest[:12]}, the handoff says {trained.digest[:12]}: it was trained "
            "anew meanwhile; run the request again"
        )
    encodings = Encodings.from_json(lake.read(dataset.key, "encodings.json", dataset.digest))
    said = _predict(lake, trained.key, digest, encodings, table)
    if wrong := _wrong(said):
        raise DataError(
            f"model {trained.key} gives {wrong} of {said.size} held-out rows no probability; mend the model"
        )
    return said


def of_bundle(lake: Lake, bundle: Bundle, table: Any) -> NDArray[np.float64]:
    """Return a bundle's probabilities [n] of raw rows, by its own encodings.

    Raises:
        CannotRead: the rows lack a column it needs or have it in another type, or its model is not whole or fails.
    """
    from tensorflow.errors import OpError

    try:
        encodings = Encodings.from_json(lake.read(bundle.key, "encodings.json", bundle.digest))
        if why := misfit(encodings, table.schema):
            raise CannotRead(f"reads {why}")
        said = _predict(lake, bundle.key, bundle.digest, encodings, table)
    except (DataError, OpError, OSError, KeyError, ValueError, TypeError) as error:
        raise CannotRead(f"fails on these rows: {type(error).__name__}: {str(error)[:300]}") from error
    if wrong := _wrong(said):
        raise CannotRead(f"gives {wrong} of {said.size} rows no probability")
    return said


def misfit(encodings: Encodings, schema: Any) -> str | None:
    """Return what a model's encodings read that the rows have not, or None if they can read all."""
    found = []
    for feature in encodings.features:
        if feature.name not in schema.names:
            found.append(f"{feature.name}, which the rows have not")
            continue
        kind = schema.field(feature.name).type
        if not _fits(feature.dtype, kind):
            found.append(f"{feature.name} as {_READS[feature.dtype]}, which the rows have as {kind}")
    return "; ".join(found) or None


def _fits(dtype: str, kind: Any) -> bool:
    is_whole = pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    if dtype == "BYTES":
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
    return bool(is_whole or (dtype == "FP32" and (pa.types.is_floating(kind) or pa.types.is_decimal(kind))))


def _predict(lake: Lake, key: str, digest: str, encodings: Encodings, table: Any) -> NDArray[np.float64]:
    names = [name for name in lake.require(key, digest)["files"] if name.startswith(_FOLDER)]
    if not names:
        raise DataError(f"{key} has no {_FOLDER}, as those of an older Tidegate have not; train the model again")
    columns = encode(encodings, table)
    with tempfile.TemporaryDirectory(prefix="tidegate-evaluate-") as scratch:
        lake.fetch(key, Path(scratch), names, digest)
        predict = predictor(Path(scratch) / _FOLDER)
        parts = [
            predict({name: column[start : start + _CHUNK] for name, column in columns.items()})
            for start in range(0, table.num_rows, _CHUNK)
        ]
    return np.concatenate(parts).astype(np.float64)


def _wrong(said: NDArray[Any]) -> int:
    return int((~((said >= 0) & (said <= 1))).sum())
