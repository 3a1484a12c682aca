"""What a table's columns are by the catalogue, and how each is asked for and read so that nothing is lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from psycopg2 import sql

from tidegate.contract.model import BITS
from tidegate.errors import DataError

if TYPE_CHECKING:
    from tidegate.contract import Column, Contract

How = Literal["whole", "float", "decimal", "truth", "day", "clock", "instant", "bytes", "text", "cast", "json"]
_NUMBERS = ("int2", "int4", "int8", "numeric", "float4", "float8")
_TEXTS = ("text", "varchar", "bpchar", "name", "json")  # their binary form is their text
_JSON = ("json", "jsonb")
_EXACT = {"float32": ("int2", "float4"), "float64": ("int2", "int4", "float4", "float8")}
"""The table's numbers of which every value is one of the contract's floats."""
_HOW: dict[tuple[str, str], How] = {
    **{(raw, table): "whole" for raw in BITS for table in ("int2", "int4", "int8")},
    **{(raw, table): "whole" for raw in ("float32", "float64") for table in ("int2", "int4")},
    **{(raw, table): "float" for raw in ("float32", "float64") for table in ("float4", "float8")},
    ("decimal", "numeric"): "decimal", ("bool", "bool"): "truth", ("date", "date"): "day", ("time", "time"): "clock",
    ("timestamp", "timestamptz"): "instant", ("local_timestamp", "timestamp"): "instant",
}  # fmt: skip
_ORDERED = (*_NUMBERS, "bool", "date", "time", "timestamp", "timestamptz", "bytea", "uuid", "oid")
"""Types of which two equal values have one text, -0 and trailing zeros aside."""
_REMEDIES = {
    "numeric": "numeric(precision, scale)", "int8": "bigint", "int4": "integer or double", "float8": "double",
}  # fmt: skip
_TYPES = """
WITH RECURSIVE bare AS (
    SELECT attname AS name, atttypid AS type FROM pg_attribute
    WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped
  UNION ALL
    SELECT name, typbasetype FROM bare JOIN pg_type ON pg_type.oid = type WHERE typtype = 'd'
)
SELECT name, CASE WHEN typnamespace = 'pg_catalog'::regnamespace THEN '' ELSE typnamespace::regnamespace || '.' END
    || typname, typtype FROM bare JOIN pg_type ON pg_type.oid = type WHERE typtype <> 'd'
"""
_UNIQUE = """
SELECT EXISTS (
    SELECT FROM pg_index i WHERE indrelid = %s::regclass AND indisunique AND indisvalid AND indpred IS NULL
    AND indexprs IS NULL AND NOT EXISTS (
        SELECT FROM unnest(indkey::int2[]) WITH ORDINALITY AS part (number, place)
        JOIN pg_attribute a ON attrelid = indrelid AND attnum = number
        WHERE place <= indnkeyatts AND (attname <> ALL (%s) OR NOT attnotnull)
    )
)
"""
_HAS_LONG = """
SELECT relkind <> 'r' OR pg_relation_size(nullif(reltoastrelid, 0)) > 0 FROM pg_class WHERE oid = %s::regclass
"""
LONGEST = 16 << 20
"""Bytes of the longest value that is read: the row of a longer one goes aside, with its begin."""
_BEGIN = 1000  # characters or bytes
EXACT_TEXTS = (
    "SET TIME ZONE 'UTC'; SET DATESTYLE = ISO; SET INTERVALSTYLE = postgres; SET EXTRA_FLOAT_DIGITS = 1; "
    "SET BYTEA_OUTPUT = hex; SET CLIENT_ENCODING = UTF8; SET XMLBINARY = base64"
)
"""Settings by which the server writes every text in full and in one way, whatever the role's own are."""
BYTES_AS_STORED = """
SELECT set_config('client_encoding', 'SQL_ASCII', false) WHERE current_setting('server_encoding') = 'SQL_ASCII'
"""
"""A database without an encoding refuses a COPY whose bytes are no UTF-8; it sends them to who asks for no encoding."""


@dataclass(frozen=True)
class Reading:
    """One column of the contract: its type in the table, and what its binary field is turned into a value by.

    `cast` is a text that is matched with the type's form first; `json` a list or struct.
    """

    column: Column
    table_type: str
    is_enum: bool

    @property
    def how(self) -> How:
        """Return by what its fields become values."""
        raw = self.column.raw
        if raw in ("list", "struct"):
            return "json"
        if raw in ("string", "bytes"):
            return "text" if raw == "string" else "bytes"
        return _HOW.get((raw, self.table_type), "cast")

    @property
    def selected(self) -> sql.Composable:
        """What the query asks for: the column, or its text, as the server's own output is."""
        name = sql.Identifier(self.column.name)
        if self.how == "json" and self.table_type not in _JSON:
            return sql.SQL("to_json({})").format(name)
        plain = self.table_type in _TEXTS or self.is_enum or self._is_bytea
        if plain or self.how not in ("text", "bytes", "cast", "json"):
            return name
        # format() calls the type's output function, which a cast to text does not for all types (inet, boolean)
        return sql.SQL("CASE WHEN {0} IS DISTINCT FROM NULL THEN format('%s', {0}) END").format(name)

    @property
    def may_be_long(self) -> bool:
        """Whether a value may be of any length."""
        return self.how in ("text", "bytes", "cast", "json") and not self.is_enum and self.table_type != "bpchar"

    @property
    def length(self) -> sql.Composable:
        """How many bytes a value has; the server knows it of most without reading them."""
        return sql.SQL("octet_length({})").format(self._plain)

    @property
    def shortened(self) -> sql.Composable:
        """What the query asks for, but of a value that is too long its begin."""
        begin = "substr({}, 1, {})" if self._is_bytea else "left({}, {})"
        cut = sql.SQL(begin).format(self._plain, sql.Literal(_BEGIN))
        condition = sql.SQL("{} > {}").format(self.length, sql.Literal(LONGEST))
        return sql.SQL("CASE WHEN {} THEN {} ELSE {} END").format(condition, cut, self._plain)

    @property
    def _plain(self) -> sql.Composable:
        return self.selected if self._is_bytea else sql.SQL("({})::text").format(self.selected)

    @property
    def _is_bytea(self) -> bool:
        return self.how == "bytes" and self.table_type == "bytea"

    @property
    def ordered(self) -> sql.Composable:
        """What rows are ordered by: the same on every server, whatever its collations."""
        name = sql.Identifier(self.column.name)
        if self.table_type in _ORDERED or self.is_enum:
            return name
        return sql.SQL('{}{} COLLATE "C"').format(
            name, sql.SQL("" if self.table_type in ("text", "varchar") else "::text")
        )


def readings(cursor: Any, table: str, contract: Contract) -> list[Reading]:
    """Return how each of the contract's columns is read; domains count as what they are made of.

    Raises:
        DataError: the table lacks a column, or has numbers whose digits the contract's type would lose.
        psycopg2.errors.UndefinedTable: there is no such table.
    """
    cursor.execute(_TYPES, [sql.Identifier(*table.split(".")).as_string(cursor)])
    found = {name: (typname, typtype) for name, typname, typtype in cursor.fetchall()}
    missing = [name for name in contract.names if name not in found]
    if missing:
        raise DataError(
            f"table {table!r} has no column {', '.join(missing)} but {', '.join(found)}; add it there, or take it "
            f"out of {contract.path}"
        )
    made = []
    for column in contract.columns:
        typname, typtype = found[column.name]
        if typname in _NUMBERS and typname not in _EXACT.get(column.raw, _NUMBERS):
            raise DataError(
                f"column {column.name!r} of table {table!r} is {typname}, of which {column.raw} would lose digits; "
                f"give it the physicalType {_REMEDIES[typname]} in {contract.path}"
            )
        made.append(Reading(column, typname, typtype == "e"))
    return made


def selection(cursor: Any, table: str, found: list[Reading]) -> list[sql.Composable]:
    """Return what a query asks for: each column and, where values may be too long, the name of one that is, or NULL.

    A table that keeps no value apart from its rows has none of that length.
    """
    cursor.execute(_HAS_LONG, [sql.Identifier(*table.split(".")).as_string(cursor)])
    long = [each for each in found if each.may_be_long]
    if not (long and cursor.fetchone()[0]):
        return [each.selected for each in found]
    cases = [
        sql.SQL("WHEN {} > {} THEN {}").format(each.length, sql.Literal(LONGEST), sql.Literal(each.column.name))
        for each in long
    ]
    named = sql.SQL("CASE {} END").format(sql.SQL(" ").join(cases))
    return [*(each.shortened if each.may_be_long else each.selected for each in found), named]


def order(cursor: Any, table: str, time: str, contract: Contract, found: list[Reading]) -> list[sql.Composable]:
    """Return what rows are ordered by so that the same rows have the same order always: time, key, and the rest.

    The rest only where no unique index says that two rows never share time and key.
    """
    keyed = [each for name in contract.key for each in found if each.column.name == name]
    cursor.execute(_UNIQUE, [sql.Identifier(*table.split(".")).as_string(cursor), [time, *contract.key]])
    rest = [] if cursor.fetchone()[0] else [each for each in found if each not in keyed and each.column.name != time]
    return [sql.Identifier(time), *(each.ordered for each in [*keyed, *rest])]
