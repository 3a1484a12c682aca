"""What a contract says, as plain frozen values: no file format, no engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["int32", "int64", "float64", "string", "bool", "timestamp", "date"]
Cast = Literal["decimal", "epochSeconds"]
Limit = int | float | str


@dataclass(frozen=True)
class Column:
    """One column: its type at the source (`raw`), its type after the cast (`clean`) and its rules.

    Where `raw` is a string and `clean` is not, `lexical_form` (a regular expression that the whole text must match)
    decides what may be cast; `cast` says how. Texts listed in `missing` mean NULL at the source.
    """

    name: str
    raw: Kind
    clean: Kind
    required: bool = False
    key: int | None = None
    lexical_form: str | None = None
    cast: Cast = "decimal"
    missing: tuple[str, ...] = ()
    minimum: Limit | None = None
    maximum: Limit | None = None
    exclusive_minimum: Limit | None = None
    exclusive_maximum: Limit | None = None
    pattern: str | None = None
    min_length: int | None = None
    max_length: int | None = None
    event_time: bool = False
    encoding: Literal["vocabulary", "standardise"] | None = None
    description: str = ""


@dataclass(frozen=True)
class Contract:
    """The schema and rules of one source, read from an ODCS file."""

    name: str
    version: str
    columns: tuple[Column, ...]
    path: str
    digest: str

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names, in the contract's order."""
        return tuple(column.name for column in self.columns)

    @property
    def key(self) -> tuple[str, ...]:
        """The primary key's column names, in their order; empty where the contract names none."""
        keyed = sorted((c.key, c.name) for c in self.columns if c.key is not None)
        return tuple(name for _, name in keyed)

    @property
    def event_time(self) -> Column | None:
        """The column that says when a row's event happened, if there is one."""
        return next((column for column in self.columns if column.event_time), None)

    def column(self, name: str) -> Column | None:
        """Return the column of this name, or None."""
        return next((column for column in self.columns if column.name == name), None)
