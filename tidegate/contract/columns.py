"""One property of an ODCS schema becomes one Column, or says what is wrong with it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

from tidegate.contract.model import Cast, Column, Kind

if TYPE_CHECKING:
    from tidegate.yamlfile import FieldPath, Problem, YamlFile

_PHYSICAL: dict[str, Kind] = {
    **dict.fromkeys(("smallint", "int2", "int", "integer", "int4", "int32"), "int32"),
    **dict.fromkeys(("bigint", "int8", "int64"), "int64"),
    **dict.fromkeys(("double", "double precision", "float8", "float64", "number"), "float64"),
    **dict.fromkeys(("text", "string", "varchar", "char", "character varying"), "string"),
    **dict.fromkeys(("bool", "boolean"), "bool"),
    **dict.fromkeys(("timestamptz", "timestamp with time zone"), "timestamp"),
    "date": "date",
}
_LOGICAL: dict[str, Kind] = {"string": "string", "boolean": "bool", "timestamp": "timestamp", "date": "date"}
_INTEGERS: dict[str, Kind] = {"i32": "int32", "i64": "int64"}
_WIDENS: set[tuple[Kind, Kind]] = {("int32", "int64"), ("int32", "float64"), ("int64", "float64")}
_FOR_PEOPLE = {
    "id", "description", "businessName", "tags", "examples", "classification", "criticalDataElement", "deprecated",
    "synonyms", "authoritativeDefinitions", "transformDescription",
}  # fmt: skip
_ENFORCED = {
    "name", "logicalType", "physicalType", "required", "primaryKey", "primaryKeyPosition", "logicalTypeOptions",
    "quality", "customProperties",
}  # fmt: skip
_OPTIONS = {
    "format": None, "minimum": "minimum", "maximum": "maximum", "exclusiveMinimum": "exclusive_minimum",
    "exclusiveMaximum": "exclusive_maximum", "pattern": "pattern", "minLength": "min_length", "maxLength": "max_length",
    "timezone": None, "defaultTimezone": None,
}  # fmt: skip
_CUSTOM = {"lexicalForm", "cast", "missing", "eventTime", "encoding"}
_FORM_EXAMPLE = r"add customProperties: [{property: lexicalForm, value: '-?\d{1,9}'}]"


class ColumnReader:
    """Reads the property at one position of the contract's schema and gathers its mistakes in `problems`."""

    def __init__(self, file: YamlFile, position: int):
        self.problems: list[Problem] = []
        self._file = file
        self._at: FieldPath = ("schema", 0, "properties", position)
        self._item: dict[str, Any] = file.data["schema"][0]["properties"][position]
        self._custom: dict[str, Any] = {c["property"]: c["value"] for c in self._item.get("customProperties", [])}

    def read(self) -> Column:
        """Return the column; it is to be used only where `problems` stays empty."""
        item = self._item
        self._only_enforced()
        clean, raw = self._clean(), self._raw()
        self._castable(raw, clean)
        options = item.get("logicalTypeOptions") or {}
        limits = {ours: options[theirs] for theirs, ours in _OPTIONS.items() if ours and theirs in options}
        return Column(
            name=item["name"],
            raw=raw,
            clean=clean,
            required=bool(item.get("required", False)),
            key=self._key(),
            lexical_form=self._regex(("lexicalForm",), self._custom.get("lexicalForm")),
            cast=self._choice("cast", get_args(Cast)) or "decimal",
            missing=self._missing(),
            event_time=self._event_time(),
            encoding=self._choice("encoding", ("vocabulary", "standardise")),
            description=item.get("description", ""),
            **self._checked(limits, clean),
        )

    def _problem(self, field: tuple[str, ...], value: object, message: str, remedy: str) -> None:
        if field and field[0] in _CUSTOM:
            names = [entry["property"] for entry in self._item.get("customProperties", [])]
            at: FieldPath = (*self._at, "customProperties", names.index(field[0])) if field[0] in names else self._at
        else:
            at = (*self._at, *field)
        found = self._file.problem(at, value, message, remedy)
        self.problems.append(replace(found, field=".".join((self._item["name"], *field))))

    def _only_enforced(self) -> None:
        for field, value in self._item.items():
            if field not in _ENFORCED | _FOR_PEOPLE:
                self._problem((field,), value, "nothing here enforces this field", "remove it, or use a quality text")
        for option, value in (self._item.get("logicalTypeOptions") or {}).items():
            if option not in _OPTIONS:
                known = ", ".join(_OPTIONS)
                self._problem(("logicalTypeOptions", option), value, "nothing here enforces it", f"use one of {known}")
        for name, value in self._custom.items():
            if name not in _CUSTOM:
                self._problem((name,), value, "no such custom property", f"use one of {', '.join(sorted(_CUSTOM))}")
        for rule in self._item.get("quality", []):
            if rule.get("type") != "text":
                remedy = "state it by required, primaryKey or logicalTypeOptions; `type: text` is for people"
                self._problem(("quality",), rule, "nothing here checks this rule", remedy)

    def _clean(self) -> Kind:
        logical = self._item.get("logicalType")
        form = (self._item.get("logicalTypeOptions") or {}).get("format")
        if logical == "integer":
            if form is not None and form not in _INTEGERS:
                self._problem(("logicalTypeOptions", "format"), form, "no such integer here", "write i32 or i64")
            return _INTEGERS.get(form or "i32", "int64")
        if logical == "number":
            if form not in (None, "f64"):
                self._problem(("logicalTypeOptions", "format"), form, "no such number here", "write f64")
            return "float64"
        if logical not in _LOGICAL:
            remedy = f"write one of {', '.join(('integer', 'number', *_LOGICAL))}"
            self._problem(("logicalType",), logical, "this type is not supported", remedy)
        return _LOGICAL.get(str(logical), "string")

    def _raw(self) -> Kind:
        physical = self._item.get("physicalType")
        name = re.sub(r"\(.*\)", "", str(physical)).strip().lower()
        if name not in _PHYSICAL:
            remedy = f"write one of {', '.join(_PHYSICAL)}"
            self._problem(("physicalType",), physical, "this type at the source is not supported", remedy)
        return _PHYSICAL.get(name, "string")

    def _castable(self, raw: Kind, clean: Kind) -> None:
        form = self._custom.get("lexicalForm")
        if raw == "string" and clean != "string":
            if form is None:
                message = f"a string that becomes {clean} needs a stated form"
                self._problem(("lexicalForm",), "nothing", message, _FORM_EXAMPLE)
        elif form is not None:
            self._problem(("lexicalForm",), form, "only a string that becomes another type has one", "use pattern")
        elif raw != clean and (raw, clean) not in _WIDENS:
            message = f"{raw} at the source does not become {clean} without loss"
            self._problem(("logicalType",), self._item.get("logicalType"), message, "make both types alike")
        if self._custom.get("cast") == "epochSeconds" and (raw, clean) != ("string", "int64"):
            remedy = "use logicalType integer, format i64 and physicalType string"
            self._problem(("cast",), "epochSeconds", f"{raw} does not become {clean} by it", remedy)

    def _key(self) -> int | None:
        if not self._item.get("primaryKey"):
            return None
        if not self._item.get("required"):
            self._problem(("required",), self._item.get("required"), "a key is never NULL", "write required: true")
        return int(self._item.get("primaryKeyPosition", 1))

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

    def _missing(self) -> tuple[str, ...]:
        value = self._custom.get("missing", [])
        texts = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in texts) or (texts and self._raw() != "string"):
            remedy = "write a list of texts, on a column whose physicalType is a string"
            self._problem(("missing",), value, "only texts can stand for NULL", remedy)
            return ()
        return tuple(texts)

    def _event_time(self) -> bool:
        value: object = self._custom.get("eventTime", False)
        if not isinstance(value, bool):
            self._problem(("eventTime",), value, "not a yes or no", "write true or false")
            return False
        is_clock = self._clean() == "timestamp" or self._custom.get("cast") == "epochSeconds"
        if value and not is_clock:
            remedy = "use a timestamp, or an integer cast by epochSeconds"
            self._problem(("eventTime",), value, "this column is no instant", remedy)
        return value

    def _checked(self, limits: dict[str, Any], clean: Kind) -> dict[str, Any]:
        from tidegate.contract.arrow import limit_scalar

        if "pattern" in limits:
            limits["pattern"] = self._regex(("logicalTypeOptions", "pattern"), limits["pattern"])
        for ours in ("minimum", "maximum", "exclusive_minimum", "exclusive_maximum"):
            if ours in limits:
                try:
                    limit_scalar(limits[ours], clean)
                except ValueError as error:
                    remedy = "write a number, or for instants a text such as '2013-01-01'"
                    self._problem(("logicalTypeOptions",), limits[ours], f"no limit of a {clean}: {error}", remedy)
        return limits
