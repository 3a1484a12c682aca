"""Texts become values: what has its contract's lexical form is cast, and what has no such value becomes NULL."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from tidegate.contract.arrow import clean_type, raw_type
from tidegate.contract.forms import has_form
from tidegate.contract.model import BITS

if TYPE_CHECKING:
    from tidegate.contract.model import Column

pc: Any = pyarrow.compute  # its type stubs do not know calls that mix arrays and plain values

YES, NO = ["true", "t", "yes", "y", "1"], ["false", "f", "no", "n", "0"]
_UNITS = {"epochSeconds": "s", "epochMilliseconds": "ms", "epochMicroseconds": "us"}
_NUMBER = r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?"
_FLOAT = _NUMBER + "|[Nn]a[Nn]|[+-]?[Ii]nf(inity)?"
_FORMS: dict[str, str] = {
    **dict.fromkeys(BITS, r"[+-]?\d+"), "float32": _FLOAT, "float64": _FLOAT, "decimal": _NUMBER,
    "bool": "(?i)true|false|t|f",
    "date": r"\d{4}-\d\d-\d\d", "time": r"\d\d:\d\d(:\d\d(\.\d{1,6})?)?",
    "timestamp": r"\d{4}-.*", "local_timestamp": r"\d{4}-.*",
}  # fmt: skip
_DIGITS = b"0123456789"
_CAST_AS_FORMED = {
    **dict.fromkeys(BITS, _DIGITS + b"-"), **dict.fromkeys(("float32", "float64"), _DIGITS + b"+-.eE"),
    "decimal": _DIGITS + b"+-.",
    "bool": b"aeflrstuAEFLRSTU",
    "date": _DIGITS + b"-", **dict.fromkeys(("timestamp", "local_timestamp"), _DIGITS + b"+-.: TZ"),
}  # fmt: skip
"""Of which characters a text is that has the form wherever Arrow casts it: no hexadecimal, no 1e+-2, no 1 for true."""

_SHORTEST = 64  # values cast one by one where a run of them holds one that cannot be


def cast_text(values: Any, column: Column) -> Any:
    """Cast texts that have the lexical form; NULL where the form fits but no such value exists (30 February)."""
    kind = column.clean
    if column.cast != "decimal":
        return instants(values, column.zone, _UNITS[column.cast]).cast(pa.int64())
    if kind in BITS:
        return _integers(values, clean_type(column))
    if kind == "timestamp":
        return instants(values, column.zone)
    if kind == "time":
        return castable(pc.binary_join_element_wise("1970-01-01T", values, ""), pa.timestamp("us")).cast(
            pa.time64("us")
        )
    if kind == "bool":
        return _truths(values)
    return castable(values, clean_type(column))


def raw_values(texts: Any, column: Column) -> Any:
    """Read texts of a CSV file or a database as values of the column's raw type, a plain one; NULL where it is none."""
    characters = _CAST_AS_FORMED.get(column.raw)
    if characters and _has_only(texts, characters):
        try:
            return texts.cast(raw_type(column))
        except pa.ArrowInvalid:
            pass  # a text among them is none: which one, the form tells
    fits = has_form(texts, _FORMS[column.raw])
    formed = pc.if_else(fits, texts, pa.scalar(None, texts.type))
    return cast_text(formed, replace(column, clean=column.raw, cast="decimal", zone=None))


def _has_only(texts: Any, characters: bytes) -> bool:
    """Whether texts are made of these characters alone."""
    _, offsets, data = texts.buffers()
    if data is None:
        return True
    first, end = np.frombuffer(offsets, np.int32)[[texts.offset, texts.offset + len(texts)]].tolist()
    return not data[first:end].to_pybytes().translate(None, characters)


def instants(values: Any, zone: str | None, unit: str = "us") -> Any:
    """Parse ISO 8601 texts to instants in UTC: with `Z` or an offset, or, where a zone is given, without.

    NULL stands for what is none: a day or an hour that never was, a leap second, a fraction that the unit cannot hold.
    """
    stamps: Any = pa.timestamp
    if zone is None:
        return castable(values, stamps(unit, tz="UTC"))
    return in_zone(castable(values, stamps(unit)), zone)


def in_zone(naive: Any, zone: str) -> Any:
    """Turn clock times of a zone into UTC; NULL where a clock change makes them ambiguous or skips them."""
    wanted = pa.timestamp(naive.type.unit, tz="UTC")
    early, late = (
        pc.assume_timezone(naive, zone, ambiguous=side, nonexistent=side).cast(wanted)
        for side in ("earliest", "latest")
    )
    return pc.if_else(pc.equal(early, late), early, pa.scalar(None, wanted))


def castable(values: Any, wanted: Any) -> Any:
    """Cast, with NULL for what Arrow refuses; a run that holds such a value is halved until it is found."""
    try:
        return values.cast(wanted)
    except pa.ArrowInvalid:
        if len(values) > _SHORTEST:
            half = len(values) // 2
            return pa.concat_arrays([castable(values.slice(0, half), wanted), castable(values.slice(half), wanted)])
        return pa.concat_arrays([_one(values.slice(at, 1), wanted) for at in range(len(values))])


def _one(value: Any, wanted: Any) -> Any:
    try:
        return value.cast(wanted)
    except pa.ArrowInvalid:
        return pa.nulls(1, wanted)


def _integers(values: Any, wanted: Any) -> Any:
    hexed = pc.or_(pc.match_substring(values, "x"), pc.match_substring(values, "X"))
    if pc.any(hexed).as_py():  # Arrow alone reads 0x10 as sixteen
        values = pc.if_else(hexed, pa.scalar(None, values.type), values)
    signed = pc.and_(pc.starts_with(values, "+"), pc.invert(pc.starts_with(values, "+-")))
    if pc.any(signed).as_py():
        values = pc.if_else(signed, pc.utf8_slice_codeunits(values, 1), values)
    return castable(values, wanted)


def _truths(values: Any) -> Any:
    lower = pc.utf8_lower(values)
    yes, no = (pc.is_in(lower, pa.array(words)) for words in (YES, NO))
    return pc.if_else(pc.or_(yes, no), yes, pa.scalar(None, pa.bool_()))
