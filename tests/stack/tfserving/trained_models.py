"""Writes SavedModels as the train stage exports them, with given weights: python trained_models.py FOLDER WEIGHT ..."""

from __future__ import annotations

import sys
from pathlib import Path

import tensorflow as tf


def save(folder, weight):
    """sigmoid(carrier's value + weight * distance), for encoded inputs; 4 carriers, the last one out of vocabulary."""
    model = tf.Module()
    model.table = tf.Variable([-1.0, 0.0, 1.0, 0.25])

    @tf.function(autograph=False)
    def serve(carrier, distance):
        return {"probability": tf.sigmoid(tf.gather(model.table, carrier) + weight * distance)}

    signature = serve.get_concrete_function(
        carrier=tf.TensorSpec((None, 1), tf.int64, "carrier"), distance=tf.TensorSpec((None, 1), tf.float32, "distance")
    )
    tf.saved_model.save(model, str(folder), signatures={"serving_default": signature})


if __name__ == "__main__":
    for text in sys.argv[2:]:
        save(Path(sys.argv[1]) / text / "saved_model", float(text))
