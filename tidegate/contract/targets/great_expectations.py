"""A Great Expectations suite, about the raw columns of a slice on pandas, as plain JSON that its Python reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tidegate.contract.arrow import is_number
from tidegate.contract.model import Column
from tidegate.contract.targets.patterns import portable, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tidegate.contract.model import Contract

_END = r"\Z"
CANNOT: dict[str, str] = {
    "type": "pandas changes types on reading (whole numbers with NULL become floats)",
    "no_such_value": "GX casts nothing",
    "not_finite": "pandas takes NaN for NULL",
    "nested": "GX looks into no lists or objects",
    "min_items": "GX looks into no lists",
    "max_items": "GX looks into no lists",
    "row": "an expression over a row needs a SQL engine",
    "freshness": "a suite knows no clock",
    "outside_window": "a suite knows no window",
}


def cannot(column: Column, rule: str) -> str | None:
    """Say why a rule of this column is not in the suite; None where it is."""
    if rule in ("minimum", "maximum", "exclusive_minimum", "exclusive_maximum"):
        if column.raw != column.clean:
            return "the value is a text, or of another type, in the raw column"
        if not is_number(column.clean) or column.clean == "decimal":
            return "limits of numbers only are compiled"
    if column.missing and rule != "type":
        return "texts that mean NULL are values to GX"
    if rule == "enum" and (column.raw != column.clean or column.clean == "decimal"):
        return "the value is of another type in the raw column"
    if column.clean in ("list", "struct", "bytes") and rule == "unique":
        return "GX compares no such values"
    return None


def compile_contract(contract: Contract) -> dict[str, Any]:
    """Return the suite as a dict of name, meta and expectations; each names our reason in its meta."""
    found = [expectation for column in contract.columns for expectation in _column(column)]
    if contract.key:
        reason = f"{'+'.join(contract.key)}:duplicate"
        keyed = {"column_list": list(contract.key), "ignore_row_if": "any_value_is_missing"}
        if len(contract.key) == 1:
            found.append(_expect("expect_column_values_to_be_unique", reason, column=contract.key[0]))
        else:
            found.append(_expect("expect_compound_columns_to_be_unique", reason, **keyed))
    least, most = contract.slice_rules.rows
    if (least, most) != (None, None):
        found.append(_expect("expect_table_row_count_to_be_between", "row_count", min_value=least, max_value=most))
    meta = {"contract": contract.name, "version": contract.version}
    return {"name": f"{contract.name}-{contract.version}", "meta": meta, "expectations": found}


def _column(column: Column) -> Iterator[dict[str, Any]]:
    from tidegate.contract.targets import column_rules

    has = [rule for rule in column_rules(column) if rule not in CANNOT and cannot(column, rule) is None]

    for rule in has:
        kind, kwargs = _KINDS[rule](column)
        stated = {name: value for name, value in kwargs.items() if value is not None}
        yield _expect(f"expect_column_{kind}", f"{column.name}:{rule}", column=column.name, **stated)


_Made = tuple[str, dict[str, Any]]
_KINDS: dict[str, Callable[[Column], _Made]] = {
    "required": lambda _: ("values_to_not_be_null", {}),
    "lexical_form": lambda c: ("values_to_match_regex", {"regex": whole(str(c.lexical_form), _END)}),
    "pattern": lambda c: ("values_to_match_regex", {"regex": portable(str(c.pattern), _END)}),
    "minimum": lambda c: ("values_to_be_between", {"min_value": c.minimum}),
    "maximum": lambda c: ("values_to_be_between", {"max_value": c.maximum}),
    "exclusive_minimum": lambda c: ("values_to_be_between", {"min_value": c.exclusive_minimum, "strict_min": True}),
    "exclusive_maximum": lambda c: ("values_to_be_between", {"max_value": c.exclusive_maximum, "strict_max": True}),
    "min_length": lambda c: ("value_lengths_to_be_between", {"min_value": c.min_length}),
    "max_length": lambda c: ("value_lengths_to_be_between", {"max_value": c.max_length}),
    "enum": lambda c: ("values_to_be_in_set", {"value_set": list(c.enum)}),
    "unique": lambda _: ("values_to_be_unique", {}),
}


def _expect(kind: str, reason: str, **kwargs: Any) -> dict[str, Any]:
    return {"type": kind, "kwargs": {k: v for k, v in kwargs.items() if v is not None}, "meta": {"reason": reason}}
