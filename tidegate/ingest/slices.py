"""Writes a raw slice so that the same rows always make the same bytes, and finds the one already published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tidegate import keys
from tidegate.contract.arrow import PARQUET, slice_schema
from tidegate.handoff import Slice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tidegate.contract import Contract
    from tidegate.handoff import Window
    from tidegate.lake import Lake

RAW = "raw.parquet"
_GROUP = 1 << 16  # rows of a Parquet row group: fixed, because a reader's batches depend on the network's timing


def publish(
    *,
    delivery: str,
    source: str,
    contract: Contract,
    window: Window,
    lake: Lake,
    refresh: bool,
    read: Callable[[dict[str, Any]], Iterator[Any]],
) -> Slice:
    """Return the slice of this window: the one published before, or (also on `refresh`) a newly read one.

    `read` yields tables of the contract's slice schema in a stable order, and fills the position it is given.
    """
    key = keys.raw(delivery, source, window)
    found = None if refresh else lake.manifest(key)
    if found is None:
        fields = {
            "delivery": delivery, "source": source, "contract": contract.name, "window": window.model_dump(mode="json"),
        }  # fmt: skip
        with lake.publish(key, **fields) as draft:
            position: dict[str, Any] = {}
            draft.fields["rows"] = write(draft.file(RAW), contract, read(position))
            draft.fields["position"] = position
        found = lake.require(key)
    return Slice.of_manifest(found)


def write(path: Path, contract: Contract, tables: Iterator[Any]) -> int:
    """Write tables of the slice schema to one Parquet file in row groups of a fixed size; return the rows."""
    schema = slice_schema(contract)
    rows, waiting = 0, schema.empty_table()
    with pq.ParquetWriter(path, schema, **PARQUET) as out:
        for table in tables:
            waiting = pa.concat_tables([waiting, table])
            while waiting.num_rows >= _GROUP:
                out.write_table(waiting.slice(0, _GROUP).combine_chunks(), row_group_size=_GROUP)
                waiting = waiting.slice(_GROUP)
                rows += _GROUP
        out.write_table(waiting.combine_chunks(), row_group_size=_GROUP)
    return rows + int(waiting.num_rows)
