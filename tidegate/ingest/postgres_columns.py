"""What a table's columns are by the catalogue, and how each is asked for and read so that nothing is lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from psycopg2 import sql

from tidegate.contract.arrow import raw_type
from tidegate.errors import DataError

if TYPE_CHECKING:
    from tidegate.contract import Column, Contract

_NUMBERS = ("int2", "int4", "int8", "numeric", "float4", "float8")
_DIRECT = (*_NUMBERS, "bool", "date", "time", "timestamp", "timestamptz")
_EXACT = {"float32": ("int2", "float4"), "float64": ("int2", "int4", "float4", "float8")}
"""The table's numbers of which every value is one of the contract's floats."""
_ORDERED = (*_DIRECT, "bytea", "uuid", "oid")  # two equal values have one text, -0 and trailing zeros aside
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
SELECT name, typname, typtype FROM bare JOIN pg_type ON pg_type.oid = type WHERE typtype <> 'd'
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
EXACT_TEXTS = (
    "SET TIME ZONE 'UTC'; SET DATESTYLE = ISO; SET INTERVALSTYLE = postgres; SET EXTRA_FLOAT_DIGITS = 1; "
    "SET BYTEA_OUTPUT = hex; SET CLIENT_ENCODING = UTF8; SET XMLBINARY = base64"
)
"""Settings by which the server writes every value in full and in one way, whatever the role's own are."""
BYTES_AS_STORED = """
SELECT set_config('client_encoding', 'SQL_ASCII', false) WHERE current_setting('server_encoding') = 'SQL_ASCII'
"""
"""A database without an encoding refuses a COPY whose bytes are no UTF-8; it sends them to who asks for no encoding."""


@dataclass(frozen=True)
class Reading:
    """One column of the contract: its type in the table, and what its text is turned into a value by.

    `direct` is what Arrow's CSV reader parses as strictly as we do; `text` is matched with the type's form first;
    `hex` is a bytea; `json` a list or struct.
    """

    column: Column
    table_type: str
    is_enum: bool

    @property
    def how(self) -> Literal["direct", "text", "hex", "json"]:
        """Return by what its texts become values."""
        if self.column.raw in ("list", "struct"):
            return "json"
        if self.column.raw == "bytes" and self.table_type == "bytea":
            return "hex"
        return "direct" if self.column.raw in ("string", "bytes") or self.table_type in _DIRECT else "text"

    @property
    def arrow(self) -> Any:
        """The Arrow type that the CSV reader parses it as."""
        import pyarrow as pa

        return raw_type(self.column) if self.how == "direct" else pa.string()

    @property
    def selected(self) -> sql.Composable:
        """What the query asks for."""
        name = sql.Identifier(self.column.name)
        if self.how == "json" and self.table_type not in ("json", "jsonb"):
            return sql.SQL("to_json({})").format(name)
        return name

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


def order(cursor: Any, table: str, time: str, contract: Contract, found: list[Reading]) -> list[sql.Composable]:
    """Return what rows are ordered by so that the same rows have the same order always: time, key, and the rest.

    The rest only where no unique index says that two rows never share time and key.
    """
    keyed = [each for name in contract.key for each in found if each.column.name == name]
    cursor.execute(_UNIQUE, [sql.Identifier(*table.split(".")).as_string(cursor), [time, *contract.key]])
    rest = [] if cursor.fetchone()[0] else [each for each in found if each not in keyed and each.column.name != time]
    return [sql.Identifier(time), *(each.ordered for each in [*keyed, *rest])]
