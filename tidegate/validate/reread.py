"""Messages of a raw slice, read once more by the contract as it is now.

A slice keeps the bytes of a message that could not be decoded when it was read, and of Avro the schema it was written
with. A later contract may have a place for it: a text where a number had been asked for. Its bytes are then decoded
again; the slice itself is never changed. Of a message that was too long only a start is kept: it stays as it is.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from tidegate.contract.arrow import BYTES, ERROR, POSITION, slice_schema
from tidegate.contract.avro import SCHEMA, decode_avro
from tidegate.contract.decode import decode_json

if TYPE_CHECKING:
    from tidegate.contract import Contract

pc: Any = pyarrow.compute

_ROWS = 1 << 12  # messages decoded at once
_CUT = "undecodable:longer_than_"
_EXACT = 2.0**53  # below it a float tells which whole number it was


def reread(table: Any, contract: Contract) -> Any:
    """Return a table of raw messages with the types of this contract.

    Messages that were kept as bytes are decoded again. Where a column's type is another one now, those that had been
    decoded are too, from their values: as if read anew, but that 5.0 read as a float counts as 5, and that a whole
    number beyond 2^53 read as one is not told any more and stays undecodable. What the values cannot tell (a column
    that the slice lacks, a decimal from a float, a text from an instant) needs the source: then the table comes back
    as it is, and judging it says so.
    """
    cut = pc.fill_null(pc.starts_with(table.column(ERROR), _CUT), False)
    kept_bytes = np.asarray(pc.and_(pc.is_valid(table.column(BYTES)), pc.invert(cut)))
    wanted = slice_schema(contract)
    changed = [name for name in contract.names if _type(table, name) != wanted.field(name).type]
    anew = np.flatnonzero(np.ones(table.num_rows, dtype=bool) if changed else kept_bytes)
    if not (changed or len(anew)) or not _can(table, wanted, changed):
        return table
    parts = [wanted.empty_table()]
    for first in range(0, len(anew), _ROWS):
        rows = table.take(anew[first : first + _ROWS]).to_pylist()
        parts.append(pa.Table.from_pylist([_again(row, contract) for row in rows], schema=wanted))
    order = np.arange(table.num_rows)
    order[anew] = table.num_rows + np.arange(len(anew))
    return _merged(table, pa.concat_tables(parts), None if len(anew) == table.num_rows else pa.array(order))


def _type(table: Any, name: str) -> Any:
    return table.schema.field(name).type if name in table.column_names else None


def _can(table: Any, wanted: Any, changed: list[str]) -> bool:
    """Whether the values of changed columns tell what their messages said: always where no message was decoded."""
    there = table.filter(table.column(ERROR).is_null())
    return not there.num_rows or all(
        name in there.column_names
        and (there.column(name).null_count == there.num_rows or _told(_type(there, name), wanted.field(name).type))
        for name in changed
    )


def _told(old: Any, new: Any) -> bool:
    """Whether a value that was read as `old` tells what reading its message as `new` would give."""
    if old == new:
        return True
    if pa.types.is_struct(old):
        names = [field.name for field in new] if pa.types.is_struct(new) else []
        return all(
            old.get_field_index(name) >= 0 and _told(old.field(name).type, new.field(name).type) for name in names
        )
    if pa.types.is_list(old):
        return not pa.types.is_list(new) or _told(old.value_type, new.value_type)
    if pa.types.is_floating(old):
        return bool(old == pa.float64() and not pa.types.is_decimal(new))
    return any(test(old) for test in (pa.types.is_integer, pa.types.is_boolean, pa.types.is_string))


def _again(row: dict[str, Any], contract: Contract) -> dict[str, Any]:
    if row[ERROR] is not None and (row[BYTES] is None or row[ERROR].startswith(_CUT)):
        return {POSITION: row[POSITION], ERROR: row[ERROR], BYTES: row[BYTES]}
    if row[BYTES] is not None and SCHEMA in row:
        return decode_avro(row[BYTES], row[POSITION], contract, lambda _: row[SCHEMA])
    if row[BYTES] is not None:
        return decode_json(row[BYTES], row[POSITION], contract)
    names = set(contract.names)
    message = {name: _plain(value) for name, value in row.items() if name in names}
    return decode_json(json.dumps(message, default=_text, ensure_ascii=False).encode(), row[POSITION], contract)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    whole = isinstance(value, float) and value.is_integer() and abs(value) < _EXACT
    return int(value) if whole else value


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
