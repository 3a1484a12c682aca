"""A worker's share of the training rows as a tf.data pipeline: ordered by seed and epoch, alike on every worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf

if TYPE_CHECKING:
    from tidegate.encoded import EncodedRows
    from tidegate.train.cluster import Place, Steps

_PREFETCH = 4  # batches ready before they are asked for


def batches(rows: EncodedRows, place: Place, steps: Steps, seed: int, first_epoch: int, epochs: int) -> Any:
    """Return the worker's batches from `first_epoch` up to `epochs`, `steps.count` of them for each epoch.

    Each epoch has one order of all rows, drawn from (seed, epoch) only, so every worker draws the same, takes its own
    part of each global batch, and a resumed run sees what an unbroken one would have seen.

    Returns:
        tf.data.Dataset of ({feature: [local, 1]}, labels [local, 1]); TensorFlow must not shard it again.
    """
    count = len(rows)
    columns = {name: tf.constant(column) for name, column in rows.columns.items()}
    labels = tf.constant(rows.labels)

    def order(epoch: Any) -> Any:
        drawn = tf.random.experimental.stateless_shuffle(
            tf.range(count), seed=tf.stack([tf.cast(seed, tf.int64), epoch])
        )
        whole = drawn[: steps.count * steps.local * place.workers]
        shares = tf.reshape(whole, [steps.count, place.workers, steps.local])
        return tf.data.Dataset.from_tensor_slices(shares[:, place.rank])

    def gather(chosen: Any) -> Any:
        return {name: tf.gather(column, chosen) for name, column in columns.items()}, tf.gather(labels, chosen)

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    options.autotune.enabled = False  # nothing here needs tuning, and its threads can hold up the pipeline's end
    epoch_numbers = tf.data.Dataset.range(first_epoch, epochs)
    return epoch_numbers.flat_map(order).map(gather).prefetch(_PREFETCH).with_options(options)
