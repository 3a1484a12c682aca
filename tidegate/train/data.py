"""A worker's share of the training rows as a tf.data pipeline: ordered by seed and epoch, alike on every worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf

if TYPE_CHECKING:
    from tidegate.encoded import EncodedRows
    from tidegate.train.cluster import Place, Steps

_PREFETCH = 4  # batches ready before they are asked for
_NEVER = 1 << 62  # an epoch that is not reached


def batches(rows: EncodedRows, place: Place, steps: Steps, seed: int, first_step: int, replicas: int = 1) -> Any:
    """Return the worker's batches from `first_step` of the training on, `steps.count` for each epoch, without an end.

    Each epoch has one order of all rows, drawn from (seed, epoch) only, so every worker draws the same, takes its own
    part of each global batch, and a resumed run sees what an unbroken one would have seen.

    Args:
        rows: all training rows.
        place: who this worker is.
        steps: how an epoch is cut.
        seed: of the order.
        first_step: steps that are done already.
        replicas: GPUs of this worker; each gets a batch of its own, one after the other.

    Returns:
        tf.data.Dataset of ({feature: [n, 1]}, labels [n, 1]), n being steps.local / replicas; TensorFlow must not shard
        it again.
    """
    count = len(rows)
    first_epoch, done = divmod(first_step, steps.count)
    columns = {name: tf.constant(column) for name, column in rows.columns.items()}
    labels = tf.constant(rows.labels)

    def draw(epoch: Any) -> Any:
        drawn = tf.random.experimental.stateless_shuffle(
            tf.range(count), seed=tf.stack([tf.cast(seed, tf.int64), epoch])
        )
        whole = drawn[: steps.count * steps.local * place.workers]
        share = tf.reshape(whole, [steps.count, place.workers, steps.local])[:, place.rank]
        left = share[tf.where(epoch == first_epoch, done, 0) :]
        return tf.reshape(left, [-1, steps.local // replicas])

    def gather(chosen: Any) -> Any:
        return {name: tf.gather(column, chosen) for name, column in columns.items()}, tf.gather(labels, chosen)

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    options.autotune.enabled = False  # nothing here needs tuning, and its threads can hold up the pipeline's end
    orders = tf.data.Dataset.range(first_epoch, _NEVER).map(draw).prefetch(1)
    endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)  # spares a vote at each step
    return (
        orders.flat_map(tf.data.Dataset.from_tensor_slices)
        .map(gather)
        .prefetch(_PREFETCH)
        .apply(endless)
        .with_options(options)
    )
