"""A contract as row masks: one vectorised pass per rule says which rows break it, and casts what may be cast.

A row's reasons read `<column>:<rule>` (`a.b` inside a struct, `a[]` for the items of a list, `row:<name>` for a rule
between columns), in the order of the columns and of the rules below; its first is the one it is counted under.
Castability is decided by the lexical form before any cast, because engines disagree on what an integer looks like
(`1e3`, ` 12`, `+5`, `0x10`). NULL breaks `required` and nothing else.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from tidegate.contract.arrow import ERROR, clean_schema, clean_type, enum_array, limit_scalar, raw_type
from tidegate.contract.forms import has_form
from tidegate.contract.texts import cast_text, castable, in_zone
from tidegate.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from tidegate.contract.model import Column, Contract, Severity
    from tidegate.handoff import Window

    Mask = NDArray[np.bool_]
    Rules = list[tuple[str, Mask]]

_array: Any = pa.array
_lists: Any = pa.ListArray
pc: Any = pyarrow.compute  # its type stubs do not know calls that mix arrays and plain values

_LIMITS = (
    ("minimum", pc.less),
    ("maximum", pc.greater),
    ("exclusive_minimum", pc.less_equal),
    ("exclusive_maximum", pc.greater_equal),
)
_MANY, _WORKERS = 1 << 15, 4  # rows that are worth a thread of their own, and how many threads at most
_SAMPLE = 1 << 14  # rows whose distinct texts say whether a column has few of them


@dataclass(frozen=True)
class Finding:
    """One rule that some rows broke: what happens to them, how many, and the number of the first."""

    reason: str
    severity: Severity
    rows: int
    first: int


@dataclass(frozen=True)
class Judged:
    """What a contract says of a raw table of n rows.

    `clean` holds the conforming rows only, in their order; `bad` [m] the row numbers of the others, ascending;
    `findings` every rule that was broken, those that only warn among them.
    """

    clean: Any
    bad: NDArray[np.int64]
    findings: tuple[Finding, ...]
    broken: tuple[tuple[str, NDArray[np.int64]], ...]
    """Reason -> numbers of the rows that break it, ascending; without those that only warn."""

    @property
    def first_reasons(self) -> Any:
        """The reason that each bad row is counted under, an Arrow array of m texts."""
        first = np.full(len(self.bad), -1, dtype=np.int64)
        for place in range(len(self.broken) - 1, -1, -1):
            first[np.searchsorted(self.bad, self.broken[place][1])] = place
        return pa.array([reason for reason, _ in self.broken], pa.string()).take(_array(first))

    @cached_property
    def all_reasons(self) -> Any:
        """All reasons of each bad row, an Arrow array of m lists of texts."""
        rows = np.concatenate([rows for _, rows in self.broken]) if self.broken else np.empty(0, np.int64)
        places = np.repeat(np.arange(len(self.broken)), [len(rows) for _, rows in self.broken])
        order = np.argsort(rows, kind="stable")
        offsets = np.searchsorted(rows[order], self.bad, side="left")
        names = pa.array([reason for reason, _ in self.broken], pa.string()).take(_array(places[order]))
        return _lists.from_arrays(_array(np.append(offsets, len(rows)).astype(np.int32)), names)

    @property
    def reasons(self) -> list[list[str]]:
        """All reasons of each bad row."""
        found: list[list[str]] = self.all_reasons.to_pylist()
        return found


def judge(
    table: Any, contract: Contract, window: Window | None = None, repeated: Mapping[str, Mask] | None = None
) -> Judged:
    """Judge every row of a raw table (schema `slice_schema`, or `raw_schema`) by its contract.

    Where a window is given, a row whose event time lies outside of it breaks `outside_window`: it came too late, or
    bears a wrong time, and belongs to no slice of this source. `repeated` says which rows repeat a key or a unique
    value (reason -> mask), for a table that is a part of a slice; by default the table is a slice of its own.

    Raises:
        DataError: the table lacks a column, or has one of another type than the contract's physicalType.
    """
    _same_types(table, contract)
    broken: Rules = []
    undecodable = _undecodable(table)
    if undecodable is not None:
        broken += _by_error(table, undecodable)
    columns = []
    for column, (values, rules) in zip(contract.columns, _all_columns(table, contract), strict=True):
        columns.append(values)
        if column.event_time and window is not None:
            rules += _outside(values, window, column)
        broken += rules if undecodable is None else [(reason, mask & ~undecodable) for reason, mask in rules]
    cast = pa.Table.from_arrays(columns, names=list(contract.names))
    if contract.row_rules:
        from tidegate.contract.between import broken_rows

        between = broken_rows(cast, contract)
        broken += between if undecodable is None else [(reason, mask & ~undecodable) for reason, mask in between]
    return _split(cast, contract, broken, repeated)


def _split(cast: Any, contract: Contract, broken: Rules, repeated: Mapping[str, Mask] | None) -> Judged:
    severities = {reason: contract.severity_of(reason) for reason, _ in broken}
    bad = np.zeros(cast.num_rows, dtype=bool)
    for reason, mask in broken:
        if severities[reason] != "warn":
            bad |= mask
    again: Rules = []
    for reason, names in contract.uniques.items():
        known = _repeated(cast.select(list(names)), ~bad) if repeated is None else repeated.get(reason)
        if known is not None:
            severities[reason] = contract.severity_of(reason)
            again.append((reason, known))
    for reason, mask in again:
        if severities[reason] != "warn":
            bad = bad | mask
    broken = broken + again
    rows = [(reason, np.flatnonzero(mask)) for reason, mask in broken]
    findings = [Finding(reason, severities[reason], len(at), int(at[0])) for reason, at in rows if len(at)]
    kept = tuple((reason, at) for reason, at in rows if len(at) and severities[reason] != "warn")
    clean = cast.filter(pa.array(~bad)).cast(clean_schema(contract))
    return Judged(clean, np.flatnonzero(bad), tuple(findings), kept)


def _all_columns(table: Any, contract: Contract) -> list[tuple[Any, Rules]]:
    """Judge each column for itself; many rows in parts side by side, because Arrow works without the GIL."""

    def judged(part: Any) -> list[tuple[Any, Rules]]:
        return [_column(_values(part, column), column, column.name) for column in contract.columns]

    workers = min(_WORKERS, os.cpu_count() or 1, table.num_rows // _MANY)
    if workers < 2:
        return judged(table)
    size = -(-table.num_rows // workers)
    with ThreadPoolExecutor(workers, thread_name_prefix="tidegate-rows") as pool:
        parts = list(pool.map(judged, (table.slice(at, size) for at in range(0, table.num_rows, size))))
    return [_joined(column) for column in zip(*parts, strict=True)]


def _joined(parts: tuple[tuple[Any, Rules], ...]) -> tuple[Any, Rules]:
    """Put one column's parts together: the rules are the same ones in each, in the same order."""
    values = pa.chunked_array([values for values, _ in parts])
    masks = zip(*(rules for _, rules in parts), strict=True)
    return values, [(same[0][0], np.concatenate([mask for _, mask in same])) for same in masks]


def _values(table: Any, column: Column) -> Any:
    return table.column(column.name).combine_chunks()


def _same_types(table: Any, contract: Contract) -> None:
    for column in contract.columns:
        if column.name not in table.column_names:
            have = ", ".join(table.column_names)
            raise DataError(
                f"column {column.name!r} of {contract.path} is not in the slice, which has {have}; "
                "read the slice again (refresh), or mend the contract"
            )
        found = table.schema.field(column.name).type
        if found != raw_type(column):
            raise DataError(
                f"column {column.name!r} is {found} in the slice but {raw_type(column)} by {contract.path}; "
                "read the slice again (refresh), or mend its physicalType"
            )


def _undecodable(table: Any) -> Mask | None:
    if ERROR not in table.column_names:
        return None
    mask = _true(pc.is_valid(table.column(ERROR).combine_chunks()))
    return mask if mask.any() else None


def _by_error(table: Any, undecodable: Mask) -> Iterator[tuple[str, Mask]]:
    errors = table.column(ERROR).combine_chunks()
    for reason in sorted(pc.unique(errors.filter(pa.array(undecodable))).to_pylist()):
        yield reason, _true(pc.equal(errors, reason))


def _column(values: Any, column: Column, path: str) -> tuple[Any, Rules]:
    rules: Rules = []
    if column.missing:
        values = pc.if_else(pc.is_in(values, pa.array(column.missing)), pa.scalar(None, values.type), values)
    if column.required:
        rules.append((f"{path}:required", _true(pc.is_null(values))))
    if column.clean == "struct":
        values, inner = _struct(values, column, path)
        return values, rules + inner
    if column.clean == "list":
        values, inner = _list(values, column, path)
        return values, rules + inner
    coded = _coded(values) if column.lexical_form is not None or column.pattern is not None else None
    if coded is None:
        values, found = _plain(values, column)
    else:
        distinct, indices = coded
        cast, found = _plain(distinct, column)
        values = values if cast is distinct else cast.take(indices)
        found = [(rule, _spread(mask, indices)) for rule, mask in found]
    return values, rules + [(f"{path}:{rule}", mask) for rule, mask in found]


def _plain(values: Any, column: Column) -> tuple[Any, Rules]:
    values, rules = _cast(values, column)
    rules += [*_limits(values, column), *_text_rules(values, column)]
    if column.enum:
        rules.append(("enum", _true(pc.and_(pc.is_valid(values), pc.invert(pc.is_in(values, enum_array(column)))))))
    return values, rules


def _coded(values: Any) -> tuple[Any, Any] | None:
    """Return a column's distinct texts and each row's index, where they are few: a pattern then meets each once."""
    if not pa.types.is_string(values.type) or len(values) < _MANY:
        return None
    sample = values.slice(0, _SAMPLE)
    if pc.count_distinct(sample).as_py() > _SAMPLE // 2:
        return None
    coded = values.dictionary_encode()
    return (coded.dictionary, coded.indices) if len(coded.dictionary) <= len(values) // 4 else None


def _spread(mask: Mask, indices: Any) -> Mask:
    if not mask.any():
        return np.zeros(len(indices), dtype=bool)
    return _true(_array(mask).take(indices))


def _cast(values: Any, column: Column) -> tuple[Any, Rules]:
    rules: Rules = []
    wanted = clean_type(column)
    if column.lexical_form is not None:
        fits = has_form(values, column.lexical_form)
        rules.append(("lexical_form", _true(pc.invert(fits))))
        formed = _only(values, fits)
        values = cast_text(formed, column)
        rules.append(("no_such_value", _lost(formed, values)))
    elif values.type != wanted:
        read = values
        values = in_zone(read, column.zone) if column.zone else castable(read, wanted)
        rules.append(("no_such_value", _lost(read, values)))
    if pa.types.is_floating(wanted):
        rules.append(("not_finite", _true(pc.invert(pc.is_finite(values)))))
    return values, rules


def _only(texts: Any, fits: Any) -> Any:
    """Return the texts with NULL where they do not fit, without a copy of them."""
    _, offsets, data = texts.buffers()
    kept = pc.fill_null(fits, False) if fits.null_count else fits
    if kept.offset or offsets is None:
        return pc.if_else(fits, texts, pa.scalar(None, texts.type))
    return pa.StringArray.from_buffers(len(texts), offsets.slice(4 * texts.offset), data, kept.buffers()[1])


def _lost(before: Any, after: Any) -> Mask:
    if before.null_count == after.null_count:
        return np.zeros(len(after), dtype=bool)
    return _true(pc.and_(pc.is_valid(before), pc.is_null(after)))


def _struct(values: Any, column: Column, path: str) -> tuple[Any, Rules]:
    rules: Rules = []
    there = _true(pc.is_valid(values))
    children = []
    for place, inner in enumerate(column.fields):
        child, found = _column(pc.struct_field(values, place), inner, f"{path}.{inner.name}")
        children.append(child)
        rules += [(reason, mask & there) for reason, mask in found]
    fields = list(clean_type(column))
    return pa.StructArray.from_arrays(children, fields=fields, mask=pc.is_null(values)), rules


def _list(values: Any, column: Column, path: str) -> tuple[Any, Rules]:
    lengths = pc.fill_null(pc.list_value_length(values), 0)
    rules: Rules = []
    for rule, limit, breaks in (("min_items", column.min_items, pc.less), ("max_items", column.max_items, pc.greater)):
        if limit is not None:
            rules.append((f"{path}:{rule}", _true(pc.and_(pc.is_valid(values), breaks(lengths, limit)))))
    assert column.items is not None  # noqa: S101 - a list without items is refused when the contract is read
    items, found = _column(values.flatten(), column.items, f"{path}[]")
    sizes = np.asarray(lengths)
    parents = np.repeat(np.arange(len(values)), sizes)
    for reason, mask in found:
        rows = np.zeros(len(values), dtype=bool)
        rows[parents[mask]] = True
        rules.append((reason, rows))
    offsets = pa.array(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32))
    rebuilt = _lists.from_arrays(offsets, items, type=clean_type(column), mask=pc.is_null(values))
    return rebuilt, rules


def _limits(values: Any, column: Column) -> Iterator[tuple[str, Mask]]:
    for name, breaks in _LIMITS:
        limit = getattr(column, name)
        if limit is not None:
            yield name, _true(breaks(values, limit_scalar(limit, column)))


def _outside(values: Any, window: Window, column: Column) -> Rules:
    seconds = np.array([window.start.timestamp() - column.lateness, window.start.timestamp(), window.end.timestamp()])
    if pa.types.is_integer(values.type):
        unit = {"epochMilliseconds": 1_000, "epochMicroseconds": 1_000_000}.get(column.cast, 1)
        earliest, start, end = (pa.scalar(int(moment * unit), values.type) for moment in seconds)
    else:
        moments = pa.array((seconds * 1e6).round().astype(np.int64)).cast(values.type)
        earliest, start, end = moments
    outside = _true(pc.or_(pc.less(values, earliest), pc.greater_equal(values, end)))
    rules = [(f"{column.name}:outside_window", outside)]
    if column.lateness:
        rules.append((f"{column.name}:late", _true(pc.less(values, start)) & ~outside))
    return rules


def _text_rules(values: Any, column: Column) -> Iterator[tuple[str, Mask]]:
    if column.pattern is not None:
        yield "pattern", _true(pc.invert(pc.match_substring_regex(values, pattern=column.pattern)))
    limits = (("min_length", column.min_length, pc.less), ("max_length", column.max_length, pc.greater))
    lengths = pc.utf8_length(values) if any(limit is not None for _, limit, _ in limits) else None
    for rule, limit, breaks in limits:
        if limit is not None:
            yield rule, _true(breaks(lengths, limit))


def _repeated(keyed: Any, competing: Mask) -> Mask:
    """Mark every competing row whose values an earlier one has; rows with a NULL among them do not compete."""
    names = keyed.column_names
    for name in names:
        if keyed.column(name).null_count:
            competing = competing & _true(pc.is_valid(keyed.column(name).combine_chunks()))
    rows = np.flatnonzero(competing)
    found = keyed.append_column("_row", pa.array(np.arange(len(competing)))).take(rows)
    firsts = found.group_by(names).aggregate([("_row", "min")]).column("_row_min").to_numpy()
    repeated = np.zeros(len(competing), dtype=bool)
    if len(firsts) < len(rows):
        repeated[rows] = True
        repeated[firsts] = False
    return repeated


def _true(mask: Any) -> Mask:
    """Return a mask as numpy, with False where the value is NULL: NULL breaks `required` and nothing else."""
    filled = pc.fill_null(mask, False) if mask.null_count else mask
    found: Mask = np.asarray(filled)
    return found
