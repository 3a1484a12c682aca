"""What a contract says of rows and slices as a whole: rules between columns, row counts, freshness, quarantine."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, get_args

from tidegate.contract import between
from tidegate.contract.arrow import clean_schema
from tidegate.contract.model import RowRule, Severity, SliceRules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tidegate.contract.model import Column, Contract
    from tidegate.yamlfile import FieldPath, Problem, YamlFile

_QUALITY: FieldPath = ("schema", 0, "quality")
_SQL = {"type", "query", "name", "description", "mustBe", "severity", "dimension", "id", "tags", "businessImpact"}
_BOUNDS: dict[str, Callable[[Any], tuple[float | None, float | None]]] = {
    "mustBe": lambda value: (value, value),
    "mustBeGreaterThan": lambda value: (value + 1, None),
    "mustBeGreaterOrEqualTo": lambda value: (value, None),
    "mustBeLessThan": lambda value: (None, value - 1),
    "mustBeLessOrEqualTo": lambda value: (None, value),
    "mustBeBetween": lambda value: (value[0], value[1]),
}
_UNITS = {
    "s": 1.0, "second": 1.0, "m": 60.0, "min": 60.0, "minute": 60.0, "h": 3600.0, "hr": 3600.0, "hour": 3600.0,
    "d": 86400.0, "day": 86400.0, "w": 604800.0, "week": 604800.0,
}  # fmt: skip
_SHARE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*%\s*$")
CUSTOM: dict[str, str] = {
    "quarantineAtMost": "the slice is refused above {share: 5%, rows: 1000} quarantined rows; either may be left out",
}


class WholeReader:
    """Reads the rules of the schema object and of the service levels, and gathers their mistakes in `problems`."""

    def __init__(self, file: YamlFile, columns: tuple[Column, ...]):
        self.problems: list[Problem] = []
        self._file = file
        self._object: dict[str, Any] = file.data["schema"][0]
        self._columns = columns
        self._places: list[int] = []

    def row_rules(self) -> tuple[RowRule, ...]:
        """Return the rules between columns."""
        found: dict[str, RowRule] = {}
        for place, rule in enumerate(self._object.get("quality", [])):
            if rule.get("type") != "sql":
                continue
            read = self._row_rule(place, rule)
            if read is not None and read.name in found:
                self._problem((*_QUALITY, place), read.name, "two rules have this name", "give each its own")
            if read is not None:
                found[read.name] = read
                self._places.append(place)
        return tuple(found.values())

    def slice_rules(self) -> SliceRules:
        """Return the bounds on a slice."""
        rows: tuple[float | None, float | None] = (None, None)
        severity: Severity = "stop"
        for place, rule in enumerate(self._object.get("quality", [])):
            if rule.get("type") in ("text", "sql"):
                continue
            bounds = [(name, rule[name]) for name in _BOUNDS if name in rule]
            if rule.get("metric") != "rowCount" or len(bounds) != 1 or "percent" in str(rule.get("unit")):
                remedy = (
                    "of a whole table, write metric: rowCount with one of "
                    f"{', '.join(_BOUNDS)}, or type: sql; `type: text` is for people"
                )
                self._problem((*_QUALITY, place), rule, "nothing here checks this rule", remedy)
                continue
            rows = _BOUNDS[bounds[0][0]](bounds[0][1])
            severity = self._severity(place, rule, "stop", ("stop", "warn"))
        freshness, fresh_severity = self._freshness()
        share, count = self._quarantine()
        return SliceRules(rows, severity, freshness, fresh_severity, share, count)

    def tried(self, contract: Contract) -> Iterator[Problem]:
        """Yield a problem for each row rule that DuckDB refuses for these columns' types."""
        for number, complaint in between.try_out(contract, clean_schema(contract)):
            at = (*_QUALITY, self._places[number], "query")
            yield self._file.problem(at, contract.row_rules[number].broken, complaint, "mend the expression")

    def _row_rule(self, place: int, rule: dict[str, Any]) -> RowRule | None:
        at = (*_QUALITY, place)
        for field in rule.keys() - _SQL:
            self._problem((*at, field), rule[field], "nothing here enforces this field", f"{between.SHAPE}")
        if rule.get("mustBe") != 0 or isinstance(rule.get("mustBe"), bool):
            self._problem((*at, "mustBe"), rule.get("mustBe"), "a row rule counts wrong rows", between.SHAPE)
            return None
        names = [column.name for column in self._columns]
        try:
            broken, columns = between.read_rule(str(rule["query"]), str(self._object["name"]), names)
        except ValueError as error:
            self._problem((*at, "query"), rule["query"], f"no rule over one row: {error}", between.SHAPE)
            return None
        severity = self._severity(place, rule, "quarantine", get_args(Severity))
        name = re.sub(r"\W+", "_", str(rule.get("name") or f"rule_{place}")).strip("_").lower()
        return RowRule(name, broken, columns, severity)

    def _severity(self, place: int, rule: dict[str, Any], default: Severity, allowed: tuple[str, ...]) -> Severity:
        value = rule.get("severity", default)
        if value not in allowed:
            at = (*_QUALITY, place, "severity")
            self._problem(at, value, "no such severity of this rule", f"write one of {', '.join(allowed)}")
            return default
        found: Severity = value
        return found

    def _freshness(self) -> tuple[float | None, Severity]:
        for place, item in enumerate(self._file.data.get("slaProperties", [])):
            if item["property"] != "freshness":
                continue
            at: FieldPath = ("slaProperties", place)
            clock = next((column for column in self._columns if column.event_time), None)
            unit = _UNITS.get(str(item.get("unit", "")).lower().removesuffix("s") or "s")
            element = f"{self._object['name']}.{clock.name}" if clock else None
            if clock is None or item.get("element") not in (element, clock.name):
                remedy = f"name {element}" if clock else "add the custom property eventTime to a column"
                self._problem((*at, "element"), item.get("element"), "freshness is the event time's", remedy)
            elif unit is None or isinstance(item["value"], bool) or not isinstance(item["value"], int | float):
                remedy = f"write a number, and as its unit one of {', '.join(_UNITS)}"
                self._problem((*at, "unit"), f"{item['value']} {item.get('unit')}", "no such time", remedy)
            else:
                stated = {entry["property"]: entry["value"] for entry in item.get("customProperties", [])}
                return float(item["value"]) * unit, "warn" if stated.get("severity") == "warn" else "stop"
        return None, "stop"

    def _quarantine(self) -> tuple[float | None, int | None]:
        share: float | None = None
        rows: int | None = None
        for place, entry in enumerate(self._object.get("customProperties", [])):
            at: FieldPath = ("schema", 0, "customProperties", place)
            if entry["property"] not in CUSTOM:
                self._problem(at, entry["property"], "no such custom property", f"use one of {', '.join(CUSTOM)}")
                continue
            value = entry["value"]
            known = isinstance(value, dict) and value.keys() <= {"share", "rows"} and bool(value)
            matched = _SHARE.match(str(value["share"])) if known and "share" in value else None
            right_share = known and ("share" not in value or (matched is not None and float(matched[1]) <= 100))
            right_rows = known and ("rows" not in value or (isinstance(value["rows"], int) and value["rows"] >= 0))
            if not (right_share and right_rows):
                self._problem(
                    at, value, "no limit of quarantined rows", "write {share: 5%, rows: 1000}, or one of them"
                )
                continue
            share = float(matched[1]) / 100 if matched else None
            rows = value.get("rows")
        return share, rows

    def _problem(self, at: FieldPath, value: object, message: str, remedy: str) -> None:
        self.problems.append(self._file.problem(at, value, message, remedy))
