"""A worker's share of the training rows as a tf.data pipeline: ordered by seed and epoch, from any step on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tidegate.train.rows import StoredRows, pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate.encoded import EncodedRows
    from tidegate.train.cluster import Place, Steps
    from tidegate.train.rows import TrainingRows

_PREFETCH = 4  # batches ready before they are asked for
_LABEL = ""  # no feature has this name
_NEVER = 1 << 62  # an epoch that is not reached


def batches(rows: TrainingRows, place: Place, steps: Steps, seed: int, first_step: int, replicas: int = 1) -> Any:
    """Return the worker's batches from `first_step` of the training on, `steps.count` for each epoch, without an end.

    The order is drawn from the seed and the epoch only, so a resumed run sees what an unbroken one would have seen.

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
    size = steps.local // replicas
    if isinstance(rows, StoredRows):
        made = _streamed(rows, place, steps, seed, first_step, size)
    else:
        made = _held(rows.rows, place, steps, seed, first_step, size)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    options.autotune.enabled = False  # nothing here needs tuning, and its threads can hold up the pipeline's end
    endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)  # spares a vote at each step
    return made.prefetch(_PREFETCH).apply(endless).with_options(options)


def _held(rows: EncodedRows, place: Place, steps: Steps, seed: int, first_step: int, size: int) -> Any:
    """One order of all rows for each epoch; each worker draws the same, and takes its own part of each global batch."""
    count = len(rows)
    first_epoch, done = divmod(first_step, steps.count)
    names, tables = _tables(rows)

    def draw(epoch: Any) -> Any:
        drawn = tf.random.experimental.stateless_shuffle(
            tf.range(count), seed=tf.stack([tf.cast(seed, tf.int64), epoch])
        )
        whole = drawn[: steps.count * steps.local * place.workers]
        share = tf.reshape(whole, [steps.count, place.workers, steps.local])[:, place.rank]
        return tf.reshape(share[tf.where(epoch == first_epoch, done, 0) :], [-1, size])

    def gather(chosen: Any) -> Any:
        cut = {
            name: column
            for kind, table in tables.items()
            for name, column in zip(
                names[kind], tf.split(tf.gather(table, chosen), len(names[kind]), axis=1), strict=True
            )
        }
        labels = cut.pop(_LABEL)
        return {name: cut[name] for name in rows.columns}, labels

    orders = tf.data.Dataset.range(first_epoch, _NEVER).map(draw).prefetch(1)
    return orders.flat_map(tf.data.Dataset.from_tensor_slices).map(gather)


def _tables(rows: EncodedRows) -> tuple[dict[Any, list[str]], dict[Any, Any]]:
    """Lay columns of one type side by side, labels among them, so that a batch is two look-ups and not one a column."""
    columns = {**rows.columns, _LABEL: rows.labels}
    names: dict[Any, list[str]] = {}
    for name, column in columns.items():
        names.setdefault(column.dtype, []).append(name)
    return names, {
        kind: tf.constant(np.concatenate([columns[name] for name in of], axis=1)) for kind, of in names.items()
    }


def _streamed(rows: StoredRows, place: Place, steps: Steps, seed: int, first_step: int, size: int) -> Any:
    """The pieces, one read while the other is used, each cut into batches."""

    def read() -> Iterator[Any]:
        for piece in pieces(rows, place, steps, seed, first_step):
            yield (
                {name: column.reshape(-1, size, 1) for name, column in piece.columns.items()},
                piece.labels.reshape(-1, size, 1),
            )

    first = next(read())
    kinds = tf.nest.map_structure(lambda array: tf.TensorSpec((None, size, 1), array.dtype), first)
    stored = tf.data.Dataset.from_generator(read, output_signature=kinds).prefetch(1)
    return stored.flat_map(lambda *parts: tf.data.Dataset.from_tensor_slices(parts))
