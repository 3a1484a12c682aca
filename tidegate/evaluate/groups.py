"""Cuts rows into groups by one column's raw values, or by a part of the event time; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute

from tidegate.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

pc: Any = pyarrow.compute
MISSING = "(missing)"
TIMES = {"month": "%Y-%m", "week": "%G-W%V", "day": "%Y-%m-%d", "hour": "%H"}
"""Names by which the event time is cut where the dataset has no such column, and how a group is written."""
_SECONDS = {"hour": 3600, "day": 86_400, "week": 7 * 86_400}
_BANDS = 4  # groups that a column of measurements is cut into at most, of equal mass


class Rows(NamedTuple):
    """A group's name and the numbers of its rows, [n]."""

    name: str
    rows: NDArray[np.int64]


def known(by: Sequence[str], schema: Any) -> None:
    """Check that every column to cut by is there, and has values that can be told apart.

    Raises:
        SpecError: one is not, or holds lists, structs or bytes.
    """
    names = schema.names
    nested = [f"{each} ({schema.field(each).type})" for each in by if each in names and not _is_plain(schema, each)]
    if nested:
        raise SpecError(
            f"evaluate.by names {', '.join(nested)}; rows are cut by text, numbers, booleans and times alone; leave it "
            "out, or add a plain column to the dataset's SELECT"
        )
    strange = [each for each in by if each not in names and each not in TIMES]
    if strange:
        raise SpecError(
            f"evaluate.by names {', '.join(strange)}, which the dataset has not; it has {', '.join(names)}, and its "
            f"event time gives {', '.join(TIMES)}; name some of these, or add the column to the dataset's SELECT"
        )


def cut(table: Any, column: str, event_time: str, most: int) -> list[Rows]:
    """Return a table's groups by one column: the largest `most` of them, and all others as one.

    Groups by time and bands of numbers come in their order, the most recent times if there are too many; categories by
    falling size. Fractions, and whole numbers of more than `most` values, are cut into bands of equal mass. A missing
    value is a group of its own.
    """
    is_time = column not in table.column_names
    values = _times(table[event_time], TIMES[column]) if is_time else table[column].combine_chunks()
    if _is_measured(values, most):
        return _bands(values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), min(_BANDS, most))
    coded = pc.fill_null(values.cast(pa.string()), MISSING).dictionary_encode()
    numbers, names = coded.indices.to_numpy(zero_copy_only=False), coded.dictionary.to_pylist()
    counts = np.bincount(numbers, minlength=len(names))
    order = sorted(range(len(names)), key=lambda each: (-counts[each], names[each]))
    if is_time:
        order = sorted(range(len(names)), key=lambda each: names[each], reverse=True)
    shown = order[:most]
    groups = [Rows(names[each], np.flatnonzero(numbers == each)) for each in shown]
    if is_time:
        groups.reverse()
    if len(order) > most:
        rest = np.flatnonzero(~np.isin(numbers, shown))
        groups.append(Rows(f"others ({len(order) - most})", rest))
    return groups


def clusters(table: Any, length: str, event_time: str) -> NDArray[np.int64]:
    """Return for each row [n] the number of its hour, day or week: an event time's whole lengths since 1970, in UTC."""
    seconds = pc.cast(table[event_time].cast(pa.timestamp("s"), safe=False), pa.int64()).to_numpy()
    numbers: NDArray[np.int64] = seconds // _SECONDS[length]
    return numbers


def _is_measured(values: Any, most: int) -> bool:
    if pa.types.is_integer(values.type):
        return bool(pc.count_distinct(values).as_py() > most)
    return bool(pa.types.is_floating(values.type) or pa.types.is_decimal(values.type))


def _is_plain(schema: Any, name: str) -> bool:
    kind = schema.field(name).type
    kinds = (
        pa.types.is_string, pa.types.is_large_string, pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating,
        pa.types.is_decimal, pa.types.is_temporal,
    )  # fmt: skip
    return any(each(kind) for each in kinds)


def _times(values: Any, form: str) -> Any:
    in_utc = values.cast(pa.timestamp("s", tz="UTC") if values.type.tz else pa.timestamp("s"), safe=False)
    return pc.strftime(in_utc, form).combine_chunks()


def _bands(values: NDArray[Any], count: int) -> list[Rows]:
    is_number = np.isfinite(values)
    found = []
    if is_number.any():
        numbers = values[is_number]
        edges = np.unique(np.quantile(numbers, np.arange(1, count) / count))
        bands = np.where(is_number, np.searchsorted(edges, values, side="right"), -1)
        ends = [float(numbers.min()), *edges.tolist(), float(numbers.max())]
        found = [
            Rows(f"{ends[band]:.4g} to {ends[band + 1]:.4g}", np.flatnonzero(bands == band))
            for band in range(len(edges) + 1)
            if (bands == band).any()
        ]
    if not is_number.all():
        found.append(Rows(MISSING, np.flatnonzero(~is_number)))
    return found
