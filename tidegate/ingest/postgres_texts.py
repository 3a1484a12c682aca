"""Binary fields as a person reads them: for rows that go aside, which are few, one by one."""

from __future__ import annotations

import base64
import json
from datetime import date, timedelta
from decimal import Context, Decimal
from typing import TYPE_CHECKING

import numpy as np

from tidegate.ingest.postgres_binary import INFINITE, numeric_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tidegate.ingest.postgres_binary import Fields
    from tidegate.ingest.postgres_columns import Reading

_ENDLESS = {4: 2**31 - 1, 8: 2**63 - 1}  # by the size of a date or timestamp; minus infinity is the number below -this
_CYCLE = 146_097  # days of 400 years
_A_SECOND, _A_DAY = 1_000_000, 86_400_000_000


def as_json(row: int, found: Sequence[Fields], readings: Sequence[Reading]) -> bytes:
    """Return a row as one JSON object; bytes that are no UTF-8 stand in it as they are."""
    parts = [_member(each, fields.bytes(row)) for each, fields in zip(readings, found, strict=True)]
    return b"{" + b", ".join(parts) + b"}"


def as_text(fields: Fields, row: int, reading: Reading) -> str | None:
    """Return one value in plain words, or None for NULL."""
    field = fields.bytes(row)
    if field is None:
        return None
    if reading.how == "bytes" and reading.table_type == "bytea":
        return "\\x" + field.hex()
    return _text(reading, field) or field.decode(errors="replace")


def _member(reading: Reading, field: bytes | None) -> bytes:
    name = json.dumps(reading.column.name).encode()
    if field is None:
        return name + b": null"
    if reading.how == "json":
        return name + b": " + field
    if reading.how == "bytes":
        text = base64.b64encode(field).decode()
    else:
        text = _text(reading, field) or field.decode(errors="surrogateescape")
    plain = reading.how in ("whole", "truth") or (reading.how == "float" and text[-1].isdigit())
    value = text if plain else json.dumps(text, ensure_ascii=False)
    return name + b": " + value.encode(errors="surrogateescape")


def _text(reading: Reading, field: bytes) -> str:
    """Return a value that is no text as one; an empty one for a text."""
    said = _TEXTS[reading.how](field) if reading.how in _TEXTS else ""
    return said.replace("Z", "") if reading.table_type == "timestamp" else said


def _whole(field: bytes) -> str:
    return str(int.from_bytes(field, "big", signed=True))


def _float(field: bytes) -> str:
    value = np.frombuffer(field, f">f{len(field)}")[0]
    if np.isfinite(value):
        return str(value.astype(f"f{len(field)}"))
    return "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _decimal(field: bytes) -> str:
    sign, scale = int.from_bytes(field[4:6], "big"), int.from_bytes(field[6:8], "big")
    parts = numeric_parts(field)
    if parts is None:
        return "NaN" if sign not in INFINITE else "Infinity" if sign == INFINITE[0] else "-Infinity"
    negative, digits, exponent = parts
    exact = Context(prec=200_000)
    return f"{exact.scaleb(Decimal(negative * digits), exponent).quantize(Decimal((0, (1,), -scale)), context=exact):f}"


def _day(field: bytes) -> str:
    count = int.from_bytes(field, "big", signed=True)
    return _endless(count, len(field)) or "{} {}".format(*_calendar(count)).rstrip()


def _instant(field: bytes) -> str:
    count = int.from_bytes(field, "big", signed=True)
    days, rest = divmod(count, _A_DAY)
    day, era = _calendar(days) if abs(count) < _ENDLESS[8] else ("", "")
    return _endless(count, len(field)) or f"{day}T{_time(rest)}Z {era}".rstrip()


def _clock(field: bytes) -> str:
    return _time(int.from_bytes(field, "big"))


def _time(microseconds: int) -> str:
    seconds, fraction = divmod(microseconds, _A_SECOND)
    plain = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return plain + f".{fraction:06}".rstrip("0") if fraction else plain


def _endless(count: int, size: int) -> str:
    if count == _ENDLESS[size]:
        return "infinity"
    return "-infinity" if count == -_ENDLESS[size] - 1 else ""


def _calendar(days: int) -> tuple[str, str]:
    """Return a day, counted from 2000-01-01, as year, month and day, and its era."""
    cycles, rest = divmod(days, _CYCLE)
    day = date(2000, 1, 1) + timedelta(days=rest)
    year = day.year + 400 * cycles
    return f"{year if year > 0 else 1 - year:04}-{day:%m-%d}", "" if year > 0 else "BC"


_TEXTS: dict[str, Callable[[bytes], str]] = {
    "whole": _whole,
    "float": _float,
    "decimal": _decimal,
    "truth": lambda field: "true" if field[0] else "false",
    "day": _day,
    "clock": _clock,
    "instant": _instant,
}
