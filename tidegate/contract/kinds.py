"""The names of types: which of ours each logical and physical type of a contract means."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tidegate.contract.model import BITS

if TYPE_CHECKING:
    from tidegate.contract.model import Kind

PHYSICAL: dict[str, Kind] = {
    **dict.fromkeys(("tinyint", "byte"), "int8"),
    **dict.fromkeys(("smallint", "int2", "int16", "short"), "int16"),
    **dict.fromkeys(("int", "integer", "int4", "int32"), "int32"),
    **dict.fromkeys(("bigint", "int8", "int64", "long"), "int64"),  # int8 is Postgres's name: eight bytes
    **dict.fromkeys(("uint8", "utinyint"), "uint8"),
    **dict.fromkeys(("uint16", "usmallint"), "uint16"),
    **dict.fromkeys(("uint32", "uinteger"), "uint32"),
    **dict.fromkeys(("uint64", "ubigint"), "uint64"),
    **dict.fromkeys(("real", "float4", "float32", "float"), "float32"),
    **dict.fromkeys(("double", "double precision", "float8", "float64", "number"), "float64"),
    **dict.fromkeys(("numeric", "decimal", "decimal128"), "decimal"),
    **dict.fromkeys(("text", "string", "varchar", "char", "character varying", "uuid"), "string"),
    **dict.fromkeys(("bytea", "blob", "binary", "varbinary", "bytes"), "bytes"),
    **dict.fromkeys(("bool", "boolean"), "bool"),
    **dict.fromkeys(("timestamptz", "timestamp with time zone"), "timestamp"),
    **dict.fromkeys(("timestamp", "timestamp without time zone", "datetime"), "local_timestamp"),
    **dict.fromkeys(("time", "time without time zone"), "time"),
    "date": "date",
    **dict.fromkeys(("array", "list"), "list"),
    **dict.fromkeys(("object", "struct", "record"), "struct"),
}
LOGICAL: dict[str, Kind] = {
    "string": "string", "boolean": "bool", "timestamp": "timestamp", "date": "date", "time": "time", "array": "list",
    "object": "struct",
}  # fmt: skip
INTEGERS: dict[str, Kind] = {
    "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64",
    "u8": "uint8", "u16": "uint16", "u32": "uint32", "u64": "uint64",
}  # fmt: skip
FLOATS: dict[str, Kind] = {"f32": "float32", "f64": "float64"}
BINARY_FORMATS = ("binary", "byte")
_DIGITS = re.compile(r"\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)")


def physical(name: str) -> Kind | None:
    """Return the kind of a physical type as databases and files name it; None where it is not known here."""
    return PHYSICAL.get(re.sub(r"\(.*\)", "", name).strip().lower())


def digits(name: str) -> tuple[int, int] | None:
    """Return precision and scale of `decimal(12, 2)`; None where the name states none."""
    found = _DIGITS.search(name)
    return (int(found[1]), int(found[2] or 0)) if found else None


def widens(raw: Kind, clean: Kind) -> bool:
    """Whether every value of one kind is a value of the other, so that nothing is lost by the cast."""
    if raw == clean:
        return True
    if raw in BITS and clean in BITS:
        (signed, bits), (wider_signed, wider) = BITS[raw], BITS[clean]
        return wider > bits and (wider_signed or not signed)
    if clean == "float64":
        return raw in BITS or raw == "float32"  # a whole number that no float64 holds is quarantined by its row
    return False
