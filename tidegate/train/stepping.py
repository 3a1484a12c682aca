"""Steps of training in one graph call: gradients of the user's model, summed over the gang and applied on each."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras

from tidegate.train.pace import Rate

if TYPE_CHECKING:
    from tidegate.handoff import TrainTask
    from tidegate.train.cluster import Steps


class Wishes(NamedTuple):
    """What one member wants the gang to do, and how its last call went; summed over the members, what they agree on."""

    stop: float = 0.0
    save: float = 0.0
    length: float = 0.0
    loss: float = 0.0
    waited: float = 0.0
    talked: float = 0.0


@dataclass(frozen=True)
class Call:
    """Some steps that were run: what the members had agreed on before, the time they took, and this member's loss.

    `waited` is the time for the next rows, `talked` that from having gradients to having those of all members, both in
    seconds: the second holds the waiting for slower members, and is not known where a GPU computes while the host goes
    on.
    """

    agreed: Wishes
    steps: int
    seconds: float
    waited: float
    talked: float | None
    loss: float


class Stepper:
    """A model with its optimiser and metrics, made inside the strategy's scope."""

    def __init__(self, strategy: Any, model: Any, task: TrainTask, steps: Steps, total: int):
        self._strategy, self._accumulate = strategy, task.accumulate
        self._is_scaled = task.precision == "mixed_float16"
        self._rows = steps.local * task.workers
        self._times_talk = not tf.config.list_physical_devices("GPU")
        self._replicas = strategy.num_replicas_in_sync // task.workers
        self.model = model
        self.optimizer = _optimizer(task, self._rows, total)
        self._unscaled = self.optimizer.inner_optimizer if self._is_scaled else self.optimizer
        self.optimizer.build(model.trainable_variables)
        self.metrics = {"loss": tf_keras.metrics.Mean(name="loss"), "auc": tf_keras.metrics.AUC(name="auc")}
        self._loss = tf_keras.losses.BinaryCrossentropy(reduction="none")
        self._run = tf.function(self._steps, autograph=False)

    def call(self, rows: Any, count: int, wishes: Wishes) -> Call:
        """Run `count` steps on the rows of a distributed iterator; every member must call this at the same point."""
        began = time.monotonic()
        agreed, waited, talked, loss = self._run(rows, tf.constant(count), tf.constant(wishes, tf.float64))
        found = Wishes(*np.asarray(agreed).tolist())
        return Call(
            agreed=found,
            steps=count,
            seconds=time.monotonic() - began,
            waited=float(waited),
            talked=float(talked) if self._times_talk else None,
            loss=float(loss) / count,
        )

    def figures(self) -> dict[str, float]:
        """Return the metrics since the last reset, over all members; every member must call this at the same point."""
        return {name: float(metric.result()) for name, metric in self.metrics.items()}

    def reset(self) -> None:
        """Begin the metrics anew."""
        for metric in self.metrics.values():
            metric.reset_state()

    def _steps(self, rows: Any, count: Any, wishes: Any) -> Any:
        agreed = self._strategy.run(self._sum, args=(wishes,))

        def step(number: Any, waited: Any, talked: Any, loss: Any) -> Any:
            with tf.control_dependencies([number]):
                asked = tf.timestamp()
            with tf.control_dependencies([asked]):
                batch = next(rows)
            with tf.control_dependencies(tf.nest.flatten([self._local(part) for part in tf.nest.flatten(batch)])):
                given = tf.timestamp()
            with tf.control_dependencies([given]):
                own, seconds = (self._local(each)[0] for each in self._strategy.run(self._step, args=batch))
            return number + 1, waited + (given - asked), talked + seconds, loss + own

        start = (tf.constant(0), *(tf.constant(0.0, tf.float64) for _ in range(3)))
        more = lambda number, *_: number < count  # noqa: E731  # the loop's condition, of one expression
        with tf.control_dependencies([self._local(agreed)[0]]):
            _, waited, talked, loss = tf.while_loop(more, step, start, parallel_iterations=1)
        return self._local(agreed)[0], waited, talked, loss

    def _local(self, value: Any) -> Any:
        return self._strategy.experimental_local_results(value)

    def _sum(self, wishes: Any) -> Any:
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, wishes / self._replicas)

    def _step(self, inputs: Any, labels: Any) -> Any:
        """Take one step on a replica's rows; return its mean loss, and the time of the exchange with the others."""
        variables = self.model.trainable_variables
        gradients, loss = self._gradients(inputs, labels, variables)
        gradients = [self._for_exchange(each, variable) for each, variable in zip(gradients, variables, strict=True)]
        with tf.control_dependencies(_tensors(gradients)):
            ready = tf.timestamp()
        with tf.control_dependencies([ready]):
            kept = [_kept(gradient) for gradient in gradients]
            pairs = self._unscaled.aggregate_gradients(list(zip(kept, variables, strict=True)))
        with tf.control_dependencies(_tensors([gradient for gradient, _ in pairs])):
            summed = tf.timestamp()
        self.optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)
        return tf.cast(loss, tf.float64), summed - ready

    def _for_exchange(self, gradient: Any, variable: Any) -> Any:
        """Make a table's sparse gradient dense, unless the table has more rows than a step has on all members.

        Dense gradients go into one all-reduce; each sparse one takes two all-gathers of its own. The sums are the same.
        """
        is_small = isinstance(gradient, tf.IndexedSlices) and variable.shape[0] <= self._rows
        return tf.convert_to_tensor(gradient) if is_small else gradient

    def _gradients(self, inputs: Any, labels: Any, variables: Any) -> Any:
        if self._accumulate == 1:
            return self._part(inputs, labels, variables)
        parts = self._accumulate
        cut = tf.nest.map_structure(lambda whole: tf.reshape(whole, [parts, -1, *whole.shape[1:]]), (inputs, labels))

        def add(part: Any, loss: Any, *sums: Any) -> Any:
            chosen = tf.nest.map_structure(lambda whole: whole[part], cut)
            gradients, own = self._part(chosen[0], chosen[1], variables)
            grown = [total + tf.convert_to_tensor(each) for total, each in zip(sums, gradients, strict=True)]
            return (part + 1, loss + own / parts, *grown)

        zeros = [tf.zeros_like(variable) for variable in variables]
        start = (tf.constant(0), tf.constant(0.0), *zeros)
        _, loss, *gradients = tf.while_loop(lambda part, *_: part < parts, add, start, parallel_iterations=1)
        return gradients, loss

    def _part(self, inputs: Any, labels: Any, variables: Any) -> Any:
        """Return the gradients of some rows' share of the global mean loss, and these rows' own mean."""
        with tf.GradientTape() as tape:
            said = tf.cast(self.model(inputs, training=True), tf.float32)
            each = self._loss(labels, said)
            share = tf.reduce_sum(each) / self._rows + self._regularisation()
            aim = self.optimizer.get_scaled_loss(share) if self._is_scaled else share
        gradients = tape.gradient(aim, variables, unconnected_gradients="zero")
        if self._is_scaled:
            gradients = self.optimizer.get_unscaled_gradients(gradients)
        self.metrics["loss"].update_state(each)
        self.metrics["auc"].update_state(labels, said)
        return gradients, tf.reduce_mean(each)

    def _regularisation(self) -> Any:
        parts = self._strategy.num_replicas_in_sync * self._accumulate
        return tf.add_n(self.model.losses) / parts if self.model.losses else 0.0


class _Schedule(tf_keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]  # tf_keras has no types
    """A `Rate` as tf_keras asks for it."""

    def __init__(self, rate: Rate):
        super().__init__()
        self._rate = rate

    def __call__(self, step: Any) -> Any:
        share = tf.minimum(tf.cast(step, tf.float32) / max(1, self._rate.warmup), 1.0)
        return self._rate.start + (self._rate.end - self._rate.start) * share

    def get_config(self) -> dict[str, Any]:
        """Return what `__init__` takes."""
        return {"rate": self._rate}


def _optimizer(task: TrainTask, batch: int, total: int) -> Any:
    rate = Rate.scaled(task.learning_rate, task.scale, batch, task.base_batch, round(task.warmup * total))
    adam = tf_keras.optimizers.Adam(_Schedule(rate) if rate.warmup else rate.end)
    if task.precision == "mixed_float16":  # small gradients vanish in half precision unless they are scaled
        return tf_keras.mixed_precision.LossScaleOptimizer(adam)
    return adam


def _tensors(gradients: Any) -> list[Any]:
    return [each.values if isinstance(each, tf.IndexedSlices) else each for each in gradients if each is not None]


def _kept(gradient: Any) -> Any:
    """Return a gradient as it is, made after what the caller's control dependencies name."""
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(tf.identity(gradient.values), gradient.indices, gradient.dense_shape)
    return tf.identity(gradient)
