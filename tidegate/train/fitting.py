"""Trains the user's model in step with the gang's other members, from its last checkpoint on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
import tf_keras

from tidegate.errors import Permanent, Retryable, Unavailable
from tidegate.lake.drafts import draft_folder
from tidegate.train.checkpoints import Store
from tidegate.train.cluster import Steps
from tidegate.train.collective import Gang, strategy_here
from tidegate.train.data import batches
from tidegate.train.environment import facts_here
from tidegate.train.hook import EachEpoch, fit_by_user
from tidegate.train.interrupt import stop_sign
from tidegate.train.keeping import Keeper
from tidegate.train.progress import Progress
from tidegate.train.stepping import Stepper
from tidegate.train.telemetry import GpuWatch, Summaries
from tidegate.train.training import Training
from tidegate.train.usercode import build_model
from tidegate.workload import log

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from tidegate.handoff import TrainTask
    from tidegate.train.cluster import Place
    from tidegate.train.rows import TrainingRows
    from tidegate.train.tracking import Epoch

_PEER_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)
# of a task: what does not decide the weights
_OUTWARD = {"lake", "work", "tracking", "lock", "request", "checkpoint_seconds", "checkpoint_steps", "profile"}


@dataclass(frozen=True)
class Fitted:
    """A trained model's weights, how it got there, and how many steps all its epochs took."""

    weights: list[NDArray[Any]]
    epochs: list[Epoch]
    steps: int


@dataclass(frozen=True)
class UserCode:
    """What a user's file gives: the function that builds the model, and perhaps one that trains it."""

    build: Callable[..., Any]
    fit: Callable[..., Any] | None = None


def fit(task: TrainTask, place: Place, rows: TrainingRows, code: UserCode) -> Fitted:
    """Train to the task's last epoch and return the weights, which are checked to be the same on every member.

    Raises:
        Unavailable: a peer, or the storage of the checkpoints, went away; the gang is to be started again and resumes.
        Retryable: a member was told to end; the gang's state is stored, and it resumes.
        DataError: too few rows for one batch.
        Permanent: the user's model cannot be built or trained, or its graph fails on the data; or the members, or their
            weights, differ.
    """
    try:
        with draft_folder() as scratch:
            return _fit(task, place, rows, code, scratch)
    except _PEER_LOST as error:
        raise Unavailable(f"a peer of member {place.rank} went away: {error.message}; start the gang again") from error
    except tf.errors.InvalidArgumentError as error:
        raise Permanent(f"the model's graph fails on the training rows: {error.message}; mend the model") from error


def _fit(task: TrainTask, place: Place, rows: TrainingRows, code: UserCode, scratch: Path) -> Fitted:
    tf_keras.utils.set_random_seed(task.seed)
    tf_keras.mixed_precision.set_global_policy(task.precision)
    strategy = strategy_here(task.bucket)
    gang = Gang(strategy, place)
    gang.require_alike(facts_here(task, rows.digest()))
    replicas = strategy.num_replicas_in_sync // place.workers
    steps = Steps.cut(len(rows), task.batch, place.workers, replicas * task.accumulate)
    total = steps.count * task.epochs
    summaries = Summaries(task, scratch) if place.is_chief else None
    progress = Progress(task, place, steps, summaries, GpuWatch(place.rank))
    with strategy.scope():
        model = build_model(code.build, task.dataset.features)
    beside = summaries.push if summaries else None
    with stop_sign() as sign, Keeper(gang, store_of(task), scratch, sign.grace, beside) as keeper:
        saved = keeper.find()
        if saved is not None:
            progress.resume(saved.about)
        done = saved.step if saved is not None else 0
        _tell(place, len(rows), steps, done)
        share = batches(rows, place, steps, task.seed, done, replicas)
        given = strategy.distribute_datasets_from_function(lambda _: share)
        if code.fit is None:
            with strategy.scope():
                stepper = Stepper(strategy, model, task, steps, total)
                keeper.keep(saved, model=model, optimizer=stepper.optimizer, **stepper.metrics)
            Training(task, gang, steps, stepper, keeper, progress, sign).run(done, total, iter(given))
        elif done < total:
            fit_by_user(
                code.fit, model, given, EachEpoch(gang, keeper, progress, sign, saved, (steps.count, total)), task
            )
        elif saved is not None:
            keeper.keep(saved, model=model)
        weights = model.get_weights()
        gang.require_same_weights(_digest(weights))
        if place.is_chief and sign.is_up:
            raise Retryable(f"told to end (SIGTERM) after the last step, {total}; start it again to publish the model")
    return Fitted(weights, progress.epochs, total)


def _tell(place: Place, rows: int, steps: Steps, done: int) -> None:
    log(
        "training",
        rank=place.rank,
        rows=rows,
        steps_per_epoch=steps.count,
        local_batch=steps.local,
        epochs_done=done // steps.count,
        steps_done=done,
    )


def store_of(task: TrainTask) -> Store:
    """Return where the checkpoints of a task are, apart from those of trainings that give other weights."""
    fields = task.model_dump(mode="json", exclude=_OUTWARD)
    fields["model_file"] = Path(task.model_file).read_text(encoding="utf-8")
    name = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]
    return Store(task.work, name)


def _digest(arrays: Sequence[NDArray[Any]]) -> str:
    """Return a SHA-256 over arrays, in order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
