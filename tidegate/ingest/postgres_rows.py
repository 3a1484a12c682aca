"""Turns rows of COPY's CSV into tables of the slice schema; a value that its type cannot hold takes one row aside.

Arrow's CSV reader parses a block of rows at once and refuses it whole for one bad value. Then the block is read once
more as texts, and each column is decoded by the forms of `tidegate.contract.texts`.
"""

from __future__ import annotations

import binascii
import codecs
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv as pacsv

from tidegate.contract.arrow import raw_type
from tidegate.contract.decode import decode_nested
from tidegate.contract.texts import raw_values
from tidegate.files import sliced

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tidegate.contract import Column, Contract
    from tidegate.ingest.postgres_columns import Reading

    Errors = NDArray[np.object_]

pc: Any = pyarrow.compute


def table(rows: list[bytes], first: int, readings: list[Reading], contract: Contract) -> Any:
    """Return rows, one line of CSV each, as a table of the slice schema; `first` is the number of the first of them.

    What cannot be decoded has the reason `undecodable:<column>_is_no_<type>` and its line as bytes.
    """
    errors = np.full(len(rows), None, dtype=object)
    text = b"".join(rows)
    try:
        read = _parsed(text, {each.column.name: each.arrow for each in readings})
    except pa.ArrowInvalid:
        read = _parsed(text, {each.column.name: pa.binary() for each in readings})
    texts = [sliced.plain(read.column(each.column.name)) for each in readings]
    columns = [_values(values, each, errors) for values, each in zip(texts, readings, strict=True)]
    positions = _positions(contract, {each.column.name: n for n, each in enumerate(readings)}, columns, texts, first)
    return sliced.table(columns, positions, errors, lambda row: rows[row].rstrip(b"\n"), contract)


def _parsed(text: bytes, types: dict[str, Any]) -> Any:
    marked = codecs.BOM_UTF8 + text  # the reader takes one such mark away, and it shall be no part of a value
    return pacsv.read_csv(
        io.BytesIO(marked),
        read_options=pacsv.ReadOptions(column_names=list(types), use_threads=False, block_size=len(marked) + 1),
        parse_options=pacsv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),  # one column, and NULL
        convert_options=pacsv.ConvertOptions(
            column_types=types,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
            true_values=["t"],
            false_values=["f"],
        ),
    )


def _values(read: Any, reading: Reading, errors: Errors) -> Any:
    """Return a column as its raw type; `read` has that type already, or texts, or the bytes of texts."""
    column = reading.column
    if reading.how == "direct" and read.type == raw_type(column):
        return read
    texts = _texts(read, column, errors)
    if reading.how == "json":
        return _nested(texts, column, errors)
    if reading.how == "hex":
        return _unhexed(texts)
    if column.raw == "string":
        return texts
    found = raw_values(texts, column)
    sliced.blame(texts, found, f"{column.name}_is_no_{column.raw}", errors)
    return found


def _texts(read: Any, column: Column, errors: Errors) -> Any:
    """Return bytes as texts; a database without an encoding (SQL_ASCII) may hold what is none."""
    if pa.types.is_string(read.type):
        return read
    try:
        return read.cast(pa.string())
    except pa.ArrowInvalid:
        values = [None if value is None else _text(value) for value in read.to_pylist()]
        found = pa.array(values, pa.string())
        sliced.blame(read, found, f"{column.name}_is_not_utf8", errors)
        return found


def _text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _nested(texts: Any, column: Column, errors: Errors) -> Any:
    values: list[Any] = []
    for row, text in enumerate(texts.to_pylist()):
        try:
            values.append(None if text is None else decode_nested(text.encode(), column))
        except ValueError as error:
            values.append(None)
            if errors[row] is None:
                errors[row] = str(error)
    return pa.array(values, raw_type(column))


def _unhexed(texts: Any) -> Any:
    """Return the bytes that texts such as `\\x00ff` name: all in one go, as each has two digits a byte."""
    _, offsets, data = texts.buffers()
    bounds = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    used = data.to_pybytes()[bounds[0] : bounds[-1]] if data is not None else b""
    sizes = np.maximum(np.diff(bounds) - 2, 0) // 2
    ends = pa.py_buffer(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32).tobytes())
    valid = pc.is_valid(texts).buffers()[1] if texts.null_count else None
    plain = binascii.unhexlify(used.replace(b"\\x", b""))
    return pa.Array.from_buffers(pa.binary(), len(texts), [valid, ends, pa.py_buffer(plain)])


def _positions(contract: Contract, places: dict[str, int], columns: list[Any], texts: list[Any], first: int) -> Any:
    """Return each row's primary key as `a=1 b=2`, or its number; what is no value of its type as its text."""
    if not contract.key:
        return sliced.places("row=", np.arange(first, first + len(columns[0])))
    parts = [
        pc.binary_join_element_wise(name, _shown(columns[places[name]], texts[places[name]]), "=")
        for name in contract.key
    ]
    return pc.binary_join_element_wise(*parts, " ", null_handling="replace", null_replacement="NULL")


def _shown(values: Any, read: Any) -> Any:
    if pa.types.is_nested(values.type) or pa.types.is_binary(values.type):
        values = pa.nulls(len(values), pa.string())
    shown = values.cast(pa.string())
    if not shown.null_count or not (pa.types.is_string(read.type) or pa.types.is_binary(read.type)):
        return shown
    if pa.types.is_binary(read.type):
        read = pa.array([None if v is None else v.decode(errors="replace") for v in read.to_pylist()], pa.string())
    return pc.coalesce(shown, read)
