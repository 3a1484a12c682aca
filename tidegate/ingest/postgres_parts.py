"""Cuts a large window into parts that several connections read side by side, all of them in one snapshot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from psycopg2 import sql

if TYPE_CHECKING:
    from tidegate.delivery import PostgresSource
    from tidegate.handoff import Window

ROWS = 100_000  # of a part, by the planner's estimate: small enough that the next ones are ready when one is read
_MOST = 512
_INDEXED = """
SELECT EXISTS (
    SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    WHERE i.indrelid = %s::regclass AND a.attname = %s AND m.amname = 'btree' AND i.indisvalid AND i.indpred IS NULL
)
"""


@dataclass(frozen=True)
class Range:
    """Rows by one column: from `low` on and before `high` (a time), or after `low` and up to `high` (a key).

    `low` is None for all up to `high`; `high` is None where there is no row.
    """

    column: str
    low: Any
    high: Any
    is_key: bool

    @property
    def condition(self) -> sql.Composable:
        """The rows as a condition of SQL."""
        if self.high is None:
            return sql.SQL("false")
        above, below = (">", "<=") if self.is_key else (">=", "<")
        bounds = [(above, self.low), (below, self.high)]
        column = sql.Identifier(self.column)
        return sql.SQL(" AND ").join(
            sql.SQL("{} " + sign + " {}").format(column, sql.Literal(bound))
            for sign, bound in bounds
            if bound is not None
        )


def whole(spec: PostgresSource, window: Window, position: dict[str, Any]) -> Range:
    """Return the rows of a window whose position is frozen."""
    if spec.key:
        return Range(spec.key, position["after"], position["upto"], is_key=True)
    return Range(str(spec.time), window.start, window.end, is_key=False)


def parts(cursor: Any, spec: PostgresSource, rows: Range) -> list[Range]:
    """Return ranges that together are the rows, in their order; one where a cut gains nothing.

    Without an index on the column each part would be a scan of the whole table.
    """
    table = sql.Identifier(*spec.table.split("."))
    cursor.execute(_INDEXED, [table.as_string(cursor), rows.column])
    if spec.connections == 1 or rows.high is None or not cursor.fetchone()[0]:
        return [rows]
    cursor.execute(sql.SQL("EXPLAIN (FORMAT JSON) SELECT FROM {} WHERE {}").format(table, rows.condition))
    estimated = cursor.fetchone()[0][0]["Plan"]["Plan Rows"]
    count = min(_MOST, int(estimated) // ROWS)
    if count < 2:
        return [rows]
    low, high = _ends(cursor, table, rows)
    if low is None:
        return [rows]
    if rows.is_key:
        inner = [low + (high - low) * number // count for number in range(1, count)]
    else:
        inner = [low + (high - low) / count * number for number in range(1, count)]
    return [replace(rows, low=begin, high=end) for begin, end in pairwise([rows.low, *inner, rows.high])]


def _ends(cursor: Any, table: sql.Composable, rows: Range) -> tuple[Any, Any]:
    """Return the lowest and the highest value that there is: a window may be far wider than its rows."""
    kind = sql.SQL("bigint" if rows.is_key else "timestamptz")
    ends = sql.SQL("SELECT min({0})::{1}, max({0})::{1} FROM {2} WHERE {3}")
    cursor.execute(ends.format(sql.Identifier(rows.column), kind, table, rows.condition))
    low, high = cursor.fetchone()
    return low, high
