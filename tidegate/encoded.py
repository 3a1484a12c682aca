"""A dataset's rows as the numbers a model sees: raw columns from the lake through the dataset's frozen encodings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow.parquet as pq

from tidegate.contract.encodings import Encodings
from tidegate.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    _as_handed_on(lake, dataset)
    encodings = Encodings.from_json(lake.read(dataset.key, "encodings.json"))
    table = read_table(lake, dataset, part, [*encodings.names, dataset.label])
    return EncodedRows(encode(encodings, table), table[dataset.label].to_numpy().astype(np.float32).reshape(-1, 1))


def read_table(
    lake: Lake, dataset: Dataset, part: Literal["train", "test"], columns: Sequence[str] | None = None
) -> pa.Table:
    """Read raw columns (default: all of the delivery's SELECT) of the training rows or the held-out rows of a dataset.

    Raises:
        DataError: the dataset is not published, was published again since the handoff, or has a row without a label.
    """
    _as_handed_on(lake, dataset)
    table = pq.read_table(lake.local(dataset.key, f"{part}.parquet"), columns=list(columns) if columns else None)
    nulls = table[dataset.label].null_count
    if nulls:
        raise DataError(f"{nulls} rows of {dataset.key}/{part}.parquet have no label; mend the dataset's SQL")
    return table


def encode(encodings: Encodings, table: pa.Table) -> dict[str, NDArray[Any]]:
    """Return the encoded features [n, 1] of a table's raw columns."""
    raw = {name: table[name].to_numpy(zero_copy_only=False) for name in encodings.names}
    return {name: column.reshape(-1, 1) for name, column in encodings.encode(raw).items()}


def _as_handed_on(lake: Lake, dataset: Dataset) -> None:
    found = lake.require(dataset.key)["digest"]
    if found != dataset.digest:
        raise DataError(
            f"dataset {dataset.key} has digest {found[:12]}, the handoff says {dataset.digest[:12]}: it was built anew "
            "meanwhile; ask for the training again"
        )
