"""Quarantined rows as a table: where each stood at the source, why it was put aside, and what was read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tidegate.contract.arrow import BYTES, POSITION
from tidegate.validate.reasons import columns_of, value_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tidegate.contract import Contract
    from tidegate.contract.masks import Judged

QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field("position", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("reasons", pa.list_(pa.string()), nullable=False),
        pa.field("row", pa.string()),
        pa.field("bytes", pa.binary()),
        pa.field("column", pa.string()),
        pa.field("value", pa.string()),
        pa.field("contract_version", pa.string()),
        pa.field("contract_digest", pa.string()),
    ]
)
_BATCH = 1 << 12  # rows held as Python values at once


def quarantined(raw: Any, judged: Judged, contract: Contract) -> Any:
    """Return the nonconforming rows as a table of QUARANTINE_SCHEMA.

    `row` has the raw values as JSON, `bytes` what could not be decoded; `column` and `value` are of the first reason,
    the value shortened.
    """
    firsts = judged.first_reasons
    columns = {reason: columns_of(reason, contract) for reason in firsts.unique().to_pylist()}
    parts = [QUARANTINE_SCHEMA.empty_table()]
    for at in range(0, len(judged.bad), _BATCH):
        end = at + _BATCH
        table = raw.take(judged.bad[at:end])
        parts.append(_part(table, firsts[at:end], judged.all_reasons[at:end], columns, contract))
    return pa.concat_tables(parts)


def _part(taken: Any, firsts: Any, reasons: Any, columns: Mapping[str, tuple[str, ...]], contract: Contract) -> Any:
    read = taken.select(list(contract.names)).to_pylist()
    rows = [json.dumps(row, default=_plain, ensure_ascii=False) for row in read]
    listed = firsts.to_pylist()
    nothing = pa.nulls(len(rows))
    kept = taken.column(BYTES) if BYTES in taken.column_names else nothing
    for row, data in zip(read, kept.to_pylist(), strict=True):
        row[BYTES] = data
    made = [
        taken.column(POSITION) if POSITION in taken.column_names else nothing,
        firsts,
        reasons,
        pa.array(rows, pa.string()),
        kept,
        pa.array(["+".join(columns[reason]) or None for reason in listed], pa.string()),
        pa.array([value_of(*each, columns[each[1]]) for each in zip(read, listed, strict=True)], pa.string()),
        pa.repeat(contract.version, len(rows)),
        pa.repeat(contract.digest, len(rows)),
    ]
    return pa.table(made, names=QUARANTINE_SCHEMA.names).cast(QUARANTINE_SCHEMA)


def read_quarantine(path: Path, reason: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield a quarantine file's rows by the names of QUARANTINE_SCHEMA, those with `reason` among theirs or all.

    What a file of an older version does not say is None.
    """
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_BATCH, use_threads=False):
            for row in batch.to_pylist():
                if reason is None or reason in row["reasons"]:
                    yield {name: row.get(name) for name in QUARANTINE_SCHEMA.names}


def _plain(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
