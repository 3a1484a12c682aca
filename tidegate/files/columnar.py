"""Reads Parquet batch by batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from tidegate.errors import DataError
from tidegate.files import sliced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tidegate.contract import Contract
    from tidegate.files.streams import Input, Packing

_ROWS = 1 << 16
_BUFFER = 4 << 20  # bytes of a column that are read at once: without a limit it is all of a row group's


def read(path: Input, _packed: Packing | None, contract: Contract, progress: Callable[[int], None]) -> Iterator[Any]:
    """Yield the rows of one Parquet file; what is of another type than the contract's is kept out row by row."""
    with path.open() as stream, pq.ParquetFile(stream, pre_buffer=False, buffer_size=_BUFFER) as file:
        have = file.schema_arrow.names
        missing = [name for name in contract.names if name not in have]
        if missing:
            raise DataError(
                f"{path} has no column {', '.join(missing)}, but {', '.join(have)}; write the file with it, or take it "
                f"out of {contract.path}"
            )
        rows, size = max(1, file.metadata.num_rows), path.size
        first = told = 0
        for batch in file.iter_batches(_ROWS, columns=list(contract.names), use_threads=False):
            errors = np.full(batch.num_rows, None, dtype=object)
            columns = [sliced.typed(batch.column(c.name), c, errors) for c in contract.columns]
            positions = sliced.places(f"{path.name}#", np.arange(first, first + batch.num_rows))
            yield sliced.table(columns, positions, errors, lambda _: None, contract)
            first += batch.num_rows
            done = size * first // rows
            progress(done - told)
            told = done
