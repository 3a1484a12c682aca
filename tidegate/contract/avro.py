"""One Avro message in a schema registry's wire format becomes one raw row, or its bytes with the reason why not.

The wire format is a zero byte, the schema's id as four bytes, and the value as the writer's schema says. Types are as
strict as for JSON: nothing is guessed, rounded or cut.
"""

from __future__ import annotations

import io
import json
import struct
import uuid
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Any

from tidegate.contract.arrow import BYTES, ERROR, POSITION
from tidegate.contract.decode import READERS, typed

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidegate.contract.decode import Readers
    from tidegate.contract.model import Column, Contract

SCHEMA = "_schema"
"""Column of a raw slice: the schema that a message kept as bytes was written with, as JSON."""
_HEAD = struct.Struct(">bI")
_BROKEN = (
    EOFError,
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    ArithmeticError,
    MemoryError,
    RecursionError,
    struct.error,
    StopIteration,
)  # fmt: skip - what the reader raises for bytes that are no such value


def decode_avro(
    value: bytes | None, position: str, contract: Contract, written: Callable[[int], str | None]
) -> dict[str, Any]:
    """Return one message as a row of the slice schema; an undecodable one as its bytes, the reason and its schema.

    `written` returns a schema by its id as JSON text, or None where nobody knows it. Fields that the contract does not
    name are left out; a field that the message lacks is NULL.
    """
    text: str | None = None
    try:
        if value is None:
            raise ValueError("tombstone")
        number = _number(value)
        text = written(number)
        if text is None:
            raise ValueError(f"schema_{number}_is_unknown")
        return {**typed(_record(value[_HEAD.size :], text), contract, _READERS), POSITION: position}
    except ValueError as error:
        return {POSITION: position, ERROR: f"undecodable:{error}", BYTES: value, SCHEMA: text}


def _number(value: bytes) -> int:
    if len(value) < _HEAD.size or value[0] != 0:
        raise ValueError("not_in_wire_format")
    return int(_HEAD.unpack_from(value)[1])


def _record(body: bytes, schema: str) -> dict[str, Any]:
    stream = io.BytesIO(body)
    found = next_value(stream, parsed(schema))
    if stream.read(1):
        raise ValueError("not_avro")
    if not isinstance(found, dict):
        raise ValueError("not_an_avro_record")
    return found


_parsed: dict[str, Any] = {}


def parsed(schema: str) -> Any:
    """Return a schema as the reader wants it; a list of schemas ends with the one that uses those before.

    Raises:
        ValueError: it is none.
    """
    from fastavro import parse_schema
    from fastavro.schema import SchemaParseException, UnknownType

    if schema not in _parsed:
        try:
            listed = json.loads(schema)
            named: dict[str, Any] = {}
            for each in listed if isinstance(listed, list) else [listed]:
                found = parse_schema(each, named)
            _parsed[schema] = found
        except (SchemaParseException, UnknownType, *_BROKEN) as error:
            raise ValueError("schema_is_no_avro") from error
    return _parsed[schema]


def _one_of(*wanted: type, never: tuple[type, ...] = (bool,)) -> Callable[[Any, Column], Any]:
    def read(value: Any, _: Column) -> Any:
        if not isinstance(value, wanted) or isinstance(value, never):
            raise TypeError
        return value

    return read


def _text(value: Any, _: Column) -> str:
    if not isinstance(value, str | uuid.UUID):
        raise TypeError
    return str(value)


def _float(value: Any, column: Column) -> float:
    return value if isinstance(value, float) else READERS[column.raw](value, column)  # NaN is told by the masks


def _moment(*, aware: bool) -> Callable[[Any, Column], datetime]:
    def read(value: Any, _: Column) -> datetime:
        if not isinstance(value, datetime) or (value.tzinfo is not None) != aware:
            raise TypeError
        return value

    return read


_READERS: Readers = {
    **READERS,
    "float32": _float,
    "float64": _float,
    "string": _text,
    "bytes": _one_of(bytes),
    "date": _one_of(date, never=(datetime,)),
    "time": _one_of(time),
    "timestamp": _moment(aware=True),
    "local_timestamp": _moment(aware=False),
}


def fields_of(record: dict[str, Any], contract: Contract) -> dict[str, Any]:
    """Return an Avro record's fields as values of the contract's raw types.

    Raises:
        ValueError: one is none; the message is the reason.
    """
    return typed(record, contract, _READERS)


def next_value(stream: Any, schema: Any) -> Any:
    """Return the next value of a binary stream by a parsed schema.

    Raises:
        ValueError: the bytes there are none.
    """
    from fastavro import schemaless_reader

    try:
        return schemaless_reader(stream, schema, None)
    except _BROKEN:
        raise ValueError("not_avro") from None
