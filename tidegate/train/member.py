"""One member's work from its task to the published model; TensorFlow is imported only once it is needed."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from tidegate import keys
from tidegate.encoded import read_rows
from tidegate.errors import DataError
from tidegate.handoff import Trained, TrainTask
from tidegate.lake import Lake
from tidegate.train.checkpoints import forget
from tidegate.train.cluster import Place
from tidegate.train.quality import held_out
from tidegate.train.rows import HeldRows, open_rows
from tidegate.train.tracking import MlflowTracking, NoTracking
from tidegate.train.usercode import load_function, load_optional
from tidegate.workload import log, log_always

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidegate.train.fitting import Fitted
    from tidegate.train.rows import TrainingRows
    from tidegate.train.tracking import Tracking


def train(task: TrainTask) -> Trained | None:
    """Train with the gang; the chief publishes the model and returns what it did, the others return nothing.

    A model that is published already for this request and dataset is returned as it is.

    Raises:
        Unavailable: MLflow or a peer is away; nothing is published, and the next try resumes.
        DataError: the dataset has changed, or has too few rows.
        Permanent: the user's model cannot be used.
    """
    began = time.monotonic()
    place = Place.read(os.environ, task.workers)
    log_always(rank=place.rank, trace_id=task.request.request_id)
    lake = Lake(task.lake)
    done = _published(lake, task)
    if done is not None:
        log("already published", key=done.key, request=task.request.request_id)
        return done if place.is_chief else None
    rows = open_rows(lake, task.dataset, task.memory)
    tracking = MlflowTracking(task.tracking) if task.tracking and place.is_chief else NoTracking()
    run_id = tracking.open(task)
    log(
        "ready",
        rank=place.rank,
        workers=place.workers,
        rows=len(rows),
        held="in memory" if isinstance(rows, HeldRows) else "in the file",
        seconds=time.monotonic() - began,
    )
    function = load_function(task.model_file, task.model_function)
    own_fit = load_optional(task.model_file, "fit")

    from tidegate.train.fitting import UserCode, fit, store_of  # some ten seconds to import: after all that may refuse

    fitted = fit(task, place, rows, UserCode(function, own_fit))
    if not place.is_chief:
        return None
    trained = _publish(task, lake, tracking, run_id, fitted, (rows, function), began)
    forget(store_of(task))
    return trained


def _publish(
    task: TrainTask,
    lake: Lake,
    tracking: Tracking,
    run_id: str | None,
    fitted: Fitted,
    made_of: tuple[TrainingRows, Callable[..., Any]],
    began: float,
) -> Trained:
    from tidegate.train.export import plain_model

    rows, function = made_of
    model = plain_model(function, task.dataset.features, fitted.weights)
    test = read_rows(lake, task.dataset, "test")
    if len(np.unique(test.labels)) < 2:
        raise DataError(
            f"the {len(test)} held-out rows of {task.dataset.key} have not both labels, so quality cannot be measured; "
            "hold out a longer window: dataset.test in the delivery"
        )
    metrics = held_out(test.labels, model.predict(test), rows.base_rate())
    _tell(metrics)
    tracking.record(task, run_id, fitted.epochs, metrics)
    fields = {
        "request_id": task.request.request_id,
        "run_id": run_id,
        "workers": task.workers,
        "steps": fitted.steps,
        "seconds": round(time.monotonic() - began, 3),
        "metrics": metrics,
    }
    with lake.publish(_key(task), dataset_digest=task.dataset.digest, trained=fields) as draft:
        model.save(draft.folder / "saved_model")
        draft.file("epochs.json").write_text(json.dumps([asdict(epoch) for epoch in fitted.epochs], indent=1))
    published = _published(lake, task)
    if published is None:
        raise DataError(f"{_key(task)} was replaced while it was published; let one gang train a request at a time")
    log("published", key=published.key, digest=published.digest[:16])
    return published


def _published(lake: Lake, task: TrainTask) -> Trained | None:
    manifest = lake.manifest(_key(task))
    if manifest is None or manifest.get("dataset_digest") != task.dataset.digest:
        return None
    return Trained(**manifest["trained"], key=_key(task), digest=manifest["digest"])


def _key(task: TrainTask) -> str:
    return keys.model(task.request.delivery, task.request.request_id)


def _tell(metrics: dict[str, float]) -> None:
    log("held out", **metrics)
    gain = metrics["auc"] - metrics["base_auc"]
    saved = 1 - metrics["log_loss"] / metrics["base_log_loss"]
    log(f"beats the base rate by {gain:+.4f} AUC, {saved:+.1%} of its log-loss")
