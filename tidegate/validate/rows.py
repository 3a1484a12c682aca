"""Splits a slice by its contract into clean.parquet and quarantine.parquet."""

from __future__ import annotations

import json
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tidegate import keys
from tidegate.contract.arrow import BYTES, PARQUET, POSITION
from tidegate.contract.masks import Judged, judge
from tidegate.errors import DataError
from tidegate.handoff import ValidatedSlice

if TYPE_CHECKING:
    from tidegate.contract import Contract
    from tidegate.handoff import Slice
    from tidegate.lake import Lake

log = logging.getLogger(__name__)

CLEAN, QUARANTINE = "clean.parquet", "quarantine.parquet"
QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field("position", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("reasons", pa.list_(pa.string()), nullable=False),
        pa.field("row", pa.string()),
        pa.field("bytes", pa.binary()),
    ]
)


def validate_slice(slice: Slice, contract: Contract, lake: Lake) -> ValidatedSlice:
    """See `tidegate.validate.validate`."""
    key = keys.validated(slice.delivery, slice.source, slice.window)
    basis = {"slice_digest": slice.digest, "contract_digest": contract.digest}
    found = lake.manifest(key)
    if found is None or any(found.get(name) != value for name, value in basis.items()):
        raw = pq.read_table(lake.local(slice.key, "raw.parquet"), use_threads=False)
        windowed = slice.position.get("kind") != "hdfs"  # reference data are read whole for every window
        judged = judge(raw, contract, slice.window if windowed else None)
        bad = quarantine(raw, judged, contract)
        clean, quarantined = judged.clean.num_rows, bad.num_rows
        if raw.num_rows != slice.rows or raw.num_rows != clean + quarantined:
            raise DataError(
                f"{slice.key}: {slice.rows} rows were read, {raw.num_rows} are in the slice, {clean} clean and "
                f"{quarantined} quarantined; these must add up: read the slice again (refresh)"
            )
        reasons = dict(sorted(Counter(bad.column("reason").to_pylist()).items()))
        with lake.publish(key, **basis, clean=clean, quarantined=quarantined, reasons=reasons) as draft:
            pq.write_table(judged.clean, draft.file(CLEAN), **PARQUET)
            pq.write_table(bad, draft.file(QUARANTINE), **PARQUET)
        _tell(slice, bad, reasons)
        found = lake.require(key)
    counted = {name: found[name] for name in ("key", "clean", "quarantined", "reasons", "digest")}
    return ValidatedSlice(slice=slice, **counted)


def quarantine(raw: Any, judged: Judged, contract: Contract) -> Any:
    """Return the nonconforming rows as a table of QUARANTINE_SCHEMA: position, reasons and the raw values as JSON."""
    rows = raw.take(judged.bad).to_pylist()
    return pa.Table.from_pylist(
        [
            {
                "position": row.get(POSITION),
                "reason": reasons[0],
                "reasons": reasons,
                "row": json.dumps({name: row[name] for name in contract.names}, default=str, ensure_ascii=False),
                "bytes": row.get(BYTES),
            }
            for row, reasons in zip(rows, judged.reasons, strict=True)
        ],
        schema=QUARANTINE_SCHEMA,
    )


def _tell(slice: Slice, bad: Any, reasons: dict[str, int]) -> None:
    where = f"{slice.delivery}/{slice.source} {slice.window}"
    positions = bad.column("position").to_pylist()
    first_reasons = bad.column("reason").to_pylist()
    for reason, rows in reasons.items():
        example = positions[first_reasons.index(reason)]
        log.warning("%s: quarantined %d rows for %s, such as the one at %s", where, rows, reason, example)
