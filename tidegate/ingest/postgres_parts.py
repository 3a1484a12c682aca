"""Cuts a large window into parts that several connections read side by side, all of them in one snapshot."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from psycopg2 import sql

if TYPE_CHECKING:
    from datetime import datetime

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


def parts(cursor: Any, spec: PostgresSource, window: Window) -> list[tuple[datetime, datetime]]:
    """Return intervals of event time that together are the window, in their order; one where a cut gains nothing.

    Without an index on the time each part would be a scan of the whole table.
    """
    whole = [(window.start, window.end)]
    table = sql.Identifier(*spec.table.split("."))
    cursor.execute(_INDEXED, [table.as_string(cursor), spec.time])
    if spec.connections == 1 or not cursor.fetchone()[0]:
        return whole
    cursor.execute(
        sql.SQL("EXPLAIN (FORMAT JSON) SELECT FROM {table} WHERE {time} >= %s AND {time} < %s").format(
            table=table, time=sql.Identifier(spec.time)
        ),
        whole[0],
    )
    estimated = cursor.fetchone()[0][0]["Plan"]["Plan Rows"]
    count = min(_MOST, int(estimated) // ROWS)
    if count < 2:
        return whole
    step = (window.end - window.start) / count
    bounds = [*(window.start + step * number for number in range(count)), window.end]
    return list(pairwise(bounds))
