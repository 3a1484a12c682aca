"""Splits a slice by its contract into clean.parquet and quarantine.parquet."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from tidegate import keys
from tidegate.contract.arrow import clean_schema
from tidegate.errors import DataError
from tidegate.handoff import ValidatedSlice
from tidegate.validate import stream
from tidegate.validate.sinks import ParquetSink
from tidegate.validate.stream import QUARANTINE_SCHEMA, Outcome
from tidegate.validate.verdict import complaints

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate.contract import Contract
    from tidegate.handoff import Slice
    from tidegate.lake import Lake

log = logging.getLogger(__name__)

CLEAN, QUARANTINE = "clean.parquet", "quarantine.parquet"
_ROWS = 1 << 16


def validate_slice(slice: Slice, contract: Contract, lake: Lake) -> ValidatedSlice:
    """See `tidegate.validate.validate`."""
    key = keys.validated(slice.delivery, slice.source, slice.window)
    basis = {"slice_digest": slice.digest, "contract_digest": contract.digest}
    found = lake.manifest(key)
    if found is None or any(found.get(name) != value for name, value in basis.items()):
        windowed = slice.position.get("kind") != "hdfs"  # reference data are read whole for every window
        with lake.publish(key, **basis) as draft:
            with ExitStack() as open_files:
                clean, bad = (
                    open_files.enter_context(ParquetSink(draft.file(name), schema))
                    for name, schema in ((CLEAN, clean_schema(contract)), (QUARANTINE, QUARANTINE_SCHEMA))
                )
                window = slice.window if windowed else None
                outcome = stream.run(lambda: _tables(slice, lake), contract, clean, bad, window)
            _refuse(slice, contract, outcome)
            draft.fields.update(clean=outcome.clean, quarantined=outcome.quarantined, reasons=outcome.reasons)
        _tell(slice, outcome)
        found = lake.require(key)
    counted = {name: found[name] for name in ("key", "clean", "quarantined", "reasons", "digest")}
    return ValidatedSlice(slice=slice, **counted)


def _tables(slice: Slice, lake: Lake) -> Iterator[Any]:
    import pyarrow as pa

    with pq.ParquetFile(lake.local(slice.key, "raw.parquet"), pre_buffer=False) as file:
        for batch in file.iter_batches(_ROWS, use_threads=False):
            yield pa.Table.from_batches([batch])


def _refuse(slice: Slice, contract: Contract, outcome: Outcome) -> None:
    """Raise where rows are missing, or where the contract stops the slice as a whole."""
    if outcome.rows != slice.rows or outcome.rows != outcome.clean + outcome.quarantined:
        raise DataError(
            f"{slice.key}: {slice.rows} rows were read, {outcome.rows} are in the slice, {outcome.clean} clean and "
            f"{outcome.quarantined} quarantined; these must add up: read the slice again (refresh)"
        )
    where = f"{slice.delivery}/{slice.source} {slice.window}"
    stops = []
    for complaint in complaints(outcome, contract, slice.window.end.timestamp()):
        log.warning("%s: %s", where, complaint.message)
        stops += [complaint.message] if complaint.severity == "stop" else []
    if stops:
        raise DataError(
            f"{where} is refused by {contract.path}: {'; '.join(stops)}. Mend the source and read the slice again, or "
            "change the rule in the contract"
        )


def _tell(slice: Slice, outcome: Outcome) -> None:
    where = f"{slice.delivery}/{slice.source} {slice.window}"
    for reason, found in outcome.findings.items():
        if found.severity == "warn":
            log.warning("%s: %d rows break %s, such as the one at %s", where, found.rows, reason, found.position)
    for reason, rows in outcome.reasons.items():
        example = outcome.examples[reason]
        log.warning("%s: quarantined %d rows for %s, such as the one at %s", where, rows, reason, example)
