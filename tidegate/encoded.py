"""A dataset's rows as the numbers a model sees: raw columns from the lake through the dataset's frozen encodings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow.parquet as pq

from tidegate.contract.encodings import Encodings
from tidegate.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from tidegate.handoff import Dataset
    from tidegate.lake import Lake


@dataclass(frozen=True)
class EncodedRows:
    """Rows as a model's inputs: per feature an int64 or float32 column [n, 1], and the labels, float32 [n, 1]."""

    columns: dict[str, NDArray[Any]]
    labels: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.integer[Any]]) -> EncodedRows:
        """Return the chosen rows, in the order of `rows`."""
        return EncodedRows({name: column[rows] for name, column in self.columns.items()}, self.labels[rows])


def read_rows(lake: Lake, dataset: Dataset, part: Literal["train", "test"]) -> EncodedRows:
    """Read and encode the training rows or the held-out rows of a dataset.

    Raises:
        DataError: the dataset is not published, was published again since the handoff, or has a row without a label.
    """
    encodings = encodings_of(lake, dataset)
    table = pq.read_table(lake.local(dataset.key, f"{part}.parquet"), columns=[*encodings.names, dataset.label])
    return encoded(table, encodings, dataset.label, f"{dataset.key}/{part}.parquet")


def encodings_of(lake: Lake, dataset: Dataset) -> Encodings:
    """Return the frozen encodings of a dataset.

    Raises:
        DataError: the dataset is not published, or was published again since the handoff.
    """
    found = lake.require(dataset.key)["digest"]
    if found != dataset.digest:
        raise DataError(
            f"dataset {dataset.key} has digest {found[:12]}, the handoff says {dataset.digest[:12]}: it was built anew "
            "meanwhile; ask for the training again"
        )
    return Encodings.from_json(lake.read(dataset.key, "encodings.json"))


def encoded(table: pa.Table, encodings: Encodings, label: str, where: str) -> EncodedRows:
    """Encode an Arrow table that has a column for each feature and the label; `where` names it in errors.

    Raises:
        DataError: a row has no label.
    """
    labels = labels_of(table, label, where)
    raw = {name: table[name].to_numpy(zero_copy_only=False) for name in encodings.names}
    columns = {name: column.reshape(-1, 1) for name, column in encodings.encode(raw).items()}
    return EncodedRows(columns, labels)


def labels_of(table: pa.Table | pa.RecordBatch, label: str, where: str) -> NDArray[np.float32]:
    """Return the labels [n, 1] of some rows; raises as `encoded` does."""
    nulls = table[label].null_count
    if nulls:
        raise DataError(f"{nulls} rows of {where} have no label; mend the dataset's SQL")
    found: NDArray[np.float32] = table[label].to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, 1)
    return found
