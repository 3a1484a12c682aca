"""Splits a slice by its contract into clean.parquet and quarantine.parquet."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from tidegate import keys
from tidegate.contract.arrow import clean_schema
from tidegate.errors import DataError
from tidegate.handoff import ValidatedSlice
from tidegate.validate import stream
from tidegate.validate.quarantine import QUARANTINE_SCHEMA
from tidegate.validate.reasons import printable
from tidegate.validate.reread import reread
from tidegate.validate.sinks import ParquetSink
from tidegate.validate.verdict import complaints

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tidegate.contract import Contract
    from tidegate.handoff import Slice
    from tidegate.lake import Draft, Lake

log = logging.getLogger(__name__)

CLEAN, QUARANTINE = "clean.parquet", "quarantine.parquet"
_ROWS = 1 << 16


def validate_slice(slice: Slice, contract: Contract, lake: Lake) -> ValidatedSlice:
    """See `tidegate.validate.validate`."""
    key, of_refusal = (named(slice.delivery, slice.source, slice.window) for named in (keys.validated, keys.refused))
    basis = {"slice_digest": slice.digest, "contract_digest": contract.digest}
    found = lake.manifest(key)
    if found is None or any(found.get(name) != value for name, value in basis.items()):
        with lake.publish(key, **basis, contract=contract.name, contract_version=contract.version) as draft:
            outcome = _split(slice, contract, lake, draft)
            reasons = _reasons_to_stop(slice, contract, outcome)
            if reasons:
                _keep_refused(of_refusal, lake, draft, reasons)
                raise DataError(
                    f"{_where(slice)} is refused by {contract.path}: {'; '.join(reasons)}. Look at the rows with "
                    f"`tidegate quarantine show {slice.delivery} {slice.source} {slice.window.id}`; then mend the "
                    "source and read the slice again, or change the rule in the contract"
                )
            if found is not None and found.get("slice_digest") == slice.digest:
                draft.fields["changed"] = _changed(found, lake, draft)
        _tell(slice, outcome)
        found = lake.require(key)
    if lake.manifest(of_refusal) is not None:
        lake.delete(of_refusal)
    counted = {name: found[name] for name in ("key", "clean", "quarantined", "reasons", "digest")}
    return ValidatedSlice(slice=slice, **counted, examples=found.get("examples", {}))


def _split(slice: Slice, contract: Contract, lake: Lake, draft: Draft) -> stream.Outcome:
    """Write a slice's clean and its quarantined rows into a draft, and their numbers into its fields."""
    is_windowed = slice.position.get("windowed", slice.position.get("kind") != "hdfs")  # slices of old do not say it
    by_time = is_windowed and slice.position.get("key") is None
    with ExitStack() as open_files:
        clean, bad = (
            open_files.enter_context(ParquetSink(draft.file(name), schema))
            for name, schema in ((CLEAN, clean_schema(contract)), (QUARANTINE, QUARANTINE_SCHEMA))
        )
        window = slice.window if by_time else None  # reference data are read whole, and a key says nothing of when
        outcome = stream.run(lambda: _tables(slice, contract, lake), contract, clean, bad, window)
    if outcome.rows != slice.rows or outcome.rows != outcome.clean + outcome.quarantined:
        raise DataError(
            f"{slice.key}: {slice.rows} rows were read, {outcome.rows} are in the slice, {outcome.clean} clean and "
            f"{outcome.quarantined} quarantined; these must add up: read the slice again (refresh)"
        )
    draft.fields.update(
        clean=outcome.clean,
        quarantined=outcome.quarantined,
        reasons=outcome.reasons,
        examples={reason: example.model_dump() for reason, example in sorted(outcome.examples.items())},
    )
    return outcome


def _tables(slice: Slice, contract: Contract, lake: Lake) -> Iterator[Any]:
    import pyarrow as pa

    is_json = slice.position.get("kind") == "kafka"
    for name in sorted(lake.require(slice.key, slice.digest)["files"]):
        with (
            lake.at_hand(slice.key, name, slice.digest) as path,
            pq.ParquetFile(path, pre_buffer=False) as file,
        ):
            for batch in file.iter_batches(_ROWS, use_threads=False):
                table = pa.Table.from_batches([batch])
                yield reread(table, contract) if is_json else table


def _reasons_to_stop(slice: Slice, contract: Contract, outcome: stream.Outcome) -> list[str]:
    stops = []
    for complaint in complaints(outcome, contract, slice.window.end.timestamp()):
        log.warning("%s: %s", _where(slice), complaint.message)
        stops += [complaint.message] if complaint.severity == "stop" else []
    return stops


def _keep_refused(key: str, lake: Lake, draft: Draft, stops: list[str]) -> None:
    """Keep a refused slice's quarantined rows, to be looked at; nobody takes clean rows of it."""
    with lake.publish(key, **draft.fields, stops=stops) as kept:
        draft.file(QUARANTINE).rename(kept.file(QUARANTINE))


def _changed(before: Mapping[str, Any], lake: Lake, draft: Draft) -> dict[str, Any]:
    """Return what became of the rows that were quarantined before: how many are clean now, still not, or newly not."""
    old = lake.local(str(before["key"]), QUARANTINE, str(before["digest"]))
    still = _in_both(old, draft.file(QUARANTINE))
    return {
        "from_digest": before["digest"],
        "from_contract_version": before.get("contract_version"),
        "now_clean": before["quarantined"] - still,
        "still_quarantined": still,
        "newly_quarantined": draft.fields["quarantined"] - still,
    }


def _in_both(old: Path, new: Path) -> int:
    """Return how many rows of two quarantine files stood at the same place of the source."""
    question = (
        "SELECT count(*) FROM (SELECT position FROM read_parquet(?) INTERSECT ALL SELECT position FROM read_parquet(?))"
    )
    with (
        TemporaryDirectory(prefix="tidegate-changed-") as folder,
        stream.database(":memory:", {"temp_directory": folder}) as connection,
    ):
        counted: list[tuple[int]] = connection.execute(question, [str(old), str(new)]).fetchall()
    return counted[0][0]


def _where(slice: Slice) -> str:
    return f"{slice.delivery}/{slice.source} {slice.window}"


def _tell(slice: Slice, outcome: stream.Outcome) -> None:
    for reason, found in outcome.findings.items():
        if found.severity == "warn":
            log.warning(
                "%s: %d rows break %s, such as the one at %s", _where(slice), found.rows, reason, found.position
            )
    for reason, rows in outcome.reasons.items():
        example = outcome.examples[reason]
        log.warning(
            "%s: quarantined %d rows for %s, such as the one at %s: %s",
            _where(slice), rows, reason, example.position, printable(example.value),
        )  # fmt: skip
