"""Many JSON messages at once become a table of raw rows: the same rows as by `decode_json`, several times faster.

Arrow's JSON reader parses a block of messages without Python's lock. It is more lenient than `decode_json`: it takes
NaN, bytes that are no UTF-8, half a surrogate pair, several objects in a row, and dies of an object too deep. A message
that may be one of these, or that the reader refuses, is decoded by `decode_json`: that is its one meaning.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from decimal import Context, Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.json

from tidegate.contract.arrow import BYTES, ERROR, POSITION, raw_type, slice_schema
from tidegate.contract.decode import FORMS, decode_json
from tidegate.contract.model import BITS
from tidegate.contract.texts import castable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from tidegate.contract.model import Column, Contract

    Rows = NDArray[np.int64]
    Doubts = NDArray[np.bool_]

pc: Any = pyarrow.compute
_array: Any = pa.array
_read_json: Any = pyarrow.json.read_json

_FEW = 16  # messages not worth the reader's start
_MANY = 512  # messages read at once where the reader has refused some
_REFUSALS = 50  # one message of so many may be refused by the reader; beyond, asking it costs more than it gains
_DEEPEST = 64  # brackets opened in a message: beyond some hundreds Python's reader may refuse
_LONGEST_NUMBER = 4300  # digits: more are refused by Python's reader
_SUSPECTS = (b"NaN", b"Inf", b"\\ud", b"\\uD")  # no numbers, and half a surrogate pair or a whole one
_ROW = re.compile(r"in row (\d+)$")
_CHANGED = re.compile(r"Column\(/([\w/]+)\) changed from \w+ to (string|number|boolean|array|object) in row")
_BEGINS = {"string": rb'"', "number": rb"[-\d]", "boolean": rb"[tf]", "array": rb"\[", "object": rb"\{"}
_BRACES = np.frombuffer(b"{}", np.uint8)
_OPENS = np.frombuffer(b"{[", np.uint8)


def decode_many(
    values: Sequence[bytes | None],
    positions: Any,
    contract: Contract,
    refused: Mapping[int, tuple[str, bytes]] = MappingProxyType({}),
) -> Any:
    """Return messages as a table of the slice schema, row by row what `decode_json` makes of each.

    `positions` is an Arrow array of their n places, as texts. `refused` has the numbers of those that are not to be
    decoded, with the reason and the bytes to keep.
    """

    def alone(row: int, place: str) -> dict[str, Any]:
        if row in refused:
            reason, kept = refused[row]
            return {POSITION: place, ERROR: f"undecodable:{reason}", BYTES: kept}
        return decode_json(values[row], place, contract)

    schema = slice_schema(contract)
    doubts = np.zeros(len(values), dtype=bool)
    doubts[list(refused)] = True
    fast = _fast(values, positions, contract, doubts) if len(values) > _FEW and contract.columns else None
    slow = np.flatnonzero(doubts) if fast is not None else np.arange(len(values))
    if fast is not None and not len(slow):
        return fast
    places = positions.take(_array(slow)).to_pylist()
    rows = [alone(row, place) for row, place in zip(slow.tolist(), places, strict=True)]
    decoded = pa.Table.from_pylist(rows, schema=schema)
    if fast is None:
        return decoded
    order = np.empty(len(values), dtype=np.int64)
    order[np.flatnonzero(~doubts)] = np.arange(len(values) - len(slow))
    order[slow] = np.arange(len(values) - len(slow), len(values))
    return pa.concat_tables([fast, decoded]).take(_array(order)).combine_chunks()


def _fast(values: Sequence[bytes | None], positions: Any, contract: Contract, doubts: Doubts) -> Any:
    """Return the messages that are beyond doubt as a table, and mark the others; None where all are doubtful."""
    whole = [b"" if value is None else value for value in values]
    text = b"\n".join(whole)
    sizes = np.fromiter(map(len, whole), np.int64, len(whole))
    starts = np.cumsum(sizes + 1) - sizes - 1
    _suspect(whole, text, sizes, starts, doubts)
    sure = np.flatnonzero(~doubts)
    if not len(sure):
        return None
    parsed = _Reader(contract, whole, text, starts, doubts).parse(sure)
    if parsed is None:
        return None
    rows = np.flatnonzero(~doubts)
    found = np.zeros(len(whole), dtype=bool)
    columns = [_made(parsed.column(c.name).combine_chunks(), c, rows, found) for c in contract.columns]
    kept = positions
    if len(rows) < len(whole):
        kept = positions.take(_array(rows))
    nothing = pa.nulls(len(rows), pa.string())
    table = pa.Table.from_arrays([*columns, kept, nothing, nothing.cast(pa.binary())], schema=slice_schema(contract))
    if found.any():
        table = table.filter(_array(~found[rows]))
        doubts |= found
    return table


def _suspect(whole: list[bytes], text: bytes, sizes: Any, starts: Any, doubts: Doubts) -> None:
    """Mark the messages that the reader might take for another thing than `decode_json` does."""
    data = np.frombuffer(text + b"\0", np.uint8)  # a byte more, for an empty message at the end
    ends = np.maximum(starts + sizes - 1, 0)
    doubts |= (sizes < 2) | (data[starts] != _BRACES[0]) | (data[ends] != _BRACES[1])
    nested = b"[" in text
    opens = (data == _OPENS[0]) | (data == _OPENS[1]) if nested else data == _OPENS[0]
    if np.count_nonzero(opens) > len(whole) + _DEEPEST:  # the reader dies of an object too deep
        opened = np.cumsum(opens)
        doubts |= opened[ends] - opened[starts] > _DEEPEST
    if not text.isascii() and not _is_utf8(text):
        doubts |= np.fromiter((not _is_utf8(each) for each in whole), bool, len(whole))
    at = [_places(data, each) for each in _SUSPECTS if each[:1] in text]  # hardly any message has one of these letters
    if sizes.max(initial=0) > _LONGEST_NUMBER:
        at.append(np.array([match.start() for match in re.finditer(rb"\d{%d}" % _LONGEST_NUMBER, text)], np.int64))
    if at:
        doubts[np.searchsorted(starts, np.concatenate(at), side="right") - 1] = True


def _places(data: NDArray[np.uint8], text: bytes) -> Rows:
    """Return where a text of ASCII stands in the data."""
    at = np.flatnonzero(data == text[0])
    for step, byte in enumerate(text[1:], 1):
        at = at[at + step < len(data)]
        at = at[data[at + step] == byte]
    return at


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


class _Reader:
    """Arrow's reader over a batch; messages that it refuses are found and marked as doubtful."""

    def __init__(self, contract: Contract, whole: list[bytes], text: bytes, starts: Rows, doubts: Doubts):
        self._schema = pa.schema([pa.field(c.name, _asked(c)) for c in contract.columns])
        self._whole, self._text, self._starts, self._doubts = whole, text, starts, doubts
        self._left = max(8, len(whole) // _REFUSALS)
        self._much = self._left - 4  # so many refusals are cheapest one by one

    def parse(self, rows: Rows) -> Any:
        """Return the rows that it reads as one table, in their order; None where it reads none."""
        parts: list[Any] = []
        waiting = [rows]
        while waiting:
            part = waiting.pop()
            if not len(part):
                continue
            if self._left <= 0:
                self._doubts[part] = True
                continue
            found, said = self._read(part)
            if found is not None:
                parts.append(found)
                continue
            self._left -= 1
            if len(part) <= _FEW:
                self._doubts[part] = True
            else:
                waiting += self._rest(part, said)[::-1]
        return pa.concat_tables(parts, promote_options="none") if parts else None

    def _rest(self, part: Rows, said: str) -> list[Rows]:
        """Return what is left to be read of a part that was refused, in runs; mark what is known to be refused."""
        row = _ROW.search(said)
        if row and int(row[1]) < len(part):
            self._doubts[part[int(row[1])]] = True
            marked = self._alike(said)
            if marked or len(part) <= _MANY:
                return [part[~self._doubts[part]]]
            if self._left >= self._much:
                return [part[: int(row[1])], part[int(row[1]) + 1 :]]
        size = _MANY if len(part) > _MANY else len(part) // 2 + 1
        return [part[at : at + size] for at in range(0, len(part), size)]

    def _alike(self, said: str) -> bool:
        """Mark all messages that have a value of the refused sort behind the same name; return whether there are."""
        kind = _CHANGED.search(said)
        if kind is None:
            return False
        name = json.dumps(kind[1].rpartition("/")[2], ensure_ascii=False).encode()
        at = [match.start() for match in re.finditer(re.escape(name) + rb"\s*:\s*" + _BEGINS[kind[2]], self._text)]
        self._doubts[np.searchsorted(self._starts, np.array(at, np.int64), side="right") - 1] = True
        return len(at) > 1

    def _read(self, rows: Rows) -> tuple[Any, str]:
        """Return a table, or None and why the reader refuses them."""
        text = self._text
        if len(rows) < len(self._whole):
            text = b"\n".join([self._whole[row] for row in rows.tolist()])
        try:
            found = _read_json(
                pa.BufferReader(text),
                read_options=pa.json.ReadOptions(use_threads=False, block_size=len(text) + 1),
                parse_options=pa.json.ParseOptions(explicit_schema=self._schema, unexpected_field_behavior="infer"),
            )
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            return None, str(error)
        if found.num_rows != len(rows):
            return None, ""
        return found.select(self._schema.names), ""


def _asked(column: Column) -> Any:
    """Return the type that the reader is asked for: what it cannot tell apart is asked for as a wider one."""
    if column.raw == "struct":
        return pa.struct([pa.field(inner.name, _asked(inner)) for inner in column.fields])
    if column.raw == "list" and column.items is not None:
        return pa.list_(_asked(column.items))
    if column.raw in ("float32", "float64"):
        return pa.float64()
    if column.raw in BITS:
        return pa.uint64() if column.raw == "uint64" else pa.int64()
    return raw_type(column) if column.raw in ("bool", "decimal") else pa.string()


def _made(values: Any, column: Column, rows: Rows, doubts: Doubts) -> Any:
    """Return values as the column's raw type; `rows` has the message of each, marked where the value is doubtful."""
    wanted = raw_type(column)
    if column.raw == "struct":
        children = [
            _made(pc.struct_field(values, inner.name), inner, rows, doubts) for inner in column.fields
        ]  # a field that the contract does not name is left out
        return pa.StructArray.from_arrays(children, fields=list(wanted), mask=pc.is_null(values))
    if column.raw == "list" and column.items is not None:
        return _list(values, column, rows, doubts)
    if column.raw in ("float32", "float64"):
        return _floats(values, wanted, rows, doubts)
    if column.raw in BITS and values.type != wanted:
        return _cast(values, wanted, rows, doubts)
    if column.raw in FORMS:
        return _formed(values, column, rows, doubts)
    if column.raw == "decimal":
        _beyond(values, column, rows, doubts)
    return _base64(values, rows, doubts) if column.raw == "bytes" else values


def _list(values: Any, column: Column, rows: Rows, doubts: Doubts) -> Any:
    assert column.items is not None  # noqa: S101 - only lists with items come here
    sizes = np.asarray(pc.fill_null(pc.list_value_length(values), 0))
    items = _made(values.flatten(), column.items, np.repeat(rows, sizes), doubts)
    offsets = _array(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32))
    lists: Any = pa.ListArray
    return lists.from_arrays(offsets, items, type=raw_type(column), mask=pc.is_null(values))


def _floats(values: Any, wanted: Any, rows: Rows, doubts: Doubts) -> Any:
    """Minus zero may have been a whole number, which has no sign; and an infinite one is refused."""
    plain = values.to_numpy(zero_copy_only=False)
    odd = np.isinf(plain) | ((plain == 0) & np.signbit(plain))
    doubts[rows[odd]] = True
    return values if wanted == values.type else values.cast(wanted)


def _beyond(values: Any, column: Column, rows: Rows, doubts: Doubts) -> None:
    """Mark decimals of more digits than the type has: the reader only shifts them."""
    precision, scale = column.digits or (38, 9)
    most = pa.scalar(Decimal(10**precision - 1).scaleb(-scale, Context(prec=precision)), values.type)
    least = pa.scalar(Decimal(1 - 10**precision).scaleb(-scale, Context(prec=precision)), values.type)
    beyond = pc.fill_null(pc.or_(pc.greater(values, most), pc.less(values, least)), False)
    doubts[rows[np.asarray(beyond)]] = True


def _cast(values: Any, wanted: Any, rows: Rows, doubts: Doubts) -> Any:
    try:
        return values.cast(wanted)
    except pa.ArrowInvalid:
        return _only(values, castable(values, wanted), rows, doubts)


def _only(before: Any, after: Any, rows: Rows, doubts: Doubts) -> Any:
    """Mark the rows whose value was lost."""
    if before.null_count != after.null_count:
        doubts[rows[np.asarray(pc.and_(pc.is_valid(before), pc.is_null(after)))]] = True
    return after


def _formed(values: Any, column: Column, rows: Rows, doubts: Doubts) -> Any:
    """Cast texts of the one form that Python and Arrow read alike; the year 0 and odd offsets are not of it."""
    distinct, indices = values, None
    if len(values) > 1000:
        coded = values.dictionary_encode()
        if len(coded.dictionary) < len(values) // 4:
            distinct, indices = coded.dictionary, coded.indices
    form = FORMS[column.raw].replace(r"\d{4}", r"(?:[1-9]\d{3}|0[1-9]\d\d|00[1-9]\d|000[1-9])")
    form = form.replace(r"[+-]\d\d:\d\d", r"[+-](?:[01]\d|2[0-3]):[0-5]\d")
    fits = pc.match_substring_regex(distinct, pattern=rf"\A(?:{form})\z")
    texts = pc.if_else(fits, distinct, pa.scalar(None, pa.string()))
    wanted = raw_type(column)
    if column.raw == "time":
        day = pc.binary_join_element_wise("1970-01-01T", texts, "")
        found = castable(day, pa.timestamp("us")).cast(wanted)
    else:
        found = castable(texts, wanted)
    return _only(values, found if indices is None else found.take(indices), rows, doubts)


def _base64(values: Any, rows: Rows, doubts: Doubts) -> Any:
    read = [None if value is None else _unpacked(value) for value in values.to_pylist()]
    return _only(values, pa.array(read, pa.binary()), rows, doubts)


def _unpacked(value: str) -> bytes | None:
    try:
        return base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        return None
