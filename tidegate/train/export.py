"""The trained model as a SavedModel that serves on its own: no strategy, no optimiser, float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
import tf_keras

from tidegate.train.usercode import build_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tidegate.encoded import EncodedRows
    from tidegate.handoff import Feature

_CHUNK = 8192  # rows predicted at once


class Served(tf.Module):  # type: ignore[misc]  # tensorflow has no types
    """A model behind one signature: a tensor [n, 1] per feature in, `probability` float32 [n, 1] out."""

    def __init__(self, model: Any, features: Sequence[Feature]):
        super().__init__()
        self._model = model
        specs = {feature.name: tf.TensorSpec((None, 1), dtype_of(feature), feature.name) for feature in features}
        used = list(model.input_names)

        @tf.function(autograph=False)  # type: ignore[untyped-decorator]
        def serve(**columns: Any) -> dict[str, Any]:
            given = model({name: columns[name] for name in used}, training=False)
            return {"probability": tf.cast(given, tf.float32)}

        self.serve = serve
        self.signature = serve.get_concrete_function(**specs)

    def predict(self, rows: EncodedRows) -> NDArray[np.float32]:
        """Return probabilities [n] for encoded rows."""
        parts = []
        for start in range(0, len(rows), _CHUNK):
            chunk = {name: tf.constant(column[start : start + _CHUNK]) for name, column in rows.columns.items()}
            parts.append(self.signature(**chunk)["probability"].numpy().reshape(-1))
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    def save(self, folder: Path) -> None:
        """Write the SavedModel."""
        tf.saved_model.save(self, str(folder), signatures={"serving_default": self.signature})


def plain_model(function: Callable[..., Any], features: Sequence[Feature], weights: list[NDArray[Any]]) -> Served:
    """Build the user's model again, outside any strategy and in float32, with trained weights."""
    tf_keras.mixed_precision.set_global_policy("float32")
    model = build_model(function, features)
    model.set_weights(weights)
    return Served(model, features)


def dtype_of(feature: Feature) -> Any:
    """Return the tensor type of an encoded feature."""
    return tf.int64 if feature.encoding == "vocabulary" else tf.float32
