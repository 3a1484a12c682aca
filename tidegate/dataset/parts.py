"""Splits ordered rows by time into the training file and the held-out file, a row group at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from tidegate.contract.arrow import PARQUET, encodings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from tidegate.handoff import Window

pc: Any = pyarrow.compute  # its type stubs do not know calls that mix arrays and plain values
_GROUP = 1 << 16  # rows; the same rows make the same groups, however they come


@dataclass
class Counts:
    """How many rows went where, and how many have an event time outside of the window."""

    train: int = 0
    test: int = 0
    before: int = 0
    after: int = 0


def write_parts(
    tables: Iterator[Any], schema: Any, clock: str, window: Window, held_out_from: datetime, train: Path, test: Path
) -> Counts:
    """Write rows before `held_out_from` to `train`, all others to `test`; `tables` come in the order of time."""
    counts = Counts()
    with _Groups(train, schema) as training, _Groups(test, schema) as held_out:
        for table in tables:
            times = table.column(clock)
            late = pc.greater_equal(times, _moment(held_out_from, times.type))
            training.write(table.filter(pc.invert(late)))
            held_out.write(table.filter(late))
            counts.before += pc.sum(pc.less(times, _moment(window.start, times.type))).as_py()
            counts.after += pc.sum(pc.greater_equal(times, _moment(window.end, times.type))).as_py()
    counts.train, counts.test = training.rows, held_out.rows
    return counts


def _moment(moment: datetime, kind: Any) -> Any:
    """Return an instant as the event times have it; those without a zone are in UTC."""
    in_utc = pa.scalar(moment, pa.timestamp("us", tz="UTC"))
    return in_utc.cast(kind) if kind.tz else in_utc.cast(pa.timestamp("us")).cast(kind)


class _Groups:
    """A Parquet file whose row groups all have as many rows, but for the last."""

    def __init__(self, path: Path, schema: Any):
        self.rows = 0
        self._path = path
        self._out: Any = None
        self._waiting = schema.empty_table()

    def __enter__(self) -> _Groups:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None and (self._waiting.num_rows or self._out is None):
            self._put(self._waiting)
        if self._out is not None:
            self._out.close()

    def write(self, table: Any) -> None:
        """Take the next rows."""
        self.rows += table.num_rows
        self._waiting = pa.concat_tables([self._waiting, table])
        while self._waiting.num_rows >= _GROUP:
            self._put(self._waiting.slice(0, _GROUP))
            self._waiting = self._waiting.slice(_GROUP)

    def _put(self, table: Any) -> None:
        group = table.combine_chunks()
        if self._out is None:
            self._out = pq.ParquetWriter(self._path, group.schema, **PARQUET, **encodings(group))
        self._out.write_table(group, row_group_size=_GROUP)
