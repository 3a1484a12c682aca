"""Training by a function of the user's own, with checkpoints at the ends of epochs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tensorflow as tf
import tf_keras

from tidegate.errors import Permanent, TidegateError
from tidegate.train.progress import Spent

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidegate.handoff import TrainTask
    from tidegate.train.checkpoints import Saved
    from tidegate.train.collective import Gang
    from tidegate.train.interrupt import StopSign
    from tidegate.train.keeping import Keeper
    from tidegate.train.progress import Progress


@dataclass(frozen=True)
class FitSpec:
    """What a user's `fit(model, data, spec)` is told: pass these on to `model.fit`."""

    first_epoch: int
    epochs: int
    steps_per_epoch: int
    batch: int
    workers: int
    learning_rate: float
    seed: int
    callbacks: list[Any]


class EachEpoch(tf_keras.callbacks.Callback):  # type: ignore[misc]  # tf_keras has no types
    """Goes on from a checkpoint when training begins; at each epoch's end takes one, tells, and ends if told to."""

    def __init__(
        self,
        gang: Gang,
        keeper: Keeper,
        progress: Progress,
        sign: StopSign,
        saved: Saved | None,
        steps: tuple[int, int],
    ):
        super().__init__()
        self._gang, self._keeper, self._progress, self._sign, self._saved = gang, keeper, progress, sign, saved
        self.per_epoch, self.total = steps
        self.first_epoch = saved.step // self.per_epoch if saved is not None else 0
        self._began = 0.0
        self.is_done = False

    def on_train_begin(self, logs: Any = None) -> None:
        """Set the model and its optimiser back to the checkpoint, once."""
        self.model.optimizer.build(self.model.trainable_variables)
        self._keeper.keep(self._saved, model=self.model, optimizer=self.model.optimizer)
        self._saved = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Take the time."""
        self._began = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Save, tell, and end where any member was told to."""
        step = (epoch + 1) * self.per_epoch
        self._progress.spent = Spent(self.per_epoch, time.monotonic() - self._began, None, None)
        self._progress.end_epoch(step, {name: float(value) for name, value in (logs or {}).items()})
        self._keeper.save(step, self._progress.about())
        self.is_done = step == self.total
        if any(self._gang.all_say(b"1" if self._sign.is_up else b"")):
            self._keeper.stop(self._sign.is_up, step, self.total)


def fit_by_user(function: Callable[..., Any], model: Any, data: Any, each: EachEpoch, task: TrainTask) -> None:
    """Have the user's function train the model, inside the gang's strategy.

    Raises:
        Permanent: the function raised, or did not train to the last epoch.
    """
    spec = FitSpec(
        first_epoch=each.first_epoch,
        epochs=task.epochs,
        steps_per_epoch=each.per_epoch,
        batch=task.batch,
        workers=task.workers,
        learning_rate=task.learning_rate,
        seed=task.seed,
        callbacks=[each],
    )
    try:
        with model.distribute_strategy.scope():
            function(model, data, spec)
    except (TidegateError, tf.errors.OpError):
        raise
    except Exception as error:  # a user's function may raise anything; it is theirs to mend
        raise Permanent(f"function fit raised {type(error).__name__}: {error}; mend the function") from error
    if not each.is_done:
        raise Permanent(
            f"function fit ended without training to epoch {task.epochs}; give model.fit spec's epochs and callbacks"
        )
