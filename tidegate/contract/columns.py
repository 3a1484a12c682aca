"""One property of an ODCS schema becomes one Column, or says what is wrong with it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from tidegate.contract import kinds
from tidegate.contract.model import BITS, Cast, Column, Kind, Severity
from tidegate.contract.thresholds import thresholds
from tidegate.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate.contract.model import Threshold
    from tidegate.yamlfile import FieldPath, Problem, YamlFile

_FOR_PEOPLE = {
    "id", "description", "businessName", "tags", "examples", "classification", "criticalDataElement", "deprecated",
    "synonyms", "authoritativeDefinitions", "transformDescription",
}  # fmt: skip
_ENFORCED = {
    "name", "logicalType", "physicalType", "required", "unique", "primaryKey", "primaryKeyPosition",
    "logicalTypeOptions", "quality", "customProperties",
}  # fmt: skip
_NESTED = {"struct": {"properties"}, "list": {"items"}}
_OPTIONS = {
    "format": None, "minimum": "minimum", "maximum": "maximum", "exclusiveMinimum": "exclusive_minimum",
    "exclusiveMaximum": "exclusive_maximum", "pattern": "pattern", "minLength": "min_length", "maxLength": "max_length",
    "minItems": "min_items", "maxItems": "max_items", "timezone": None, "defaultTimezone": None,
}  # fmt: skip
_SEVERE = {
    **{theirs: ours for theirs, ours in _OPTIONS.items() if ours},
    "unique": "unique", "validValues": "enum", "finite": "not_finite", "outsideWindow": "outside_window",
    "required": "required", "lexicalForm": "lexical_form",
}  # fmt: skip
_NEVER_WARN = {"required", "lexical_form"}  # a value that is not there, or cannot be cast, has nothing to go on with
CUSTOM: dict[str, str] = {
    "lexicalForm": "regular expression (RE2) that a text must match as a whole before it is cast to the logical type",
    "cast": f"how such a text is cast: {', '.join(get_args(Cast))}",
    "missing": "texts that mean NULL at the source",
    "eventTime": "true for the column that says when a row's event happened",
    "allowedLateness": "how long before its window an event may have happened: 10m, 2h, 1 day (default 0s)",
    "encoding": "how the model sees the column: vocabulary or standardise",
    "unit": "unit of the values, for people and for reports",
    "drift": "limits {linfty: 0.1} (texts) or {jensenShannon: 0.1} (numbers) of the distance to the champion's data "
    "and to the slice before; by what happens beyond: {linfty: {warn: 0.1, retrain: 0.2, stop: 0.5}}",
    "skew": "such limits for what servers are asked with, against the champion's training data: warn, retrain",
    "severity": "what a broken rule does, by rule: {maximum: warn}; quarantine (default), warn, or stop the slice",
}
_FORM_EXAMPLE = r"add customProperties: [{property: lexicalForm, value: '-?\d{1,9}'}]"


class ColumnReader:
    """Reads one property of the contract's schema and gathers its mistakes in `problems`.

    `at` is where the property stands in the file, `path` the names that lead to it: `a`, `a.b`, `a[]`.
    """

    def __init__(self, file: YamlFile, at: FieldPath, item: dict[str, Any], path: str = ""):
        self.problems: list[Problem] = []
        self._file = file
        self._at = at
        self._item = item
        self._path = path or item["name"]
        self._custom: dict[str, Any] = {c["property"]: c["value"] for c in item.get("customProperties", [])}
        self._options: dict[str, Any] = item.get("logicalTypeOptions") or {}

    def read(self) -> Column:
        """Return the column; it is to be used only where `problems` stays empty."""
        item = self._item
        clean, raw = self._clean(), self._raw()
        self._only_enforced(clean)
        limits = {ours: self._options[theirs] for theirs, ours in _OPTIONS.items() if ours and theirs in self._options}
        if "pattern" in limits:
            limits["pattern"] = self._regex(("logicalTypeOptions", "pattern"), limits["pattern"])
        column = Column(
            name=item.get("name", "item"),
            raw=raw,
            clean=clean,
            required=bool(item.get("required", False)),
            unique=self._unique(clean),
            key=self._key(),
            lexical_form=self._regex(("lexicalForm",), self._custom.get("lexicalForm")),
            cast=self._choice("cast", get_args(Cast)) or "decimal",
            missing=self._missing(raw),
            encoding=self._choice("encoding", ("vocabulary", "standardise")),
            description=item.get("description", ""),
            digits=kinds.digits(str(item.get("physicalType"))) or ((38, 9) if clean == "decimal" else None),
            zone=self._zone(raw, clean),
            fields=self._fields(clean),
            items=self._items(clean),
            severities=self._severities(),
            unit=self._text("unit"),
            drift=self._thresholds("drift", clean),
            skew=self._thresholds("skew", clean),
            enum=self._enum(),
            event_time=self._event_time(clean),
            lateness=self._lateness(),
            **limits,
        )
        self._castable(column)
        self._limits_fit(column)
        return column

    def _problem(self, field: tuple[str, ...], value: object, message: str, remedy: str) -> None:
        if field and field[0] in CUSTOM:
            names = [entry["property"] for entry in self._item.get("customProperties", [])]
            at: FieldPath = (*self._at, "customProperties", names.index(field[0])) if field[0] in names else self._at
        else:
            at = (*self._at, *field)
        found = self._file.problem(at, value, message, remedy)
        self.problems.append(replace(found, field=".".join((self._path, *field))))

    def _only_enforced(self, clean: Kind) -> None:
        for field, value in self._item.items():
            if field not in _ENFORCED | _FOR_PEOPLE | _NESTED.get(clean, set()):
                self._problem((field,), value, "nothing here enforces this field", "remove it, or use a quality text")
        for option, value in self._options.items():
            if option not in _OPTIONS:
                known = ", ".join(_OPTIONS)
                self._problem(("logicalTypeOptions", option), value, "nothing here enforces it", f"use one of {known}")
        for name, value in self._custom.items():
            if name not in CUSTOM:
                self._problem((name,), value, "no such custom property", f"use one of {', '.join(sorted(CUSTOM))}")
        for rule in self._item.get("quality", []):
            if rule.get("type") != "text" and not _is_enum(rule):
                remedy = (
                    "state it by required, unique, primaryKey or logicalTypeOptions, or as `metric: invalidValues` "
                    "with validValues and mustBe: 0; `type: text` is for people"
                )
                self._problem(("quality",), rule, "nothing here checks this rule", remedy)

    def _clean(self) -> Kind:
        logical = self._item.get("logicalType")
        form = self._options.get("format")
        if logical == "integer":
            if form is not None and form not in kinds.INTEGERS:
                remedy = f"write one of {', '.join(kinds.INTEGERS)}, such as i32 or i64"
                self._problem(("logicalTypeOptions", "format"), form, "no such integer here", remedy)
            return kinds.INTEGERS.get(form or "i32", "int64")
        if logical == "number":
            return self._number(form)
        if logical not in kinds.LOGICAL:
            remedy = f"write one of {', '.join(('integer', 'number', *kinds.LOGICAL))}"
            self._problem(("logicalType",), logical, "this type is not supported", remedy)
        if logical == "string" and form is not None:
            if form in kinds.BINARY_FORMATS:
                return "bytes"
            remedy = "write binary, or state the form by pattern"
            self._problem(("logicalTypeOptions", "format"), form, "nothing here checks this format", remedy)
        if logical == "timestamp" and self._options.get("timezone") is False:
            return "local_timestamp"
        return kinds.LOGICAL.get(str(logical), "string")

    def _number(self, form: Any) -> Kind:
        if form is not None and form not in kinds.FLOATS:
            self._problem(("logicalTypeOptions", "format"), form, "no such number here", "write f32 or f64")
        physical = str(self._item.get("physicalType"))
        if form is None and kinds.physical(physical) == "decimal":
            return "decimal"
        return kinds.FLOATS.get(form or "f64", "float64")

    def _raw(self) -> Kind:
        physical = self._item.get("physicalType")
        found = kinds.physical(str(physical))
        if found is None:
            remedy = f"write one of {', '.join(kinds.PHYSICAL)}"
            self._problem(("physicalType",), physical, "this type at the source is not supported", remedy)
        precision, scale = kinds.digits(str(physical)) or (38, 9)
        if found == "decimal" and not 0 <= scale <= precision <= 38:
            self._problem(("physicalType",), physical, "more digits than 38", "write decimal(38, 9), or less")
        return found or "string"

    def _castable(self, column: Column) -> None:
        raw, clean, form = column.raw, column.clean, self._custom.get("lexicalForm")
        if raw == "string" and clean in ("bytes", "list", "struct"):
            remedy = "write the physicalType that it has at the source"
            self._problem(("physicalType",), self._item.get("physicalType"), f"no text becomes {clean}", remedy)
        elif raw == "string" and clean != "string":
            if form is None:
                message = f"a string that becomes {clean} needs a stated form"
                self._problem(("lexicalForm",), "nothing", message, _FORM_EXAMPLE)
        elif form is not None:
            self._problem(("lexicalForm",), form, "only a string that becomes another type has one", "use pattern")
        elif (raw, clean) == ("local_timestamp", "timestamp"):
            if column.zone is None:
                remedy = "add logicalTypeOptions: {defaultTimezone: America/New_York}, or {timezone: false}"
                self._problem(("logicalTypeOptions",), "nothing", "clock times of no stated zone", remedy)
        elif not kinds.widens(raw, clean):
            message = f"{raw} at the source does not become {clean} without loss"
            self._problem(("logicalType",), self._item.get("logicalType"), message, "make both types alike")
        if column.cast != "decimal" and (raw, clean) != ("string", "int64"):
            remedy = "use logicalType integer, format i64 and physicalType string"
            self._problem(("cast",), column.cast, f"{raw} does not become {clean} by it", remedy)

    def _key(self) -> int | None:
        if not self._item.get("primaryKey"):
            return None
        if not self._item.get("required"):
            self._problem(("required",), self._item.get("required"), "a key is never NULL", "write required: true")
        return int(self._item.get("primaryKeyPosition", 1))

    def _unique(self, clean: Kind) -> bool:
        unique = bool(self._item.get("unique", False))
        if unique and (clean in ("list", "struct") or "." in self._path or "[]" in self._path):
            self._problem(("unique",), True, "only a plain column of its own can be unique", "remove it")
        return unique

    def _zone(self, raw: Kind, clean: Kind) -> str | None:
        zone = self._options.get("defaultTimezone")
        if zone is None:
            return None
        import zoneinfo

        try:
            zoneinfo.ZoneInfo(str(zone))
        except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
            remedy = "write one of the IANA database, such as Europe/Berlin or Etc/UTC"
            self._problem(("logicalTypeOptions", "defaultTimezone"), zone, "there is no such time zone", remedy)
            return None
        if clean != "timestamp" or raw not in ("local_timestamp", "string"):
            remedy = "remove it, or write physicalType: timestamp (or a string) and logicalType: timestamp"
            self._problem(("logicalTypeOptions", "defaultTimezone"), zone, "this column needs no zone", remedy)
        return str(zone)

    def _fields(self, clean: Kind) -> tuple[Column, ...]:
        inner = self._item.get("properties") or []
        if clean == "struct" and not inner:
            self._problem(("properties",), "nothing", "an object without properties", "name them")
        if clean != "struct":
            return ()
        return tuple(
            self._inner(("properties", n), item, f"{self._path}.{item['name']}") for n, item in enumerate(inner)
        )

    def _items(self, clean: Kind) -> Column | None:
        item = self._item.get("items")
        if clean != "list":
            return None
        if not isinstance(item, dict):
            self._problem(("items",), item, "a list without items", "add items: {logicalType, physicalType}")
            return Column("item", "string", "string")
        return self._inner(("items",), item, f"{self._path}[]")

    def _inner(self, where: tuple[str | int, ...], item: dict[str, Any], path: str) -> Column:
        reader = ColumnReader(self._file, (*self._at, *where), item, path)
        column = reader.read()
        if column.key is not None or column.event_time:
            reader._problem((), path, "a key or an event time is a column of its own", "take it out of the object")
        self.problems += reader.problems
        return column

    def _regex(self, field: tuple[str, ...], text: Any) -> str | None:
        if text is None:
            return None
        import pyarrow as pa
        import pyarrow.compute as pc

        try:
            pc.match_substring_regex(pa.array([""]), pattern=f"(?:{text})")
        except (pa.ArrowInvalid, TypeError) as error:
            self._problem(field, text, f"not a regular expression (RE2): {error}", "mend it")
            return None
        return str(text)

    def _choice(self, field: str, allowed: tuple[str, ...]) -> Any:
        value = self._custom.get(field)
        if value is not None and value not in allowed:
            self._problem((field,), value, "no such choice", f"write one of {', '.join(allowed)}")
            return None
        return value

    def _text(self, field: str) -> str | None:
        value = self._custom.get(field)
        if value is not None and not isinstance(value, str):
            self._problem((field,), value, "no text", "write a text, such as minutes")
            return None
        return value

    def _missing(self, raw: Kind) -> tuple[str, ...]:
        value = self._custom.get("missing", [])
        texts = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in texts) or (texts and raw != "string"):
            remedy = "write a list of texts, on a column whose physicalType is a string"
            self._problem(("missing",), value, "only texts can stand for NULL", remedy)
            return ()
        return tuple(texts)

    def _enum(self) -> tuple[Any, ...]:
        values = [value for rule in self._item.get("quality", []) if _is_enum(rule) for value in _allowed(rule)]
        return tuple(values)

    def _severities(self) -> tuple[tuple[str, Severity], ...]:
        stated = self._custom.get("severity", {})
        if not isinstance(stated, dict):
            remedy = "write it by rule: {maximum: warn, pattern: stop}"
            self._problem(("severity",), stated, "which rule it is about is not said", remedy)
            return ()
        return tuple(self._severe(stated)) + tuple(
            ("enum", rule["severity"])
            for rule in self._item.get("quality", [])
            if _is_enum(rule) and "severity" in rule
        )

    def _severe(self, stated: dict[str, Any]) -> Iterator[tuple[str, Severity]]:
        for name, value in stated.items():
            rule = _SEVERE.get(name)
            if rule is None:
                self._problem(("severity",), name, "there is no such rule", f"name one of {', '.join(_SEVERE)}")
            elif value not in get_args(Severity):
                self._problem(("severity",), value, "no such severity", f"write one of {', '.join(get_args(Severity))}")
            elif value == "warn" and rule in _NEVER_WARN:
                remedy = "leave the rule out, or quarantine the row"
                self._problem(("severity",), name, "a row that breaks it has no value to go on with", remedy)
            else:
                yield rule, value

    def _thresholds(self, name: Literal["drift", "skew"], clean: Kind) -> tuple[Threshold, ...]:
        try:
            return thresholds(name, self._custom.get(name, {}), clean)
        except ValueError as error:
            message, _, remedy = str(error).partition(" Remedy: ")
            self._problem((name,), self._custom[name], message, remedy)
            return ()

    def _event_time(self, clean: Kind) -> bool:
        value: object = self._custom.get("eventTime", False)
        if not isinstance(value, bool):
            self._problem(("eventTime",), value, "not a yes or no", "write true or false")
            return False
        is_clock = clean == "timestamp" or str(self._custom.get("cast", "")).startswith("epoch")
        if value and not is_clock:
            remedy = "use a timestamp, or an integer cast by epochSeconds"
            self._problem(("eventTime",), value, "this column is no instant", remedy)
        return value

    def _lateness(self) -> float:
        value = self._custom.get("allowedLateness", 0)
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            self._problem(("allowedLateness",), value, str(error).partition(" Remedy")[0], "write 10m, 2h or 1 day")
            return 0.0
        if seconds and self._custom.get("eventTime") is not True:
            self._problem(("allowedLateness",), value, "this column is not the event time", "move it there")
        return seconds

    def _limits_fit(self, column: Column) -> None:
        from tidegate.contract.arrow import enum_array, limit_scalar

        for ours in ("minimum", "maximum", "exclusive_minimum", "exclusive_maximum"):
            limit = getattr(column, ours)
            if limit is None:
                continue
            try:
                limit_scalar(limit, column)
            except (ValueError, OverflowError) as error:
                remedy = "write a number, or for instants a text such as '2013-01-01'"
                self._problem(("logicalTypeOptions",), limit, f"no limit of a {column.clean}: {error}", remedy)
        if column.enum:
            try:
                enum_array(column)
            except (ValueError, OverflowError) as error:
                remedy = f"write values of the column's type, {column.clean}"
                self._problem(("quality",), list(column.enum), f"not the column's values: {error}", remedy)
        for option, fits in (("pattern", column.clean == "string"), ("minItems", column.clean == "list")):
            if option in self._options and not fits:
                self._problem(("logicalTypeOptions", option), self._options[option], "not of this type", "remove it")
        if column.clean in BITS:
            self._whole_limits(column)

    def _whole_limits(self, column: Column) -> None:
        for ours in ("minimum", "maximum"):
            limit = getattr(column, ours)
            if isinstance(limit, float) and not limit.is_integer():
                remedy = "write a whole number"
                self._problem(("logicalTypeOptions",), limit, f"no limit of a {column.clean}", remedy)


def _is_enum(rule: dict[str, Any]) -> bool:
    values = _allowed(rule)
    return (
        rule.get("metric") == "invalidValues" and isinstance(values, list) and bool(values) and rule.get("mustBe") == 0
    )


def _allowed(rule: dict[str, Any]) -> Any:
    arguments = rule.get("arguments")
    return arguments.get("validValues") if isinstance(arguments, dict) and set(arguments) == {"validValues"} else None
