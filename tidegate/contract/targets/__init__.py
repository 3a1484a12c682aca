"""A contract compiled for other engines; each result lists which of its rules the engine cannot express.

The row masks (`tidegate.contract.masks`) are the one meaning of every rule. An engine that expresses a rule agrees with
them on it, which property tests hold; what it cannot express is in `Compiled.missing`, never left out in silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tidegate.contract.model import Column, Contract

__all__ = ["ENGINES", "Compiled", "Missing", "compile_for", "inexpressible", "rules_of"]

ENGINES: dict[str, str] = {
    "json_schema": "JSON Schema for producers of messages (draft 2020-12), about raw messages",
    "tfdv": "TensorFlow Data Validation schema, about clean columns",
    "great_expectations": "Great Expectations suite, about raw columns on pandas",
    "tf_io": "tf.io feature spec and tf.data reader, about clean columns",
}
RULES: dict[str, str] = {
    "type": "the value is of its type",
    "required": "the value is there",
    "lexical_form": "a text that is cast has its form",
    "no_such_value": "a text of that form has a value (no 30 February)",
    "not_finite": "a number is neither NaN nor infinite",
    "minimum": "at least", "maximum": "at most", "exclusive_minimum": "more than", "exclusive_maximum": "less than",
    "pattern": "a text matches", "min_length": "characters at least", "max_length": "characters at most",
    "enum": "one of the allowed values",
    "unique": "no value stands twice in a slice",
    "duplicate": "no key stands twice in a slice",
    "min_items": "items at least", "max_items": "items at most",
    "nested": "rules inside objects and lists",
    "row": "rules between columns",
    "row_count": "rows of a slice",
    "freshness": "age of a slice's newest row",
    "outside_window": "the event time lies in the slice's window",
}  # fmt: skip


@dataclass(frozen=True)
class Missing:
    """A rule of a contract that an engine cannot express, and why."""

    reason: str
    why: str


@dataclass(frozen=True)
class Compiled:
    """A contract in an engine's own form, and what of it is not in there."""

    engine: str
    artefact: Any
    missing: tuple[Missing, ...]


def compile_for(engine: str, contract: Contract) -> Compiled:
    """Compile a contract for one of ENGINES.

    Raises:
        KeyError: there is no such engine.
    """
    if engine not in ENGINES:
        raise KeyError(f"no engine {engine!r}; there are {', '.join(ENGINES)}")
    module = import_module(f"tidegate.contract.targets.{engine}")
    return Compiled(
        engine, module.compile_contract(contract), tuple(inexpressible(contract, module.CANNOT, module.cannot))
    )


def inexpressible(
    contract: Contract, never: Mapping[str, str], sometimes: Any = lambda _column, _rule: None
) -> Iterator[Missing]:
    """Yield the contract's rules that an engine lacks: those of `never`, and those that `sometimes` gives a why for."""
    for reason, rule, column in rules_of(contract):
        why = never.get(rule)
        if why is None and column is not None:
            why = sometimes(column, rule)
        if why is not None:
            yield Missing(reason, why)


def rules_of(contract: Contract) -> Iterator[tuple[str, str, Column | None]]:
    """Yield every rule of a contract: its reason, its name in RULES, and its column where it has one."""
    for column in contract.columns:
        for rule in column_rules(column):
            yield f"{column.name}:{rule}", rule, column
        if column.event_time:
            yield f"{column.name}:outside_window", "outside_window", column
    if contract.key:
        yield f"{'+'.join(contract.key)}:duplicate", "duplicate", None
    for row in contract.row_rules:
        yield f"row:{row.name}", "row", None
    if contract.slice_rules.rows != (None, None):
        yield "row_count", "row_count", None
    if contract.slice_rules.freshness is not None:
        yield "freshness", "freshness", None


def column_rules(column: Column) -> Iterator[str]:
    """Yield the names of the rules that hold for one column."""
    yield "type"
    if column.required:
        yield "required"
    if column.lexical_form is not None:
        yield from ("lexical_form", "no_such_value")
    if column.clean in ("float32", "float64"):
        yield "not_finite"
    limits = ("minimum", "maximum", "exclusive_minimum", "exclusive_maximum", "pattern", "min_length", "max_length",
              "min_items", "max_items")  # fmt: skip
    yield from (name for name in limits if getattr(column, name) is not None)
    if column.enum:
        yield "enum"
    if column.unique:
        yield "unique"
    if column.fields or column.items is not None:
        yield "nested"
