"""Trains the user's model in step with the gang's other members, from its last checkpoint on."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
import tf_keras

from tidegate.errors import Permanent, Unavailable
from tidegate.train.cluster import Steps
from tidegate.train.data import batches
from tidegate.train.tracking import Epoch
from tidegate.train.usercode import build_model
from tidegate.workload import log

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tidegate.encoded import EncodedRows
    from tidegate.handoff import TrainTask
    from tidegate.train.cluster import Place

_STEPS_PER_CALL = 32  # of the training loop inside one graph call: fewer returns to Python
_PEER_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


@dataclass(frozen=True)
class Fitted:
    """A trained model's weights, how it got there, and how many steps all its epochs took."""

    weights: list[NDArray[Any]]
    epochs: list[Epoch]
    steps: int


class Progress:
    """Checkpoints and figures per epoch in a folder that outlives the gang.

    tf.train.Checkpoint with the epoch in it, rather than tf_keras' BackupAndRestore: the epoch must be known before
    the data pipeline is made, so that a resumed run sees the same order of rows as an unbroken one. As TensorFlow asks
    of multi-worker training, every member saves, and all but the chief into a folder that is thrown away.
    """

    def __init__(self, task: TrainTask, place: Place, model: Any):
        self._epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.folder = Path(task.work) / "checkpoints" / fingerprint(task)
        own = self.folder if place.is_chief else self.folder / f"member-{place.rank}"
        checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer, epoch=self._epoch)
        self._manager = tf.train.CheckpointManager(checkpoint, str(own), max_to_keep=2)
        self._checkpoint = checkpoint
        self._history = self.folder / "epochs.json"
        self._is_chief = place.is_chief
        self.epochs: list[Epoch] = []

    def restore(self) -> int:
        """Go back to the chief's last checkpoint, if there is one; return the number of epochs done."""
        latest = tf.train.latest_checkpoint(str(self.folder))
        if latest is None:
            return 0
        self._checkpoint.restore(latest).assert_existing_objects_matched()
        done = int(self._epoch.numpy())
        self.epochs = [Epoch(**epoch) for epoch in json.loads(self._history.read_text())][:done]
        return done

    def save(self, epoch: Epoch) -> None:
        """Store a finished epoch."""
        self.epochs.append(epoch)
        if self._is_chief:
            self.folder.mkdir(parents=True, exist_ok=True)
            aside = self._history.with_suffix(".part")
            aside.write_text(json.dumps([asdict(epoch) for epoch in self.epochs]))
            aside.replace(self._history)
        self._epoch.assign(epoch.number)
        self._manager.save()


class EachEpoch(tf_keras.callbacks.Callback):  # type: ignore[misc]  # tf_keras has no types
    """After each epoch: a checkpoint, and a line of progress."""

    def __init__(self, progress: Progress, rows: int, epochs: int, clock: Callable[[], float]):
        super().__init__()
        self._progress, self._rows, self._epochs, self._clock = progress, rows, epochs, clock
        self._began = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Take the time."""
        self._began = self._clock()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Save, then tell."""
        now = self._clock()
        rate = self._rows / (now - self._began)
        figures = {f"train_{name}": float(value) for name, value in (logs or {}).items()}
        self._progress.save(Epoch(epoch + 1, now, {**figures, "rows_per_s": rate}))
        shown = {name: float(value) for name, value in (logs or {}).items()}
        log(f"epoch {epoch + 1}/{self._epochs}", **shown, **{"rows/s": round(rate)})


def fit(task: TrainTask, place: Place, rows: EncodedRows, function: Callable[..., Any]) -> Fitted:
    """Train to the task's last epoch and return the weights, which are checked to be the same on every member.

    Raises:
        Unavailable: a peer went away; the gang is to be started again and resumes.
        DataError: too few rows for one batch.
        Permanent: the user's model cannot be built or its graph fails on the data; or the members' weights differ.
    """
    steps = Steps.cut(len(rows), task.batch, place.workers)
    try:
        return _fit(task, place, rows, function, steps)
    except _PEER_LOST as error:
        raise Unavailable(f"a peer of member {place.rank} went away: {error.message}; start the gang again") from error
    except tf.errors.InvalidArgumentError as error:
        raise Permanent(f"the model's graph fails on the training rows: {error.message}; mend the model") from error


def _fit(task: TrainTask, place: Place, rows: EncodedRows, function: Callable[..., Any], steps: Steps) -> Fitted:
    tf_keras.utils.set_random_seed(task.seed)
    tf_keras.mixed_precision.set_global_policy(task.precision)
    strategy = strategy_here()
    with strategy.scope():
        model = build_model(function, task.dataset.features)
        model.compile(
            optimizer=tf_keras.optimizers.Adam(task.learning_rate),
            loss=tf_keras.losses.BinaryCrossentropy(),
            metrics=[tf_keras.metrics.AUC(name="auc")],
            steps_per_execution=min(steps.count, _STEPS_PER_CALL),
        )
        model.optimizer.build(model.trainable_variables)
        progress = Progress(task, place, model)
        done = progress.restore()
    log(
        "training",
        rank=place.rank,
        rows=len(rows),
        steps_per_epoch=steps.count,
        local_batch=steps.local,
        epochs_done=done,
    )
    if done < task.epochs:
        share = batches(rows, place, steps, task.seed, done, task.epochs)
        model.fit(
            strategy.distribute_datasets_from_function(lambda _: share),
            initial_epoch=done,
            epochs=task.epochs,
            steps_per_epoch=steps.count,
            verbose=0,
            callbacks=[EachEpoch(progress, steps.count * steps.local * place.workers, task.epochs, time.time)],
        )
    weights = model.get_weights()
    _same_everywhere(strategy, place, weights)
    return Fitted(weights, progress.epochs, steps.count * task.epochs)


def strategy_here() -> Any:
    """Return the gang's strategy: collectives by NCCL where there are GPUs, by RING between processors."""
    kind = tf.distribute.experimental.CommunicationImplementation
    gpus = bool(tf.config.list_physical_devices("GPU"))
    options = tf.distribute.experimental.CommunicationOptions(implementation=kind.NCCL if gpus else kind.RING)
    return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)


def fingerprint(task: TrainTask) -> str:
    """Return a name for all that decides the weights, so that a checkpoint is resumed by the same training only."""
    fields = task.model_dump(mode="json", exclude={"lake", "work", "tracking", "lock", "request"})
    fields["model_file"] = Path(task.model_file).read_text(encoding="utf-8")
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def forget_checkpoints(task: TrainTask) -> None:
    """Remove what a finished training no longer needs."""
    shutil.rmtree(Path(task.work) / "checkpoints", ignore_errors=True)


def digest_of(weights: list[NDArray[Any]]) -> str:
    """Return a SHA-256 over all weights, in order."""
    digest = hashlib.sha256()
    for weight in weights:
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()


def _same_everywhere(strategy: Any, place: Place, weights: list[NDArray[Any]]) -> None:
    digest = digest_of(weights)
    log("trained", rank=place.rank, weights=digest[:16])
    mine = int(digest[:15], 16)  # 60 bits fit an int64

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def gathered() -> Any:
        return strategy.gather(strategy.run(lambda: tf.constant([mine], dtype=tf.int64)), axis=0)

    everyone = gathered().numpy()
    if len(set(everyone.tolist())) != 1:
        shown = ", ".join(f"{value:015x}" for value in everyone.tolist())
        raise Permanent(f"the members' weights differ after training ({shown}); the model draws numbers of its own")
