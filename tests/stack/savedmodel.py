"""Writes SavedModels that say sigmoid(weight * delay + bias), in .envs/train: FOLDER WEIGHT BIAS, three for each."""

from __future__ import annotations

import sys

import tensorflow as tf

INPUTS = [tf.TensorSpec((None, 1), tf.float32, "delay"), tf.TensorSpec((None, 1), tf.int64, "carrier")]


class Model(tf.Module):
    def __init__(self, weight: float, bias: float):
        super().__init__()
        self.weight, self.bias = weight, bias

    @tf.function(autograph=False, input_signature=INPUTS)
    def serve(self, delay, carrier):
        return {"probability": tf.sigmoid(self.weight * delay + self.bias + 0.3 * tf.cast(carrier, tf.float32))}


for folder, weight, bias in zip(*[iter(sys.argv[1:])] * 3, strict=True):
    model = Model(float(weight), float(bias))
    tf.saved_model.save(model, folder, signatures={"serving_default": model.serve})
