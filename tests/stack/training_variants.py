"""Trains one dataset in several ways, alone in one process, and prints what came of each as one JSON object.

python training_variants.py task.json: runs in the training environment; `work` of the task is a folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from tidegate.errors import Permanent
from tidegate.handoff import TrainTask
from tidegate.lake import Lake
from tidegate.train.cluster import Place
from tidegate.train.fitting import UserCode, fit
from tidegate.train.rows import open_rows
from tidegate.train.usercode import load_function, load_optional

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"profile": (5, 8)},
    "accumulated": {"accumulate": 4},
    "in buckets": {"bucket": 1000},
    "float16": {"precision": "mixed_float16"},
    "bfloat16": {"precision": "mixed_bfloat16"},
    "streamed": {"memory": 1000},
    "scaled": {"scale": "linear", "base_batch": 64, "warmup": 0.5},
}


OWN_FIT = """
import tf_keras

def fit(model, data, spec):
    class Breaks(tf_keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if spec.first_epoch == 0 and epoch == 1:
                raise RuntimeError("broken off after two epochs")

    model.compile(optimizer=tf_keras.optimizers.RMSprop(spec.learning_rate), loss="binary_crossentropy")
    model.fit(
        data,
        initial_epoch=spec.first_epoch,
        epochs=spec.epochs,
        steps_per_epoch=spec.steps_per_epoch,
        callbacks=[*spec.callbacks, Breaks()],
        verbose=0,
    )
"""


def own_fit(task: TrainTask) -> dict[str, Any]:
    """Train by a function of the user's, broken off once; return why, and the losses by epoch."""
    path = Path(f"{task.work}-own.py")
    path.write_text(Path(task.model_file).read_text() + OWN_FIT)
    own = task.model_copy(update={"model_file": str(path), "work": f"{task.work}/own"})
    rows = open_rows(Lake(task.lake), task.dataset, task.memory)
    code = UserCode(load_function(str(path), task.model_function), load_optional(str(path), "fit"))
    try:
        fit(own, Place(), rows, code)
    except Permanent as error:
        reason = str(error)
    fitted = fit(own, Place(), rows, code)
    return {"reason": reason, "losses": [epoch.figures["train_loss"] for epoch in fitted.epochs], "steps": fitted.steps}


def main(task: TrainTask) -> dict[str, Any]:
    """Train each variant; return losses by epoch, differences of weights from the plain one, and the summaries."""
    lake = Lake(task.lake)
    function = load_function(task.model_file, task.model_function)
    found: dict[str, Any] = {}
    plain: list[Any] = []
    for name, changes in VARIANTS.items():
        changed = task.model_copy(update={**changes, "work": f"{task.work}/{name.replace(' ', '-')}"})
        fitted = fit(changed, Place(), open_rows(lake, task.dataset, changed.memory), UserCode(function))
        plain = plain or fitted.weights
        pairs = zip(fitted.weights, plain, strict=True)
        found[name] = {
            "losses": [epoch.figures["train_loss"] for epoch in fitted.epochs],
            "difference": max(float(np.abs(own - other).max()) for own, other in pairs),
            "dtypes": sorted({weight.dtype.name for weight in fitted.weights}),
            "scalars": scalars(Path(changed.work)),
            "traces": [path.name for path in Path(changed.work).rglob("*.xplane.pb")],
        }
        tf_keras.backend.clear_session()
    return {**found, "own fit": own_fit(task)}


def scalars(work: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the scalars of a run's summaries: tag -> [(step, value)]."""
    found: dict[str, list[tuple[int, float]]] = {}
    for record in tf.data.TFRecordDataset([str(path) for path in work.rglob("events.out.*")]):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            assert value.metadata.plugin_data.plugin_name == "scalars"
            found.setdefault(value.tag, []).append((event.step, float(tf.make_ndarray(value.tensor))))
    return found


if __name__ == "__main__":
    print(json.dumps(main(TrainTask.model_validate_json(Path(sys.argv[1]).read_text()))))
