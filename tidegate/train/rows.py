"""Training rows, without TensorFlow: held in memory where they fit, else read in pieces, in an order for each epoch."""

from __future__ import annotations

import bisect
import hashlib
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from tidegate.encoded import EncodedRows, encoded, encodings_of, labels_of, read_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tidegate.contract.encodings import Encodings
    from tidegate.handoff import Dataset
    from tidegate.lake import Lake
    from tidegate.train.cluster import Place, Steps

_FILE = "train.parquet"
_MIXED = 4  # row groups whose rows are mixed with each other
_ENDS_MET = 2  # row groups kept: a piece ends, and the next begins, within one


class HeldRows:
    """All training rows of a dataset, in memory."""

    def __init__(self, rows: EncodedRows):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def digest(self) -> str:
        """Return a SHA-256 over the rows as they were read."""
        digest = hashlib.sha256(np.ascontiguousarray(self.rows.labels).data)
        for column in self.rows.columns.values():
            digest.update(np.ascontiguousarray(column).data)
        return digest.hexdigest()

    def base_rate(self) -> float:
        """Return the share of rows with label 1."""
        return float(self.rows.labels.mean())


class StoredRows:
    """The training rows of a dataset in their Parquet file, read by row groups when they are asked for."""

    def __init__(self, path: Path, digest: str, dataset: Dataset, encodings: Encodings):
        self._file = pq.ParquetFile(path, pre_buffer=False)
        self._digest, self._dataset, self._encodings = digest, dataset, encodings
        self._where = f"{dataset.key}/{_FILE}"
        meta = self._file.metadata
        self.groups = [meta.row_group(number).num_rows for number in range(meta.num_row_groups)]
        self._kept: dict[int, EncodedRows] = {}
        self._positive = self._labels()

    def __len__(self) -> int:
        return sum(self.groups)

    def digest(self) -> str:
        """Return the SHA-256 of the file, which was checked when it was fetched."""
        return self._digest

    def base_rate(self) -> float:
        """Return the share of rows with label 1."""
        return self._positive / len(self)

    def _labels(self) -> float:
        """Read the labels once: see that each is there, and return their sum."""
        total = 0.0
        for piece in self._file.iter_batches(columns=[self._dataset.label]):
            labels = labels_of(piece, self._dataset.label, self._where)
            total += float(labels.sum())
        return total

    def between(self, order: Sequence[int], begin: int, end: int) -> EncodedRows:
        """Return the rows [begin, end) of all row groups laid end to end in an order."""
        ends = list(itertools.accumulate(self.groups[group] for group in order))
        parts = []
        for place in range(bisect.bisect_right(ends, begin), bisect.bisect_left(ends, end) + 1):
            start = ends[place] - self.groups[order[place]]
            whole = self._group(order[place])
            parts.append(whole.take(np.arange(max(begin, start) - start, min(end, ends[place]) - start)))
        columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
        return EncodedRows(columns, np.concatenate([part.labels for part in parts]))

    def _group(self, number: int) -> EncodedRows:
        if number not in self._kept:
            label = self._dataset.label
            table = self._file.read_row_group(number, columns=[*self._encodings.names, label])
            found = encoded(table, self._encodings, label, self._where)
            self._kept = dict([*self._kept.items(), (number, found)][-_ENDS_MET:])
        return self._kept[number]


TrainingRows = HeldRows | StoredRows


def open_rows(lake: Lake, dataset: Dataset, memory: int) -> TrainingRows:
    """Return a dataset's training rows: in memory where their numbers take at most so many bytes, else in their file.

    The choice follows from the arguments alone, so that all members of a gang make the same.

    Raises:
        DataError: the dataset is not as the handoff says, or has rows without a label.
    """
    encodings = encodings_of(lake, dataset)
    row = 4 + sum(8 if feature.encoding == "vocabulary" else 4 for feature in encodings.features)
    if dataset.train_rows * row <= memory:
        return HeldRows(read_rows(lake, dataset, "train"))
    digest = lake.require(dataset.key)["files"][_FILE]["sha256"]
    return StoredRows(lake.local(dataset.key, _FILE), digest, dataset, encodings)


def pieces(rows: StoredRows, place: Place, steps: Steps, seed: int, first_step: int) -> Iterator[EncodedRows]:
    """Yield a worker's rows from a step of the training on, without an end, in pieces of whole steps.

    Each epoch has an order of the row groups, drawn from (seed, epoch). Laid end to end so, the rows are cut into one
    run for each worker, and a run into pieces as long as some row groups, whose rows are mixed, as drawn from (seed,
    epoch, worker, piece). So each worker reads its share only, no row comes twice, and a resumed run sees what an
    unbroken one would have seen.
    """
    run = steps.count * steps.local
    size = -(-_MIXED * max(rows.groups) // steps.local) * steps.local
    first_epoch, done = divmod(first_step, steps.count)
    for epoch in itertools.count(first_epoch):
        order = _draw(len(rows.groups), seed, epoch).tolist()
        past = done * steps.local if epoch == first_epoch else 0
        for begin in range(past // size * size, run, size):
            end = min(begin + size, run)
            found = rows.between(order, place.rank * run + begin, place.rank * run + end)
            mixed = _draw(end - begin, seed, epoch, place.rank, begin)
            yield found.take(mixed[max(0, past - begin) :])


def _draw(count: int, *seeds: int) -> NDArray[Any]:
    """Return a permutation of 0 ... count-1 that depends on the seeds only."""
    return np.random.Generator(np.random.PCG64(seeds)).permutation(count)
