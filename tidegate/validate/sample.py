"""Rows of Parquet files batch by batch: all of them, or of more than so many a fixed sample, the same one always."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_BATCH = 1 << 16
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio: its multiples spread evenly


def count(paths: Sequence[Path]) -> int:
    """Return how many rows the files have."""
    return sum(pq.ParquetFile(path).metadata.num_rows for path in paths)


def batches(paths: Sequence[Path], most_rows: int) -> Iterator[Any]:
    """Yield record batches of the files' rows, in order; of more than `most_rows` about so many.

    A row is taken by its number alone, so that the same files give the same sample.
    """
    rows = count(paths)
    share, first = most_rows / rows if rows > most_rows else 1.0, 0
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(_BATCH, use_threads=False):
            if share < 1.0:
                numbers = np.arange(first, first + batch.num_rows, dtype=np.uint64) * _GOLDEN
                first += batch.num_rows
                yield batch.filter(pa.array(numbers < np.uint64(int(share * 2.0**64))))
            else:
                yield batch
