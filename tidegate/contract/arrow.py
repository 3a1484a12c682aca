"""A contract as Arrow schemas: the raw one, as read at the source, and the clean one, after the casts.

A raw slice carries three more columns than the contract names: where each row stood at the source, and, for what could
not be decoded at all, why not and its bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tidegate.units import utc

if TYPE_CHECKING:
    from tidegate.contract.model import Contract, Kind

POSITION = "_position"
ERROR = "_error"
BYTES = "_bytes"

_TYPES: dict[Kind, Any] = {
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "date": pa.date32(),
}
_SOURCE_FIELDS = [pa.field(POSITION, pa.string()), pa.field(ERROR, pa.string()), pa.field(BYTES, pa.binary())]
PARQUET: dict[str, Any] = {"compression": "zstd", "version": "2.6", "store_schema": True}


def arrow_type(kind: Kind) -> Any:
    """Return the Arrow type of a contract's type; instants are microseconds in UTC."""
    return _TYPES[kind]


def raw_schema(contract: Contract) -> Any:
    """Return the schema as read at the source, without the source's position."""
    return pa.schema([pa.field(c.name, _TYPES[c.raw]) for c in contract.columns])


def slice_schema(contract: Contract) -> Any:
    """Return the schema of a raw slice: the raw schema, then position, decoding error and undecodable bytes."""
    return pa.schema([*raw_schema(contract), *_SOURCE_FIELDS])


def clean_schema(contract: Contract) -> Any:
    """Return the schema after the casts; required columns are not nullable."""
    return pa.schema([pa.field(c.name, _TYPES[c.clean], nullable=not c.required) for c in contract.columns])


def limit_scalar(value: Any, kind: Kind) -> Any:
    """Return a limit of the contract as an Arrow scalar comparable with a clean column.

    Raises:
        ValueError: the value is none of that type.
    """
    if kind == "timestamp":
        return pa.scalar(utc(str(value)), _TYPES[kind])
    if kind == "date":
        return pa.scalar(utc(str(value)).date(), _TYPES[kind])
    if isinstance(value, bool) or not isinstance(value, int | float) or kind in ("string", "bool"):
        raise ValueError(f"{value!r} is no number")
    return pa.scalar(value)
