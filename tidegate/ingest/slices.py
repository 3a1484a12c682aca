"""Writes a raw slice so that the same rows always make the same bytes, and finds the one already published."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from tidegate import keys
from tidegate.contract.arrow import PARQUET, encodings, slice_schema
from tidegate.handoff import Slice
from tidegate.version import code_version

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tidegate.contract import Contract
    from tidegate.handoff import Window
    from tidegate.lake import Draft, Lake

pc: Any = pyarrow.compute
RAW = "raw.parquet"
LATE = b"late"
"""In a table's schema metadata: how many of its rows came too late for the window they belong to, as a text."""

SKIPPED = b"skipped"
"""In a table's schema metadata: how many rows the source had, and was told to leave out, beside these, as a text."""

_GROUP = 1 << 16  # rows of a Parquet row group: fixed, because a reader's batches depend on the network's timing
_BYTES = 32 << 20  # of texts and bytes, at which a row group ends before that


class Reading(Protocol):
    """How one source's window is read: frozen first, then in parts, which other processes may read.

    An implementation is a frozen dataclass of what is known before anything is asked: spec, contract, window, address.
    A source's module makes it by `reading(...)`: of what the slice's Target has, and where and how the source is read.
    """

    def freeze(self) -> dict[str, Any]:
        """Return the position: all that decides which rows are read, as JSON data, for the manifest."""
        ...

    def parts(self, position: dict[str, Any]) -> list[dict[str, Any]]:
        """Return how what is frozen is cut, in order, as JSON data; at least one part, by the position alone.

        The rows of the parts, one after another, are the rows of the slice. Each part becomes a file and, where there
        are several, a task of its own, which costs seconds to start: cut what takes minutes.
        """
        ...

    def rows(self, position: dict[str, Any], part: dict[str, Any]) -> Iterator[Any]:
        """Yield the part's rows in a stable order as tables of the contract's slice schema, in bounded memory."""
        ...


@dataclass(frozen=True)
class Target:
    """Where a slice goes: one source's window in a lake, under a contract."""

    delivery: str
    source: str
    contract: Contract
    window: Window
    lake: Lake

    @property
    def key(self) -> str:
        """The lake key of the slice."""
        return keys.raw(self.delivery, self.source, self.window)

    def published(self) -> Slice | None:
        """Return the slice published before, or None."""
        found = self.lake.manifest(self.key)
        return None if found is None else Slice.of_manifest(found)

    def read(self, reading: Reading, position: dict[str, Any], parts: list[dict[str, Any]]) -> Slice:
        """Read all parts in this process, and publish the slice."""
        with self.draft(position) as draft:
            counts = [
                write(draft.file(file_name(number, len(parts))), self.contract, reading.rows(position, part))
                for number, part in enumerate(parts)
            ]
            draft.fields.update(counted(counts))
        return Slice.of_manifest(self.lake.require(self.key))

    @contextmanager
    def draft(self, position: dict[str, Any]) -> Iterator[Draft]:
        """Give the slice's draft; where its rows are as published, the manifest stays as published too."""
        names = {"delivery": self.delivery, "source": self.source, "contract": self.contract.name}
        with self.lake.publish(self.key, **names, window=self.window.model_dump(mode="json")) as draft:
            draft.about.update(
                position=position,
                contract_version=self.contract.version,
                contract_digest=self.contract.digest,
                code=code_version(),
            )
            yield draft


def publish(target: Target, reading: Reading, *, refresh: bool = False) -> Slice:
    """Return the slice of this window: published before, or (also on `refresh`) read now, by this process alone."""
    found = None if refresh else target.published()
    if found is not None:
        return found
    position = reading.freeze()
    return target.read(reading, position, reading.parts(position))


class Counts(NamedTuple):
    """What was written of a slice or a part: rows, those of them that came late, and rows left out."""

    rows: int
    late: int = 0
    skipped: int = 0


def counted(counts: list[Counts]) -> dict[str, int]:
    """Return the counts of all parts together, as the manifest names them."""
    return dict(zip(Counts._fields, map(sum, zip(*counts, strict=True)), strict=True))


def file_name(number: int, parts: int) -> str:
    """Return the name of a part's file in its slice: by name, the files stand in the order of their rows."""
    return RAW if parts == 1 else f"raw-{number:05}.parquet"


def write(path: Path, contract: Contract, tables: Iterator[Any]) -> Counts:
    """Write tables of the slice schema to one Parquet file in row groups of a fixed size; return what was written."""
    first = next(tables, slice_schema(contract).empty_table())
    nothing = first.schema.remove_metadata().empty_table()  # a source may have columns of its own after the contract's
    told: Counter[bytes] = Counter()
    groups = _groups(nothing, chain([first], tables), told)
    begin = next(groups)
    rows = 0
    with pq.ParquetWriter(path, nothing.schema, **PARQUET, **encodings(begin)) as out:
        for group in chain([begin], groups):
            out.write_table(group, row_group_size=_GROUP)
            rows += group.num_rows
    return Counts(rows, told[LATE], told[SKIPPED])


def _groups(waiting: Any, tables: Iterator[Any], told: Counter[bytes]) -> Iterator[Any]:
    """Yield the rows in groups that depend on the rows alone, at least one; add up what the tables tell."""
    for table in tables:
        told.update({name: int((table.schema.metadata or {}).get(name, 0)) for name in (LATE, SKIPPED)})
        waiting = pa.concat_tables([waiting, table])
        while count := _whole_group(waiting):
            yield waiting.slice(0, count).combine_chunks()
            waiting = waiting.slice(count)
    yield waiting.combine_chunks()


def _whole_group(waiting: Any) -> int:
    """Return how many rows are a group by now: _GROUP, or those with which texts and bytes reach _BYTES; else 0."""
    if waiting.nbytes >= _BYTES:
        columns = [each for each in waiting.columns if pa.types.is_string(each.type) or pa.types.is_binary(each.type)]
        sizes = sum(np.asarray(pc.fill_null(pc.binary_length(each), 0), np.int64) for each in columns)
        reached = int(np.searchsorted(np.cumsum(sizes), _BYTES)) + 1 if columns else _GROUP
        if reached <= min(_GROUP, waiting.num_rows):
            return reached
    return _GROUP if waiting.num_rows >= _GROUP else 0
