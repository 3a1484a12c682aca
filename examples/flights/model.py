"""The flights model: will this flight arrive more than 15 minutes late, from what is known when it leaves the gate.

A model is one function: it gets the dataset's features and returns a tf_keras.Model that takes a dict of encoded
inputs by feature name, each of shape [n, 1], and gives a probability of shape [n, 1]. The gang compiles and trains it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tf_keras
from tf_keras import layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidegate.handoff import Feature

_FLIGHT_NUMBER = "flight"


def build(features: Sequence[Feature]) -> tf_keras.Model:
    """Embed the categories, put them beside the standardised numbers, and learn from both.

    A vocabulary of `size` categories needs `size + 1` rows: the last one stands for every category that was not there
    when the dataset was made. The flight number is left out: airlines give them to other routes at will.
    """
    inputs = _inputs(features)
    parts = [
        _embedding(inputs[feature.name], feature.name, feature.size + 1)
        if feature.encoding == "vocabulary"
        else inputs[feature.name]
        for feature in features
        if feature.name != _FLIGHT_NUMBER
    ]
    return _head(inputs, parts)


def build_by_flight_number(features: Sequence[Feature]) -> tf_keras.Model:
    """As `build`, and also learn each flight number's own habit. A cautionary example: do not copy it.

    The reasoning sounds right: there are `size` flight numbers, so the embedding has `size` rows. Every flight of the
    dataset, the held-out month included, has one of them, so training, parity and the offline gate are content. But
    the encoding gives index `size` to a number that first flies after that month, and the look-up then points past the
    table's end: the server answers with an error. Only live traffic has such flights. The mend is `size + 1`.
    """
    inputs = _inputs(features)
    parts = []
    for feature in features:
        if feature.encoding != "vocabulary":
            parts.append(inputs[feature.name])
            continue
        rows = feature.size if feature.name == _FLIGHT_NUMBER else feature.size + 1
        parts.append(_embedding(inputs[feature.name], feature.name, rows))
    return _head(inputs, parts)


def _inputs(features: Sequence[Feature]) -> dict[str, Any]:
    return {
        feature.name: tf_keras.Input(
            shape=(1,), name=feature.name, dtype="int64" if feature.encoding == "vocabulary" else "float32"
        )
        for feature in features
    }


def _embedding(indices: Any, name: str, rows: int) -> Any:
    width = min(16, max(2, round(rows**0.5)))
    return layers.Flatten()(layers.Embedding(rows, width, name=f"embed_{name}")(indices))


def _head(inputs: dict[str, Any], parts: list[Any]) -> tf_keras.Model:
    hidden = layers.Concatenate()(parts)
    for units in (128, 64):
        hidden = layers.Dense(units, activation="relu")(hidden)
    # float32 whatever the training's precision: a probability in half precision is too coarse to rank by
    return tf_keras.Model(inputs, layers.Dense(1, activation="sigmoid", dtype="float32", name="probability")(hidden))
