"""A contract as row masks: one vectorised pass per rule says which rows break it, and casts what may be cast.

A row's reasons read `<column>:<rule>`, in the order of the columns and of the rules below; its first is the one it is
counted under. Castability is decided by the lexical form before any cast, because engines disagree on what an integer
looks like (`1e3`, ` 12`, `+5`, `0x10`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from tidegate.contract.arrow import ERROR, arrow_type, clean_schema, limit_scalar
from tidegate.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tidegate.contract.model import Column, Contract
    from tidegate.handoff import Window

pc: Any = pyarrow.compute  # its type stubs do not know calls that mix arrays and plain values

_INTEGER_RANGE = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}
_YES, _NO = ["true", "t", "yes", "y", "1"], ["false", "f", "no", "n", "0"]
_LONGEST = 38  # digits that a decimal128 holds
_LIMITS = (
    ("minimum", pc.less),
    ("maximum", pc.greater),
    ("exclusive_minimum", pc.less_equal),
    ("exclusive_maximum", pc.greater_equal),
)


@dataclass(frozen=True)
class Judged:
    """What a contract says of a raw table of n rows.

    `clean` holds the conforming rows only, in their order; `bad` [m] the row numbers of the others, ascending;
    `reasons` has the list of reasons of each of them.
    """

    clean: Any
    bad: NDArray[np.int64]
    reasons: list[list[str]]


def judge(table: Any, contract: Contract, window: Window | None = None) -> Judged:
    """Judge every row of a raw table (schema `slice_schema`, or `raw_schema`) by its contract.

    Where a window is given, a row whose event time lies outside of it breaks `outside_window`: it came too late, or
    bears a wrong time, and belongs to no slice of this source.

    Raises:
        DataError: the table lacks a column, or has one of another type than the contract's physicalType.
    """
    _same_types(table, contract)
    broken: list[tuple[str, NDArray[np.bool_]]] = []
    undecodable = _undecodable(table)
    if undecodable is not None:
        broken += _by_error(table, undecodable)
    columns = []
    for column in contract.columns:
        values, rules = _column(_values(table, column), column)
        columns.append(values)
        if column.event_time and window is not None:
            rules.append(("outside_window", _outside(values, window)))
        broken += [
            (f"{column.name}:{rule}", mask if undecodable is None else mask & ~undecodable) for rule, mask in rules
        ]
    bad = np.zeros(table.num_rows, dtype=bool)
    for _, mask in broken:
        bad |= mask
    repeated = _repeated(columns, contract, bad)
    if repeated.any():
        broken.append((f"{'+'.join(contract.key)}:duplicate", repeated))
        bad |= repeated
    cast = pa.Table.from_arrays(columns, names=list(contract.names))
    clean = cast.filter(pa.array(~bad)).cast(clean_schema(contract))
    return Judged(clean, np.flatnonzero(bad), _reasons(broken, bad))


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
        if found != arrow_type(column.raw):
            raise DataError(
                f"column {column.name!r} is {found} in the slice but {column.raw} by {contract.path}; "
                "read the slice again (refresh), or mend its physicalType"
            )


def _undecodable(table: Any) -> NDArray[np.bool_] | None:
    if ERROR not in table.column_names:
        return None
    mask = _true(pc.is_valid(table.column(ERROR).combine_chunks()))
    return mask if mask.any() else None


def _by_error(table: Any, undecodable: NDArray[np.bool_]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    errors = table.column(ERROR).combine_chunks()
    for reason in sorted(pc.unique(errors.filter(pa.array(undecodable))).to_pylist()):
        yield reason, _true(pc.equal(errors, reason))


def _column(values: Any, column: Column) -> tuple[Any, list[tuple[str, NDArray[np.bool_]]]]:
    rules: list[tuple[str, NDArray[np.bool_]]] = []
    if column.missing:
        values = pc.if_else(pc.is_in(values, pa.array(column.missing)), pa.scalar(None, values.type), values)
    if column.required:
        rules.append(("required", _true(pc.is_null(values))))
    if column.lexical_form is not None:
        fits = pc.match_substring_regex(values, pattern=rf"\A(?:{column.lexical_form})\z")
        rules.append(("lexical_form", _true(pc.invert(fits))))
        formed = pc.if_else(fits, values, pa.scalar(None, values.type))
        values = _cast_text(formed, column)
        rules.append(("no_such_value", _true(pc.and_(pc.is_valid(formed), pc.is_null(values)))))
    elif values.type != arrow_type(column.clean):
        values = values.cast(arrow_type(column.clean))
    if column.clean == "float64":
        finite = pc.is_finite(values)
        rules.append(("not_finite", _true(pc.invert(finite))))
    rules += _limits(values, column)
    if column.clean == "string":
        rules += _text_rules(values, column)
    return values, rules


def _limits(values: Any, column: Column) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    for name, breaks in _LIMITS:
        limit = getattr(column, name)
        if limit is not None:
            yield name, _true(breaks(values, limit_scalar(limit, column.clean)))


def _outside(values: Any, window: Window) -> NDArray[np.bool_]:
    in_seconds = pa.types.is_integer(values.type)
    start, end = (
        pa.scalar(int(moment.timestamp()) if in_seconds else moment, values.type)
        for moment in (window.start, window.end)
    )
    return _true(pc.or_(pc.less(values, start), pc.greater_equal(values, end)))


def _text_rules(values: Any, column: Column) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    if column.pattern is not None:
        yield "pattern", _true(pc.invert(pc.match_substring_regex(values, pattern=column.pattern)))
    if column.min_length is not None:
        yield "min_length", _true(pc.less(pc.utf8_length(values), column.min_length))
    if column.max_length is not None:
        yield "max_length", _true(pc.greater(pc.utf8_length(values), column.max_length))


def _cast_text(values: Any, column: Column) -> Any:
    """Cast texts that have the lexical form; NULL where the form fits but no such value exists (30 February)."""
    if column.clean in ("int32", "int64"):
        return _instants(values).cast(pa.int64()) if column.cast == "epochSeconds" else _integers(values, column)
    if column.clean == "timestamp":
        return _instants(values).cast(arrow_type("timestamp"))
    if column.clean == "date":
        return _instants(pc.binary_join_element_wise(values, "T00:00:00Z", "")).cast(pa.date32())
    if column.clean == "bool":
        return _truths(values)
    return _castable_only(values, pa.float64())


def _truths(values: Any) -> Any:
    lower = pc.utf8_lower(values)
    yes, no = (pc.is_in(lower, pa.array(words)) for words in (_YES, _NO))
    return pc.if_else(pc.or_(yes, no), yes, pa.scalar(None, pa.bool_()))


def _integers(values: Any, column: Column) -> Any:
    short = pc.less_equal(pc.utf8_length(values), _LONGEST)
    wide = _castable_only(pc.if_else(short, values, pa.scalar(None, values.type)), pa.decimal128(38, 0))
    low, high = (pa.scalar(limit).cast(pa.decimal128(38, 0)) for limit in _INTEGER_RANGE[column.clean])
    inside = pc.and_(pc.greater_equal(wide, low), pc.less_equal(wide, high))
    return pc.if_else(inside, wide, pa.scalar(None, wide.type)).cast(arrow_type(column.clean))


def _castable_only(values: Any, wanted: Any) -> Any:
    """Cast, with NULL for what Arrow refuses: a form that allows what is no number is the contract author's slip."""
    try:
        return values.cast(wanted)
    except pa.ArrowInvalid:
        distinct = pc.unique(values)
        kept = pa.array([value for value in distinct.to_pylist() if _casts(value, wanted)], values.type)
        return pc.if_else(pc.is_in(values, kept), values, pa.scalar(None, values.type)).cast(wanted)


def _casts(value: str | None, wanted: Any) -> bool:
    try:
        pa.scalar(value, pa.string()).cast(wanted)
    except pa.ArrowInvalid:
        return False
    return True


def _instants(values: Any) -> Any:
    """Parse `YYYY-MM-DDTHH:MM:SSZ` to seconds in UTC; what does not read back as it was written becomes NULL."""
    form = "%Y-%m-%dT%H:%M:%SZ"
    parsed = pc.strptime(values, format=form, unit="s", error_is_null=True)
    same = pc.equal(pc.strftime(parsed, format=form), values)
    return pc.if_else(pc.fill_null(same, False), parsed, pa.scalar(None, parsed.type))


def _repeated(columns: list[Any], contract: Contract, bad: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark every conforming row whose key an earlier conforming row has."""
    repeated = np.zeros(len(bad), dtype=bool)
    if not contract.key:
        return repeated
    rows = np.flatnonzero(~bad)
    table = pa.Table.from_arrays(columns, names=list(contract.names)).select(list(contract.key))
    keyed = table.append_column("_row", pa.array(np.arange(len(bad)))).take(rows)
    firsts = keyed.group_by(list(contract.key)).aggregate([("_row", "min")]).column("_row_min").to_numpy()
    repeated[np.setdiff1d(rows, firsts)] = True
    return repeated


def _reasons(broken: list[tuple[str, NDArray[np.bool_]]], bad: NDArray[np.bool_]) -> list[list[str]]:
    at = {row: place for place, row in enumerate(np.flatnonzero(bad).tolist())}
    reasons: list[list[str]] = [[] for _ in at]
    for reason, mask in broken:
        for row in np.flatnonzero(mask).tolist():
            reasons[at[row]].append(reason)
    return reasons


def _true(mask: Any) -> NDArray[np.bool_]:
    """Return a mask as numpy, with False where the value is NULL: NULL breaks `required` and nothing else."""
    filled = pc.fill_null(mask, False)
    found: NDArray[np.bool_] = np.asarray(filled)
    return found
