"""What a contract says, as plain frozen values: no file format, no engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal[
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64", "decimal",
    "bool", "string", "bytes", "date", "time", "timestamp", "local_timestamp", "list", "struct",
]  # fmt: skip
Cast = Literal["decimal", "epochSeconds", "epochMilliseconds", "epochMicroseconds"]
Severity = Literal["quarantine", "warn", "stop"]
Limit = int | float | str
Measure = Literal["linfty", "jensenShannon"]
DriftSeverity = Literal["warn", "retrain", "stop"]
"""What a distance beyond its limit does, the mildest first."""
BITS: dict[str, tuple[bool, int]] = {
    f"{sign}int{bits}": (sign == "", bits) for sign in ("", "u") for bits in (8, 16, 32, 64)
}


def integer_range(kind: str) -> tuple[int, int]:
    """Return the least and the greatest value of an integer kind."""
    signed, bits = BITS[kind]
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


@dataclass(frozen=True)
class Threshold:
    """How far two distributions of a column may lie apart by a measure (0 to 1), and what happens beyond that."""

    measure: Measure
    limit: float
    severity: DriftSeverity = "warn"


@dataclass(frozen=True)
class Column:
    """One column: its type at the source (`raw`), its type after the cast (`clean`) and its rules.

    Where `raw` is a string and `clean` is not, `lexical_form` (a regular expression that the whole text must match)
    decides what may be cast; `cast` says how. Texts listed in `missing` mean NULL at the source. `digits` are precision
    and scale of a decimal. A naive instant becomes one in UTC by `zone`. A struct has `fields`, a list `items`.
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
    unique: bool = False
    enum: tuple[Limit, ...] = ()
    min_items: int | None = None
    max_items: int | None = None
    digits: tuple[int, int] | None = None
    zone: str | None = None
    fields: tuple[Column, ...] = ()
    items: Column | None = None
    severities: tuple[tuple[str, Severity], ...] = ()
    unit: str | None = None
    lateness: float = 0.0
    """How long before the window's start an event time may lie, seconds."""
    drift: tuple[Threshold, ...] = ()
    """How far its distribution may be from the champion's training data, and from the slice before."""
    skew: tuple[Threshold, ...] = ()
    """How far what servers are asked with may be from what the model was trained on."""

    def severity(self, rule: str) -> Severity:
        """What happens to a row that breaks this rule; quarantine where the contract says nothing else."""
        return dict(self.severities).get(rule, "warn" if rule == "late" else "quarantine")


@dataclass(frozen=True)
class RowRule:
    """A rule between columns: a row for which the DuckDB expression `broken` is true breaks it."""

    name: str
    broken: str
    columns: tuple[str, ...]
    severity: Severity = "quarantine"


@dataclass(frozen=True)
class SliceRules:
    """Bounds on a slice as a whole; each is None where the contract sets none."""

    rows: tuple[float | None, float | None] = (None, None)
    rows_severity: Severity = "stop"
    freshness: float | None = None
    """How much older than the slice's end its newest event may be, seconds."""
    freshness_severity: Severity = "stop"
    quarantined_share: float | None = None
    quarantined_rows: int | None = None


@dataclass(frozen=True)
class Contract:
    """The schema and rules of one source, read from an ODCS file."""

    name: str
    version: str
    columns: tuple[Column, ...]
    path: str
    digest: str
    row_rules: tuple[RowRule, ...] = ()
    slice_rules: SliceRules = field(default_factory=SliceRules)

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
    def uniques(self) -> dict[str, tuple[str, ...]]:
        """Reason -> columns that no two rows of a slice share: the key, then each unique column."""
        keyed = {f"{'+'.join(self.key)}:duplicate": self.key} if self.key else {}
        return {**keyed, **{f"{c.name}:unique": (c.name,) for c in self.columns if c.unique}}

    def severity_of(self, reason: str) -> Severity:
        """What happens to a row for this reason (`<column>:<rule>`); quarantine where nothing else is stated."""
        name, _, rule = reason.partition(":")
        if name == "row":
            return next((r.severity for r in self.row_rules if r.name == rule), "quarantine")
        column = self.column(name.split(".")[0].removesuffix("[]"))
        for part in name.split(".")[1:]:
            column = _inner(column, part)
        if column is not None and name.endswith("[]"):
            column = column.items
        return column.severity(rule) if column is not None else "quarantine"

    @property
    def event_time(self) -> Column | None:
        """The column that says when a row's event happened, if there is one."""
        return next((column for column in self.columns if column.event_time), None)

    def column(self, name: str) -> Column | None:
        """Return the column of this name, or None."""
        return next((column for column in self.columns if column.name == name), None)


def _inner(column: Column | None, part: str) -> Column | None:
    holder = column.items if column is not None and column.items is not None else column
    fields = holder.fields if holder is not None else ()
    return next((c for c in fields if c.name == part.removesuffix("[]")), None)
