"""Judges rows as they stream by, in bounded memory, and adds up what was found.

Rules on single rows need one pass. Whether a key stands twice is known at its end only: where some do, the rows are
read once more, and of each key the first conforming row stays. Keys beyond what memory may hold are kept in a file.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import duckdb
import numpy as np
import pyarrow as pa

from tidegate.contract.arrow import POSITION, clean_schema
from tidegate.contract.masks import Judged, judge
from tidegate.handoff import Example
from tidegate.validate.quarantine import quarantined
from tidegate.validate.reasons import columns_of, value_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from tidegate.contract import Contract
    from tidegate.contract.model import Severity
    from tidegate.handoff import Window

_HELD = 16 << 20  # bytes of keys kept in memory; more go to a file
_LIMITS = {"threads": 1, "memory_limit": "128MB"}


class Sink(Protocol):
    """Where rows go: tables of one schema, in their order."""

    def write(self, table: Any) -> None:
        """Take the next rows."""

    def again(self) -> None:
        """Forget what was written: all rows come once more."""


class Nowhere:
    """A sink for rows that nobody asked for."""

    def write(self, table: Any) -> None:
        """Drop them."""

    def again(self) -> None:
        """Do nothing."""


@dataclass
class Found:
    """One reason: what happens to its rows, how many, and the place and value of the first."""

    severity: Severity
    rows: int
    position: str
    value: str


@dataclass
class Outcome:
    """What came of a slice's rows; `reasons` counts each quarantined row once, under its first reason."""

    rows: int = 0
    clean: int = 0
    quarantined: int = 0
    findings: dict[str, Found] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    examples: dict[str, Example] = field(default_factory=dict)
    """The first row that is counted under each of `reasons`."""
    newest: float | None = None
    """The newest event time among the clean rows, seconds since 1970."""


def run(
    read: Callable[[], Iterator[Any]],
    contract: Contract,
    clean: Sink,
    quarantine: Sink,
    window: Window | None = None,
    many: Callable[[], None] = lambda: None,
) -> Outcome:
    """Judge all rows that `read` yields, as tables of the slice schema; conforming ones go to `clean`.

    `read` is called a second time where keys repeat, after `many` was called, and must yield the same rows.
    """
    with Keys(contract) as keys:
        outcome = _pass(read(), contract, clean, quarantine, window, keys, None)
        repeated = keys.repeated(outcome.rows)
    if not repeated:
        return outcome
    many()
    for sink in (clean, quarantine):
        sink.again()
    return _pass(read(), contract, clean, quarantine, window, None, repeated)


def _pass(
    tables: Iterator[Any],
    contract: Contract,
    clean: Sink,
    quarantine: Sink,
    window: Window | None,
    keys: Keys | None,
    repeated: dict[str, NDArray[np.uint8]] | None,
) -> Outcome:
    outcome = Outcome()
    for table in tables:
        size = table.num_rows
        known = {reason: _bits(bits, outcome.rows, size) for reason, bits in (repeated or {}).items()}
        judged = judge(table, contract, window, known)
        if keys is not None:
            keys.take(judged, outcome.rows, size)
        clean.write(judged.clean)
        if len(judged.bad):
            quarantine.write(quarantined(table, judged, contract))
        _add(outcome, table, judged, contract)
    outcome.reasons = dict(sorted(outcome.reasons.items()))
    return outcome


def _add(outcome: Outcome, table: Any, judged: Judged, contract: Contract) -> None:
    outcome.rows += table.num_rows
    outcome.clean += judged.clean.num_rows
    outcome.quarantined += len(judged.bad)
    for finding in judged.findings:
        known = outcome.findings.get(finding.reason)
        if known is None:
            example = _example(table, finding.first, finding.reason, contract)
            outcome.findings[finding.reason] = Found(finding.severity, finding.rows, example.position, example.value)
        else:
            known.rows += finding.rows
    firsts = judged.first_reasons
    for counted in firsts.value_counts().to_pylist():
        reason = counted["values"]
        outcome.reasons[reason] = outcome.reasons.get(reason, 0) + counted["counts"]
        if reason not in outcome.examples:
            row = int(judged.bad[firsts.index(reason).as_py()])
            outcome.examples[reason] = _example(table, row, reason, contract)
    newest = _newest(judged.clean, contract)
    outcome.newest = newest if outcome.newest is None else max(outcome.newest, newest or outcome.newest)


def _example(table: Any, row: int, reason: str, contract: Contract) -> Example:
    taken = table.slice(row, 1).to_pylist()[0]
    place = str(taken.get(POSITION) or f"row {row}")
    return Example(position=place, value=value_of(taken, reason, columns_of(reason, contract)))


def _newest(clean: Any, contract: Contract) -> float | None:
    clock = contract.event_time
    if clock is None or not clean.num_rows:
        return None
    import pyarrow.compute as pc

    newest = pc.max(clean.column(clock.name))
    if not newest.is_valid:
        return None
    if pa.types.is_timestamp(newest.type):
        return float(newest.cast(pa.int64()).as_py()) / 1e6
    return float(newest.as_py()) / {"epochMilliseconds": 1e3, "epochMicroseconds": 1e6}.get(clock.cast, 1.0)


def _bits(bits: NDArray[np.uint8], first: int, rows: int) -> NDArray[np.bool_]:
    start, end = first // 8, (first + rows + 7) // 8
    return np.unpackbits(bits[start:end])[first - 8 * start :][:rows].astype(bool)


class Keys:
    """The keys of all conforming rows so far, in memory, or beyond that in a file that is gone at the end."""

    def __init__(self, contract: Contract):
        self._uniques = contract.uniques
        names = sorted({name for names in self._uniques.values() for name in names})
        schema = clean_schema(contract)
        self._schema = pa.schema([*[schema.field(name).with_nullable(True) for name in names], ("_row", pa.int64())])
        self._names = names
        self._held: list[Any] = []
        self._bytes = 0
        self._file: Any = None
        self._folder: Any = None

    def __enter__(self) -> Keys:
        """Start with none."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the file, if there is one."""
        if self._file is not None:
            self._file.close()
            self._folder.cleanup()

    def take(self, judged: Judged, first: int, rows: int) -> None:
        """Remember the keys of a table's conforming rows; `first` is the number of its first row."""
        if not self._uniques:
            return
        conforming = np.ones(rows, dtype=bool)
        conforming[judged.bad] = False
        numbers = pa.array(np.flatnonzero(conforming) + first)
        table = judged.clean.select(self._names).append_column("_row", numbers).cast(self._schema)
        self._held.append(table)
        self._bytes += table.nbytes
        if self._bytes > _HELD:
            self._spill()

    def repeated(self, rows: int) -> dict[str, NDArray[np.uint8]]:
        """Return reason -> bit per row of those whose key an earlier conforming row has; without reasons of no row."""
        found: dict[str, NDArray[np.uint8]] = {}
        if not self._uniques:
            return found
        if self._file is not None and self._held:
            self._spill()
        held = pa.concat_tables([self._schema.empty_table(), *self._held])
        connection = self._file if self._file is not None else database(":memory:", {})
        if self._file is None:
            connection.register("keys", held)
        for reason, names in self._uniques.items():
            mask = np.zeros(rows, dtype=bool)
            for batch in _repeats(connection, names):
                mask[batch.column(0).to_numpy()] = True
            if mask.any():
                found[reason] = np.packbits(mask)
        if self._file is None:
            connection.close()
        return found

    def _spill(self) -> None:
        if self._file is None:
            self._folder = tempfile.TemporaryDirectory(prefix="tidegate-keys-")
            folder = Path(self._folder.name)
            self._file = database(str(folder / "keys.duckdb"), {"temp_directory": str(folder / "spilled")})
        held = pa.concat_tables(self._held)
        self._file.register("held", held)
        there = self._file.sql("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'keys'").fetchall()[0][0]
        self._file.execute("INSERT INTO keys FROM held" if there else "CREATE TABLE keys AS FROM held")
        self._file.unregister("held")
        self._held, self._bytes = [], 0


def database(path: str, config: dict[str, Any]) -> Any:
    """Return a connection to a DuckDB database that keeps within a part's memory; it must be closed."""
    connection = duckdb.connect(path, config={**_LIMITS, **config})
    connection.execute("SET enable_progress_bar = false")  # it would go to stdout
    return connection


def _repeats(connection: Any, names: tuple[str, ...]) -> Iterator[Any]:
    listed = ", ".join(f'"{name}"' for name in names)
    there = " AND ".join(f'"{name}" IS NOT NULL' for name in names)
    same = " AND ".join(f'k."{name}" = f."{name}"' for name in names)
    question = (
        f"WITH f AS (SELECT {listed}, min(_row) AS first FROM keys WHERE {there} GROUP BY ALL HAVING count(*) > 1) "  # noqa: S608
        f"SELECT k._row FROM keys k JOIN f ON {same} WHERE k._row > f.first"
    )
    yield from connection.sql(question).to_arrow_reader(1 << 16)
