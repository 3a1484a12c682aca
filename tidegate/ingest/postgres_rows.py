"""Turns rows of COPY's binary format into tables of the slice schema; a value its type cannot hold takes one row aside.

The row is then kept as one JSON object with all its values, which a later contract may have a place for: numbers as
numbers or, where JSON has none or few digits are sure, as texts; bytes in base64; instants in ISO 8601.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from tidegate.contract.arrow import raw_type
from tidegate.contract.decode import decode_nested
from tidegate.contract.texts import raw_values
from tidegate.files import sliced
from tidegate.ingest import postgres_binary as binary
from tidegate.ingest.postgres_columns import LONGEST
from tidegate.ingest.postgres_texts import as_json, as_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tidegate.contract import Column, Contract
    from tidegate.ingest.postgres_binary import Fields, Rows
    from tidegate.ingest.postgres_columns import Reading

    Errors = NDArray[np.object_]

pc: Any = pyarrow.compute


def table(rows: Rows, first: int, readings: list[Reading], contract: Contract) -> Any:
    """Return rows as COPY sends them as a table of the slice schema; `first` is the number of the first of them.

    What cannot be decoded has the reason `undecodable:<column>_is_no_<type>` and its values as JSON.
    """
    errors = np.full(len(rows), None, dtype=object)
    every = list(binary.fields(rows))
    found, named = every[: len(readings)], every[len(readings) :]
    for names in named:
        _blame_long(names, errors)
    columns = [_values(one, each, errors) for one, each in zip(found, readings, strict=True)]
    places = {each.column.name: place for place, each in enumerate(readings)}
    keys = [(name, columns[places[name]], found[places[name]], readings[places[name]]) for name in contract.key]
    positions = _positions(keys, len(rows), first)
    return sliced.table(columns, positions, errors, lambda row: as_json(row, found, readings), contract)


def _blame_long(named: Fields, errors: Errors) -> None:
    """Give their reason to rows of which a column is named as too long; see `postgres_columns.selection`."""
    for row in np.flatnonzero(named.valid).tolist():
        name = (named.bytes(row) or b"").decode()
        errors[row] = f"{name}_is_longer_than_{LONGEST >> 20}_MiB"


def _values(fields: Fields, reading: Reading, errors: Errors) -> Any:
    """Return a column as its raw type."""
    column = reading.column
    if reading.how in ("text", "cast", "json"):
        texts = _texts(binary.binaries(fields), column, errors)
        return texts if reading.how == "text" else _read(texts, reading, errors)
    values, beyond = _direct(fields, reading)
    if beyond is not None and beyond.any():
        sliced.blame_rows(beyond, f"{column.name}_is_no_{column.raw}", errors)
    return values


def _direct(fields: Fields, reading: Reading) -> tuple[Any, NDArray[np.bool_] | None]:
    column, how = reading.column, reading.how
    if how == "whole":
        return binary.wholes(fields, reading.table_type, column)
    if how == "decimal":
        return binary.decimals(fields, column)
    if how == "instant":
        return binary.instants(fields, column)
    if how in ("day", "clock"):
        return binary.days(fields) if how == "day" else binary.clocks(fields)
    if how == "float":
        return binary.floats(fields, reading.table_type, column), None
    return binary.truths(fields) if how == "truth" else binary.binaries(fields), None


def _read(texts: Any, reading: Reading, errors: Errors) -> Any:
    column = reading.column
    if reading.how == "json":
        return _nested(texts, column, errors)
    found = raw_values(texts, column)
    sliced.blame(texts, found, f"{column.name}_is_no_{column.raw}", errors)
    return found


def _texts(read: Any, column: Column, errors: Errors) -> Any:
    """Return bytes as texts; a database without an encoding (SQL_ASCII) may hold what is none."""
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


def _positions(keys: list[tuple[str, Any, Fields, Reading]], rows: int, first: int) -> Any:
    """Return each row's primary key as `a=1 b=2`, or its number; what is no value of its type as its text."""
    if not keys:
        return sliced.places("row=", np.arange(first, first + rows))
    parts = []
    for name, values, fields, reading in keys:
        shown = _shown(values, fields, reading)
        parts.append(pc.binary_replace_slice(shown, 0, 0, f"{name}="))
    if len(parts) == 1 and not parts[0].null_count:
        return parts[0]
    named = [pc.fill_null(part, f"{name}=NULL") for part, (name, *_) in zip(parts, keys, strict=True)]
    return pc.binary_join_element_wise(*named, " ")


def _shown(values: Any, fields: Fields, reading: Reading) -> Any:
    if pa.types.is_nested(values.type) or pa.types.is_binary(values.type):
        values = pa.nulls(len(values), pa.string())
    shown = values.cast(pa.string())
    lost = np.asarray(pc.is_null(shown)) & fields.valid
    if not lost.any():
        return shown
    texts = [as_text(fields, row, reading) if gone else None for row, gone in enumerate(lost.tolist())]
    return pc.coalesce(shown, pa.array(texts, pa.string()))
