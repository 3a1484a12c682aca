"""Messages of a raw slice, read once more by the contract as it is now.

A slice keeps the bytes of a message that could not be decoded when it was read. A later contract may have a place for
it: a text where a number had been asked for. Its bytes are then decoded again; the slice itself is never changed.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tidegate.contract.arrow import BYTES, ERROR, POSITION, slice_schema
from tidegate.contract.decode import decode_json

if TYPE_CHECKING:
    from tidegate.contract import Contract


def reread(table: Any, contract: Contract) -> Any:
    """Return a table of raw JSON messages with the types of this contract.

    Messages that were kept as bytes are decoded again. Where a column's type is another one now, those that had been
    decoded are too, from their values: exact for texts, numbers and truths, but a whole float counts as a whole number.
    Columns of any other type, or that the slice lacks, cannot be had without the source: then the table comes back as
    it is, and judging it says so.
    """
    kept_bytes = np.asarray(table.column(BYTES).is_valid())
    changed = [name for name in contract.names if _type(table, name) != slice_schema(contract).field(name).type]
    anew = np.ones(table.num_rows, dtype=bool) if changed else kept_bytes
    if not (changed or anew.any()) or not _can(table, changed):
        return table
    rows = [_again(row, contract) for row in table.take(np.flatnonzero(anew)).to_pylist()]
    decoded = pa.Table.from_pylist(rows, schema=slice_schema(contract))
    order = np.arange(table.num_rows)
    order[anew] = table.num_rows + np.arange(len(rows))
    return _merged(table, decoded, None if anew.all() else pa.array(order))


def _type(table: Any, name: str) -> Any:
    return table.schema.field(name).type if name in table.column_names else None


def _can(table: Any, changed: list[str]) -> bool:
    """Whether the values of changed columns say what their messages said: always where no message was decoded."""
    there = table.filter(table.column(ERROR).is_null())
    return not there.num_rows or all(
        name in there.column_names
        and (_is_json(there.schema.field(name).type) or there.column(name).null_count == there.num_rows)
        for name in changed
    )


def _is_json(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return all(_is_json(field.type) for field in kind)
    if pa.types.is_list(kind):
        return _is_json(kind.value_type)
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_string)
    return any(test(kind) for test in tests)


def _again(row: dict[str, Any], contract: Contract) -> dict[str, Any]:
    if row[BYTES] is not None:
        return decode_json(row[BYTES], row[POSITION], contract)
    if row[ERROR] is not None:
        return {POSITION: row[POSITION], ERROR: row[ERROR]}
    names = set(contract.names)
    message = {name: _plain(value) for name, value in row.items() if name in names}
    return decode_json(json.dumps(message, default=_text, ensure_ascii=False).encode(), row[POSITION], contract)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _text(value: Any) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _merged(table: Any, decoded: Any, order: Any) -> Any:
    """Put decoded columns in place; `order` takes each row from the table or, after it, from the decoded ones."""
    for field in decoded.schema:
        column = decoded.column(field.name)
        if order is not None:
            column = pa.chunked_array([*table.column(field.name).chunks, *column.chunks], field.type).take(order)
        place = table.schema.get_field_index(field.name)
        table = table.append_column(field, column) if place < 0 else table.set_column(place, field, column)
    return table
