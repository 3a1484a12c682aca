"""A contract as Arrow schemas: the raw one, as read at the source, and the clean one, after the casts.

A raw slice carries three more columns than the contract names: where each row stood at the source, and, for what could
not be decoded at all, why not and its bytes.
"""

from __future__ import annotations

from datetime import time
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute

from tidegate.contract.model import BITS, integer_range
from tidegate.units import utc

if TYPE_CHECKING:
    from tidegate.contract.model import Column, Contract, Kind

pc: Any = pyarrow.compute
POSITION = "_position"
ERROR = "_error"
BYTES = "_bytes"

_TYPES: dict[Kind, Any] = {
    "int8": pa.int8(), "int16": pa.int16(), "int32": pa.int32(), "int64": pa.int64(),
    "uint8": pa.uint8(), "uint16": pa.uint16(), "uint32": pa.uint32(), "uint64": pa.uint64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
    "bytes": pa.binary(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "local_timestamp": pa.timestamp("us"),
    "date": pa.date32(),
    "time": pa.time64("us"),
}  # fmt: skip
_SOURCE_FIELDS = [pa.field(POSITION, pa.string()), pa.field(ERROR, pa.string()), pa.field(BYTES, pa.binary())]
PARQUET: dict[str, Any] = {"compression": "zstd", "version": "2.6", "store_schema": True}

_SELDOM = 4  # a value that comes less often than that in a row group gains nothing from a dictionary


def encodings(first: Any) -> dict[str, Any]:
    """Return how a Parquet writer shall encode columns, by their types and the rows of the first row group.

    Numbers and instants are kept as differences; a dictionary is made only where values come again. Against one for all
    columns, a table of keys, numbers and names takes half of the bytes and a third of the time.
    """
    differing, repeated = {}, []
    for field, column in zip(first.schema, first.columns, strict=True):
        if pa.types.is_integer(field.type) or pa.types.is_temporal(field.type):
            differing[field.name] = "DELTA_BINARY_PACKED"
        elif not (pa.types.is_nested(field.type) or pa.types.is_boolean(field.type)):
            there = len(column) - column.null_count
            if pc.count_distinct(column).as_py() * _SELDOM <= there or not there:
                repeated.append(field.name)
    return {"use_dictionary": repeated, "column_encoding": differing}


def raw_type(column: Column) -> Any:
    """Return the Arrow type of a column as read at the source."""
    return _type(column, column.raw, is_raw=True)


def clean_type(column: Column) -> Any:
    """Return the Arrow type of a column after the cast; instants are microseconds in UTC."""
    return _type(column, column.clean, is_raw=False)


def _type(column: Column, kind: Kind, *, is_raw: bool) -> Any:
    if kind == "struct":
        return pa.struct([_field(inner, is_raw=is_raw) for inner in column.fields])
    if kind == "list" and column.items is not None:
        return pa.list_(
            pa.field("item", _type(column.items, column.items.raw if is_raw else column.items.clean, is_raw=is_raw))
        )
    if kind == "decimal":
        return pa.decimal128(*(column.digits or (38, 9)))
    return _TYPES[kind]


def _field(column: Column, *, is_raw: bool) -> Any:
    return pa.field(column.name, raw_type(column) if is_raw else clean_type(column))


def raw_schema(contract: Contract) -> Any:
    """Return the schema as read at the source, without the source's position."""
    return pa.schema([pa.field(c.name, raw_type(c)) for c in contract.columns])


def slice_schema(contract: Contract) -> Any:
    """Return the schema of a raw slice: the raw schema, then position, decoding error and undecodable bytes."""
    return pa.schema([*raw_schema(contract), *_SOURCE_FIELDS])


def clean_schema(contract: Contract) -> Any:
    """Return the schema after the casts; required columns are not nullable."""
    return pa.schema([pa.field(c.name, clean_type(c), nullable=not c.required) for c in contract.columns])


def limit_scalar(value: Any, column: Column) -> Any:
    """Return a limit of the contract as an Arrow scalar comparable with the column's clean values.

    Raises:
        ValueError: the value is none of that type.
    """
    kind = column.clean
    if kind in ("timestamp", "local_timestamp"):
        moment = utc(str(value))
        return pa.scalar(moment if kind == "timestamp" else moment.replace(tzinfo=None), _TYPES[kind])
    if kind == "date":
        return pa.scalar(utc(str(value)).date(), _TYPES[kind])
    if kind == "time":
        return pa.scalar(time.fromisoformat(str(value)), _TYPES[kind])
    if isinstance(value, bool) or not isinstance(value, int | float) or not is_number(kind):
        raise ValueError(f"{value!r} is no number")
    if kind == "decimal":
        return pa.scalar(_decimal(value), clean_type(column))
    if kind in BITS and isinstance(value, int):
        low, high = integer_range(kind)
        if not low <= value <= high:
            raise ValueError(f"{value} lies outside of its values, {low} to {high}")
        return pa.scalar(value, clean_type(column))
    return pa.scalar(value)


def is_number(kind: Kind) -> bool:
    """Whether values of this kind are numbers."""
    return kind in BITS or kind in ("float32", "float64", "decimal")


def _decimal(value: float) -> Decimal:
    try:
        return Decimal(repr(value))
    except InvalidOperation as error:
        raise ValueError(f"{value!r} is no number") from error


def enum_array(column: Column) -> Any:
    """Return a column's allowed values as an Arrow array of its clean type.

    Raises:
        ValueError: a value is none of that type.
    """
    if column.clean == "string":
        if not all(isinstance(value, str) for value in column.enum):
            raise ValueError("all values of a text are texts: put them in quotes")
        return pa.array(column.enum, pa.string())
    try:
        return pa.array([limit_scalar(value, column).as_py() for value in column.enum], clean_type(column))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(str(error)) from error
