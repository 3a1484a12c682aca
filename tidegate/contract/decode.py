"""One JSON message becomes one raw row of a contract, or its bytes with the reason why not.

Stricter than Python's reader: a repeated key, NaN or Infinity, a whole number that its type cannot hold, and what is no
UTF-8 are refused, never guessed at.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from tidegate.contract.arrow import BYTES, ERROR, POSITION
from tidegate.contract.model import BITS, integer_range

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tidegate.contract.model import Column, Contract

    Readers = Mapping[str, Callable[[Any, Column], Any]]


def decode_json(value: bytes | None, position: str, contract: Contract) -> dict[str, Any]:
    """Return one message as a row of the slice schema; an undecodable one as its bytes and the reason.

    Fields that the contract does not name are left out; a field that the message lacks is NULL.
    """
    try:
        if value is None:
            raise ValueError("tombstone")
        fields = _object(value)
        return {**typed(fields, contract, READERS), POSITION: position}
    except ValueError as error:
        return {POSITION: position, ERROR: f"undecodable:{error}", BYTES: value}


def decode_nested(text: bytes, column: Column) -> Any:
    """Return the list or struct that a JSON text of one column's value means.

    Raises:
        ValueError: it means none; the message is the reason, as in `decode_json`.
    """
    try:
        value = _parsed(text)
    except ValueError as error:
        raise ValueError(f"{column.name}_is_{error}") from None
    return _field(value, column, column.name, READERS)


def typed(fields: Mapping[str, Any], contract: Contract, readers: Readers) -> dict[str, Any]:
    """Return a message's fields as values of the contract's raw types, each read by the reader of its kind.

    Raises:
        ValueError: one is none; the message is the reason, as in `decode_json`.
    """
    return {c.name: _field(fields.get(c.name), c, c.name, readers) for c in contract.columns}


class _RefusedError(ValueError):
    """A text that is JSON by Python's reader and not by ours."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _RefusedError("repeated_key")
    return found


def _constant(_: str) -> Any:
    raise _RefusedError("nan_or_infinity")


def _fraction(text: str) -> Decimal | float:
    """Read a number exactly; one whose exponent no Decimal has is zero or infinite to every type here."""
    try:
        return Decimal(text)
    except InvalidOperation:
        return float(text)


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_fraction)


def _object(value: bytes) -> dict[str, Any]:
    fields = _parsed(value)
    if not isinstance(fields, dict):
        raise ValueError("not_a_json_object")
    return fields


def _parsed(value: bytes) -> Any:
    try:
        return _DECODER.decode(value.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("not_utf8") from None
    except _RefusedError:
        raise
    except (ValueError, RecursionError):
        raise ValueError("not_json") from None


def _field(value: Any, column: Column, path: str, readers: Readers) -> Any:
    if value is None:
        return None
    if column.raw == "struct":
        if not isinstance(value, dict):
            raise ValueError(f"{path}_is_no_struct")
        return {
            inner.name: _field(value.get(inner.name), inner, f"{path}.{inner.name}", readers) for inner in column.fields
        }
    if column.raw == "list":
        if not isinstance(value, list) or column.items is None:
            raise ValueError(f"{path}_is_no_list")
        return [_field(item, column.items, f"{path}[]", readers) for item in value]
    try:
        return readers[column.raw](value, column)
    except (ValueError, TypeError, OverflowError, InvalidOperation, binascii.Error):
        raise ValueError(f"{path}_is_no_{column.raw}") from None


def _typed(*wanted: type) -> Callable[[Any, Column], Any]:
    def read(value: Any, _: Column) -> Any:
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            raise ValueError
        return value

    return read


def _characters(value: Any, _: Column) -> str:
    if not isinstance(value, str):
        raise TypeError
    value.encode()  # half a surrogate pair, written as \\ud800, is no character
    return value


def _whole(value: Any, column: Column) -> int:
    low, high = integer_range(column.raw)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError
    return value


def _number(value: Any, _: Column) -> float:
    if isinstance(value, bool) or not isinstance(value, int | Decimal | float):
        raise ValueError
    found = float(value)
    if math.isinf(found):
        raise ValueError
    return found


def _decimal(value: Any, column: Column) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        raise ValueError
    found = Decimal(value)
    precision, scale = column.digits or (38, 9)
    if not found.is_finite() or (found and found.adjusted() >= precision - scale):
        raise ValueError
    _, digits, exponent = found.as_tuple()
    beyond = -int(exponent) - scale
    if beyond > 0 and any(digits[-beyond:]):
        raise ValueError
    return found or Decimal(0)  # 0E10 has eleven digits to Arrow


def _text(read: Callable[[str], Any], form: str = r"[^\0]*") -> Callable[[Any, Column], Any]:
    fits = re.compile(form).fullmatch

    def from_text(value: Any, _: Column) -> Any:
        if not isinstance(value, str) or not fits(value):
            raise ValueError
        return read(value)

    return from_text


def _instant(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError
    return moment


def _local(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is not None:
        raise ValueError
    return moment


_DAY, _CLOCK = r"\d{4}-\d\d-\d\d", r"\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?"  # Python reads others too, and cuts a fraction
FORMS: dict[str, str] = {
    "date": _DAY,
    "time": _CLOCK,
    "timestamp": rf"{_DAY}[T ]{_CLOCK}(?:Z|[+-]\d\d:\d\d)",
    "local_timestamp": rf"{_DAY}[T ]{_CLOCK}",
}
"""The forms of the texts that become instants; not each of that form is one."""
READERS: dict[str, Callable[[Any, Column], Any]] = {
    **dict.fromkeys(BITS, _whole),
    "float32": _number,
    "float64": _number,
    "decimal": _decimal,
    "bool": _typed(bool),
    "string": _characters,
    "bytes": _text(lambda text: base64.b64decode(text, validate=True)),
    "date": _text(date.fromisoformat, FORMS["date"]),
    "time": _text(time.fromisoformat, FORMS["time"]),
    "timestamp": _text(_instant, FORMS["timestamp"]),
    "local_timestamp": _text(_local, FORMS["local_timestamp"]),
}
"""What a value of JSON becomes, by the raw kind of its column; ValueError and its like: it is none."""
