"""Columns as read become tables of the slice schema: each value of its raw type, or its row with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from tidegate.contract.arrow import raw_type, slice_schema
from tidegate.contract.texts import castable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from tidegate.contract import Contract

pc: Any = pyarrow.compute
_DAY = 86_400_000_000  # microseconds


def table(
    columns: Sequence[Any],
    positions: Any,
    errors: NDArray[np.object_],
    raw: Callable[[int], bytes | None],
    contract: Contract,
) -> Any:
    """Return rows as a table of the slice schema: `columns` are of the raw types, NULL in rows that have an error.

    `errors` [n] has None or a reason for each row; `raw` gives the bytes of a row that has one.
    """
    schema = slice_schema(contract)
    wrong = np.flatnonzero(errors != None)  # noqa: E711  # element by element
    if not len(wrong):
        nothing = pa.nulls(len(positions), pa.string())
        return pa.Table.from_arrays([*columns, positions, nothing, nothing.cast(pa.binary())], schema=schema)
    good = pa.array(_unset(errors))
    kept = [pc.if_else(good, column, pa.scalar(None, column.type)) for column in columns]
    kept_bytes: list[bytes | None] = [None] * len(errors)
    for row in wrong.tolist():
        kept_bytes[row] = raw(row)
    reasons = pa.array([None if error is None else f"undecodable:{error}" for error in errors], pa.string())
    return pa.Table.from_arrays([*kept, positions, reasons, pa.array(kept_bytes, pa.binary())], schema=schema)


def places(start: str, numbers: NDArray[np.int64]) -> Any:
    """Return the positions of rows: a text that all share, then each one's number."""
    return pc.binary_replace_slice(pa.array(numbers).cast(pa.string()), 0, 0, start)  # half of what joining them costs


def typed(values: Any, column: Any, errors: NDArray[np.object_]) -> Any:
    """Return values as the column's raw type; a value that is none gives its row the reason `<name>_is_no_<type>`."""
    wanted = raw_type(column)
    values = plain(values)
    if values.type == wanted and not pa.types.is_time(wanted):
        return values
    found = castable(values, wanted) if _same_sort(values.type, wanted) else pa.nulls(len(values), wanted)
    if pa.types.is_time(wanted):
        found = _within_a_day(found)
    blame(values, found, f"{column.name}_is_no_{column.raw}", errors)
    return found


def _within_a_day(times: Any) -> Any:
    """Return times of day in microseconds, with NULL for what a file's own integers put before or after the day."""
    since = times.cast(pa.int64())
    is_time = pc.and_(pc.greater_equal(since, 0), pc.less(since, _DAY))
    return pc.if_else(is_time, times, pa.scalar(None, times.type))


def blame(before: Any, after: Any, reason: str, errors: NDArray[np.object_]) -> None:
    """Give `reason` to each row whose value was lost, unless it has one."""
    if before.null_count == after.null_count:
        return
    blame_rows(np.asarray(pc.and_(pc.is_valid(before), pc.is_null(after))), reason, errors)


def blame_rows(lost: NDArray[np.bool_], reason: str, errors: NDArray[np.object_]) -> None:
    """Give `reason` to each row of the mask that has none yet."""
    errors[lost & _unset(errors)] = reason


def _unset(errors: NDArray[np.object_]) -> NDArray[np.bool_]:
    return np.asarray(errors == None, dtype=bool)  # noqa: E711  # element by element


def plain(values: Any) -> Any:
    """Return one Arrow array without dictionary, chunks or large offsets."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_large_string(values.type) or pa.types.is_string_view(values.type):
        return values.cast(pa.string())
    if pa.types.is_large_binary(values.type) or pa.types.is_fixed_size_binary(values.type):
        return values.cast(pa.binary())
    return values


def _same_sort(found: Any, wanted: Any) -> bool:
    """Whether values may change their type here: numbers among themselves, and instants; never a text."""
    numbers = [
        pa.types.is_integer(each) or pa.types.is_floating(each) or pa.types.is_decimal(each) for each in (found, wanted)
    ]
    if all(numbers):
        return not (pa.types.is_floating(found) and not pa.types.is_floating(wanted))
    if pa.types.is_timestamp(found) and pa.types.is_timestamp(wanted):
        return (found.tz is None) == (wanted.tz is None)
    if pa.types.is_nested(found) and pa.types.is_nested(wanted):
        return type(found) is type(wanted) or pa.types.is_large_list(found)
    return pa.types.is_null(found) or (pa.types.is_time(found) and pa.types.is_time(wanted))
