"""Predictions of a SavedModel as training and optimising write it: one signature, one probability per row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    Predict = Callable[[Mapping[str, NDArray[Any]]], NDArray[Any]]

SIGNATURE, OUTPUT = "serving_default", "probability"


def predictor(folder: Path) -> Predict:
    """Return the prediction of a SavedModel's serving signature: columns [n, 1] in, probabilities [n] out."""
    import tensorflow as tf

    signature = tf.saved_model.load(str(folder)).signatures[SIGNATURE]

    def predict(columns: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        given = signature(**{name: tf.constant(column) for name, column in columns.items()})
        probability: NDArray[Any] = given[OUTPUT].numpy()
        return probability.reshape(-1)

    return predict
