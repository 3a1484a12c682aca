"""JSON Schema (draft 2020-12) for who produces messages: one that fits it is decoded and breaks no rule in it.

About the raw message: a castable text is a text of its lexical form, and limits of its value cannot be said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tidegate.contract.model import BITS, integer_range
from tidegate.contract.targets.patterns import portable, whole

if TYPE_CHECKING:
    from tidegate.contract.model import Column, Contract

_ALONE = "a schema sees one message alone"
CANNOT: dict[str, str] = {
    "no_such_value": "a regular expression knows no calendar",
    "unique": _ALONE,
    "duplicate": _ALONE,
    "row": "JSON Schema compares no two fields",
    "row_count": _ALONE,
    "freshness": _ALONE,
    "outside_window": _ALONE,
}
_LIMITS = {
    "minimum": "minimum", "maximum": "maximum", "exclusive_minimum": "exclusiveMinimum",
    "exclusive_maximum": "exclusiveMaximum",
}  # fmt: skip
_TEXTS = {"pattern": "pattern", "min_length": "minLength", "max_length": "maxLength", "enum": "enum"}
_DAY, _CLOCK = r"[0-9]{4}-[0-9]{2}-[0-9]{2}", r"[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?"
_FORMS: dict[str, str] = {
    "date": f"^{_DAY}$",
    "time": f"^{_CLOCK}$",
    "timestamp": f"^{_DAY}[T ]{_CLOCK}(Z|[+-][0-9]{{2}}:[0-9]{{2}})$",
    "local_timestamp": f"^{_DAY}[T ]{_CLOCK}$",
}


def cannot(column: Column, rule: str) -> str | None:
    """Say why a rule of this column is not in the schema; None where it is."""
    if rule in _LIMITS and not _is_json_number(column):
        return "the value is a text in the message"
    if rule == "enum" and column.clean != column.raw:
        return "the value is a text in the message"
    if rule == "type":
        return {
            "decimal": "a number's digits after the point are not said",
            "bytes": "the text's base64 is named, but few validators check it",
            **dict.fromkeys(_FORMS, "a regular expression knows no calendar"),
        }.get(column.raw)
    return None


def compile_contract(contract: Contract) -> dict[str, Any]:
    """Return the schema of one message."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"{contract.name}-{contract.version}.schema.json",
        "title": contract.name,
        **_object(contract.columns),
    }


def _object(columns: tuple[Column, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "object", "properties": {column.name: _value(column) for column in columns}}
    required = [column.name for column in columns if column.required]
    return {**found, "required": required} if required else found


def _value(column: Column) -> dict[str, Any]:
    found = _plain(column)
    if column.description:
        found["description"] = column.description
    missing = list(column.missing)
    if missing and column.required:
        found["not"] = {"enum": missing}
    elif missing:
        return {"anyOf": [found, {"enum": [None, *missing]}]}
    if not column.required:
        found["type"] = [*([found["type"]] if isinstance(found["type"], str) else found["type"]), "null"]
        if "enum" in found:
            found["enum"] = [*found["enum"], None]
    return found


def _plain(column: Column) -> dict[str, Any]:
    raw = column.raw
    if raw == "struct":
        return _object(column.fields)
    if raw == "list" and column.items is not None:
        sizes = {"minItems": column.min_items, "maxItems": column.max_items}
        bounded = {name: size for name, size in sizes.items() if size is not None}
        return {"type": "array", "items": _value(column.items), **bounded}
    if _is_json_number(column):
        return {**_number(column), **({"enum": list(column.enum)} if column.enum else {})}
    if raw == "decimal":
        return {"type": ["number", "string"]}
    if raw == "bool":
        return {"type": "boolean"}
    return {"type": "string", **_text(column)}


def _text(column: Column) -> dict[str, Any]:
    if column.raw == "bytes":
        return {"contentEncoding": "base64"}
    if column.raw in _FORMS:
        return {"pattern": _FORMS[column.raw]}
    if column.lexical_form is not None:
        return {"pattern": whole(column.lexical_form)}
    stated = {theirs: getattr(column, ours) for ours, theirs in _TEXTS.items()}
    found = {name: value for name, value in stated.items() if value not in (None, ())}
    if "pattern" in found:
        found["pattern"] = portable(found["pattern"])
    return {**found, **({"enum": list(column.enum)} if column.enum else {})}


def _number(column: Column) -> dict[str, Any]:
    limits = {theirs: getattr(column, ours) for ours, theirs in _LIMITS.items() if getattr(column, ours) is not None}
    if column.raw in BITS:
        low, high = integer_range(column.raw)
        limits.setdefault("minimum", low)
        limits.setdefault("maximum", high)
        limits.update(minimum=max(low, limits["minimum"]), maximum=min(high, limits["maximum"]))
        return {"type": "integer", **limits}
    return {"type": "number", **limits}


def _is_json_number(column: Column) -> bool:
    return column.raw in BITS or column.raw in ("float32", "float64")
