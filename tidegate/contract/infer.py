"""A first contract from what rows look like, with comments on what was seen and how often.

Pure: an Arrow table in, YAML text out. It is a start for a person, not a judgement: ranges are those seen, rounded
outwards, and every guess says what it rests on.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute

from tidegate.contract.forms import has_form

if TYPE_CHECKING:
    from collections.abc import Iterator

pc: Any = pyarrow.compute

_FEW, _OFTEN = 12, 20  # distinct texts of an enumeration, and how often each stands on average
_MOST = 0.95  # share of the texts that must have a form for it to be proposed
_INSTANT = r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}"


@dataclass(frozen=True)
class Form:
    """What texts of a form mean: the form, the logical type, more options of it, and in words."""

    pattern: str
    logical: str
    options: str
    words: str


FORMS = (
    Form(r"-?(0|[1-9]\d{0,17})", "integer", "format: i64", "whole numbers"),
    Form(r"-?(0|[1-9]\d*)(\.\d+)?", "number", "", "numbers"),
    Form(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d{1,2})?", "number", "", "numbers, some with an exponent"),
    Form(_INSTANT + "Z", "timestamp", "", "instants in UTC, to the second"),
    Form(_INSTANT + r"(\.\d{1,6})?(Z|[+-]\d{2}:\d{2})", "timestamp", "", "instants with a zone"),
    Form(
        _INSTANT + r"(\.\d{1,6})?", "timestamp", "timezone: false", "clock times without a zone: state defaultTimezone"
    ),
    Form(r"\d{4}-\d{2}-\d{2}", "date", "", "dates"),
    Form("true|false|True|False|TRUE|FALSE", "boolean", "", "truths"),
)
_SENTINELS = ("NA", "N/A", "n/a", "NULL", "null", "None", "nan", "NaN", "-", "?", ".")
_WORDS = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")  # YAML 1.1 takes them for something else
_LEADING_ZERO = r"^-?0\d"


def contract_text(name: str, table: Any, source: str) -> str:
    """Return the YAML of a first contract of a table of n rows that were read from `source`."""
    lines = [
        "# yaml-language-server: $schema=../contract.schema.json",
        f"# Written from {table.num_rows:,} rows of {source}. Look at every line, then publish it:",
        f"# tidegate contract publish {name}",
        "apiVersion: v3.1.0",
        "kind: DataContract",
        f"id: {name}",
        "version: 1.0.0",
        "status: draft",
        "schema:",
        f"  - name: {name}",
        "    properties:",
    ]
    for field in table.schema:
        values = table.column(field.name)
        values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        lines += [f"      {line}" for line in _property(field.name, values)]
    return "\n".join(lines) + "\n"


def _property(name: str, values: Any) -> Iterator[str]:
    seen = len(values) - values.null_count
    facts = [f"{len(values):,} rows", "never NULL" if not values.null_count else f"{values.null_count:,} times NULL"]
    body = list(_typed(values, facts))
    absent = any("property: missing" in line for line in body[-1:])
    if (
        seen
        and seen == len(values) > 1
        and _countable(values.type)
        and pc.count_distinct(values).as_py() == len(values)
    ):
        facts.append("no value twice: a primaryKey?")
    yield f"- name: {_scalar(name)}  # {'; '.join(facts)}"
    for line in body:
        yield f"  {line}"
    if seen and not values.null_count and not absent:
        yield "  required: true"


def _countable(wanted: Any) -> bool:
    return not pa.types.is_nested(wanted) and not pa.types.is_null(wanted)


def _typed(values: Any, facts: list[str]) -> Iterator[str]:
    kind = values.type
    if pa.types.is_struct(kind):
        yield from ("logicalType: object", "physicalType: object", "properties:")
        for place, field in enumerate(kind):
            for line in _property(field.name, pc.struct_field(values, place)):
                yield f"  {line}"
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        yield from ("logicalType: array", "physicalType: array", "items:")
        for line in _typed(values.flatten(), facts):
            yield f"  {line}"
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
        yield from _text(values.cast(pa.string()), facts)
    else:
        yield from _plain(values, facts)


_PLAIN: tuple[tuple[Any, str, str, str], ...] = (
    (pa.types.is_boolean, "boolean", "boolean", ""),
    (pa.types.is_date, "date", "date", ""),
    (pa.types.is_time, "time", "time", ""),
    (pa.types.is_float32, "number", "float32", "format: f32"),
    (pa.types.is_floating, "number", "double", ""),
    (pa.types.is_binary, "string", "bytes", "format: binary"),
    (pa.types.is_large_binary, "string", "bytes", "format: binary"),
)
_SHORT = {"int8": "tinyint", "int64": "bigint"}


def _plain(values: Any, facts: list[str]) -> Iterator[str]:
    kind = values.type
    if pa.types.is_integer(kind):
        letter = "u" if str(kind).startswith("u") else "i"
        logical, physical = "integer", _SHORT.get(str(kind), str(kind))
        options = f"format: {letter}{kind.bit_width}"
    elif pa.types.is_decimal(kind):
        logical, physical, options = "number", f"decimal({kind.precision}, {kind.scale})", ""
    elif pa.types.is_timestamp(kind):
        logical, physical = "timestamp", "timestamptz" if kind.tz else "timestamp"
        options = "" if kind.tz else "timezone: false"
    else:
        logical, physical, options = next((entry[1:] for entry in _PLAIN if entry[0](kind)), ("string", "text", ""))
    yield f"logicalType: {logical}"
    yield f"physicalType: {_scalar(physical)}"
    limits = _range(values, facts) if logical in ("integer", "number") else ""
    stated = ", ".join(each for each in (options, limits) if each)
    if stated:
        yield f"logicalTypeOptions: {{{stated}}}"


def _range(values: Any, facts: list[str]) -> str:
    if pa.types.is_floating(values.type):
        finite = pc.is_finite(values)
        odd = len(values) - values.null_count - (pc.sum(finite).as_py() or 0)
        if odd:
            facts.append(f"{odd:,} times NaN or infinite: these would be quarantined")
        values = values.filter(finite)
    if not len(values) - values.null_count:
        return ""
    if pa.types.is_decimal(values.type):
        values = values.cast(pa.float64())
    ends = pc.min_max(values)
    low, high = ends["min"].as_py(), ends["max"].as_py()
    facts.append(f"from {low} to {high}")
    least, most = _outwards(float(low), math.floor), _outwards(float(high), math.ceil)
    if pa.types.is_integer(values.type):
        bound = values.type.bit_width - (0 if str(values.type).startswith("u") else 1)
        lowest = 0 if str(values.type).startswith("u") else -(2**bound)
        return f"minimum: {max(int(least), lowest)}, maximum: {min(int(most), 2**bound - 1)}"
    return f"minimum: {_number(least)}, maximum: {_number(most)}"


def _outwards(value: float, turn: Any) -> float:
    """Round a bound to two digits, away from what was seen; a small whole number stays."""
    if value == 0 or (value.is_integer() and abs(value) < 100):
        return value
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    found = turn(value / unit) * unit if unit else math.inf  # a number so small that none is a hundredth of it
    return float(f"{found:.12g}") if math.isfinite(found) else value


def _number(value: float) -> str:
    if value.is_integer() and abs(value) < 1e15:
        return repr(int(value))
    mantissa, exponent, power = repr(value).partition("e")
    return f"{mantissa}{'' if '.' in mantissa else '.0'}{exponent}{power}"  # YAML 1.1 takes 6e-08 for a text


def _text(values: Any, facts: list[str]) -> Iterator[str]:
    texts = values.drop_null()
    count = len(texts)
    absent = [word for word in _SENTINELS if pc.any(pc.equal(texts, word)).as_py()]
    there = texts.filter(pc.invert(pc.is_in(texts, pa.array(absent, pa.string()))))
    form, matching = _form(there)
    if form is not None:
        yield from _formed(there, form, matching, absent, count - len(there), facts)
        return
    yield "logicalType: string"
    yield "physicalType: string"
    if not count:
        facts.append("nothing seen of its type")
        return
    distinct = pc.count_distinct(texts).as_py()
    if distinct <= _FEW and count >= distinct * _OFTEN:
        counted = sorted(texts.value_counts().to_pylist(), key=lambda each: (-each["counts"], each["values"]))
        facts.append("these values: " + ", ".join(f"{c['values']!r} {c['counts']:,} times" for c in counted))
        allowed = ", ".join(_scalar(each["values"]) for each in counted)
        yield f"quality: [{{metric: invalidValues, arguments: {{validValues: [{allowed}]}}, mustBe: 0}}]"
    else:
        lengths = pc.min_max(pc.utf8_length(texts))
        facts.append(f"{distinct:,} different texts of {lengths['min']} to {lengths['max']} characters")


def _formed(texts: Any, form: Form, matching: int, absent: list[str], times: int, facts: list[str]) -> Iterator[str]:
    facts.append(f"{matching:,} of {len(texts):,} texts are {form.words}")
    fits = has_form(texts, form.pattern)
    if matching < len(texts):
        odd = repr(texts.filter(pc.invert(fits))[0].as_py())
        facts.append(f"the others would be quarantined, such as {odd[:40]}")
    options = form.options
    if form.logical in ("integer", "number"):
        limits = _range(texts.filter(fits).cast(pa.int64() if form.logical == "integer" else pa.float64()), facts)
        options = ", ".join(each for each in (options, limits) if each)
    yield f"logicalType: {form.logical}"
    yield "physicalType: string"
    if options:
        yield f"logicalTypeOptions: {{{options}}}"
    missing = ""
    if absent:
        facts.append(f"{times:,} times {', '.join(absent)}: taken for NULL")
        missing = f", {{property: missing, value: [{', '.join(map(_quoted, absent))}]}}"
    yield f"customProperties: [{{property: lexicalForm, value: {_scalar(form.pattern)}}}{missing}]"


def _quoted(text: str) -> str:
    return f"'{text}'"


def _form(texts: Any) -> tuple[Form | None, int]:
    if not len(texts) or pc.any(pc.match_substring_regex(texts, pattern=_LEADING_ZERO)).as_py():
        return None, 0  # a text like 007 is a name, not a number
    best: tuple[Form | None, int] = (None, 0)
    for form in FORMS:
        matching = pc.sum(has_form(texts, form.pattern)).as_py() or 0
        if matching >= _MOST * len(texts) and matching > best[1]:
            best = (form, matching)
    return best


def _scalar(text: str) -> str:
    """Return a text as a YAML scalar."""
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text) and text.lower() not in _WORDS:
        return text
    if "'" not in text and text.isprintable():
        return f"'{text}'"
    escaped = (f"\\{c}" if c in '"\\' else c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)
    return '"' + "".join(escaped) + '"'
