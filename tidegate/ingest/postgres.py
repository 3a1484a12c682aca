"""Reads one window of a Postgres table: COPY in its binary format into Arrow, in one read-only snapshot."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import sql

from tidegate.errors import Unavailable
from tidegate.ingest import horizon, postgres_rows
from tidegate.ingest.postgres_columns import BYTES_AS_STORED, EXACT_TEXTS, order, readings, selection
from tidegate.ingest.postgres_copy import copied
from tidegate.ingest.postgres_edge import Server, first_line, open_table
from tidegate.ingest.postgres_parts import Range, parts, whole
from tidegate.ingest.postgres_windows import Chain, highest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tidegate.contract import Contract
    from tidegate.delivery import PostgresSource
    from tidegate.handoff import Window
    from tidegate.lake import Lake

TIMEOUT = 10.0


def reading(
    *,
    delivery: str,
    source: str,
    spec: PostgresSource,
    contract: Contract,
    window: Window,
    dsn: str,
    lake: Lake,
    timeout: float = TIMEOUT,
    sleep: Callable[[float], None] = time.sleep,
) -> TableReading:
    """Return how a window of a table is read: its rows ordered by time or key, and where two may share it, all else.

    By time these are the rows with start <= time < end; by key see `tidegate.ingest.postgres_windows`. The position
    holds the horizon: the bounds of the snapshot at which no transaction was left that could still commit rows into the
    window, and how long it waited for that (see `tidegate.ingest.horizon`). The rows are read in one snapshot of that
    moment or later. A row's position is its primary key (by the contract), or its number.
    `timeout` is the time to connect, seconds; `sleep` is called between two looks at open transactions. `lake` is where
    windows by key find where the one before ended.

    Raises, when it is frozen or read:
        Unavailable: the server does not answer, or hangs up, or a transaction that could still commit rows into the
            window stays open for longer than the source's `patience`, or windows by key before this are not read.
        DataError: no such database, table or column, no access, or numbers whose digits the contract would lose.
    """
    return TableReading(spec, contract, window, Server(dsn, timeout), Chain(lake, delivery, source), sleep)


@dataclass(frozen=True)
class TableReading:
    """How a window of a table is read; see `tidegate.ingest.slices.Reading`."""

    spec: PostgresSource
    contract: Contract
    window: Window
    server: Server
    chain: Chain
    sleep: Callable[[float], None]

    def freeze(self) -> dict[str, Any]:
        """Wait until the window is closed for good; return its horizon and, by key, its bounds."""
        with self._session() as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                return self._by_key(connection, cursor) if self.spec.key else self._settled(connection, cursor)

    def parts(self, position: dict[str, Any]) -> list[dict[str, Any]]:
        """Return one part: what is read in one snapshot is read by one process, which alone keeps it open."""
        return [{}]

    def rows(self, position: dict[str, Any], part: dict[str, Any]) -> Iterator[Any]:
        """Yield the window's rows, read by several connections in one snapshot."""
        with self._session() as connection, ExitStack() as held:
            cursor = held.enter_context(connection.cursor())
            self._prepare(cursor)
            found = readings(cursor, self.spec.table, self.contract)
            by = order(cursor, self.spec.table, str(self.spec.key or self.spec.time), self.contract, found)
            ranges = parts(cursor, self.spec, whole(self.spec, self.window, position))
            asked = selection(cursor, self.spec.table, found)
            queries = [self._query(asked, by, rows).as_string(cursor).encode() for rows in ranges]
            cursors = [cursor, *self._others(cursor, min(self.spec.connections, len(ranges)) - 1, held)]
            for each in cursors:
                each.execute(BYTES_AS_STORED)
            number = 0
            for block in held.enter_context(closing(copied(cursors, queries))):
                yield postgres_rows.table(block, number, found, self.contract)
                number += len(block)

    def _session(self) -> Any:
        remedy = "create it or grant SELECT, or mend the source"
        return self.server.session(self._what, f"{remedy} {self.chain.source!r} and its contract {self.contract.path}")

    @property
    def _what(self) -> str:
        return f"table {self.spec.table!r} at {self.server.address}"

    @property
    def _table(self) -> sql.Identifier:
        return sql.Identifier(*self.spec.table.split("."))

    def _settled(self, connection: Any, cursor: Any) -> dict[str, Any]:
        waited = horizon.settle(
            connection, self.window, self._what, self.spec.patience, sleep=self.sleep, every=bool(self.spec.key)
        )
        return {"kind": "postgres", "table": self.spec.table, "horizon": {**waited, **horizon.snapshot(cursor)}}

    def _by_key(self, connection: Any, cursor: Any) -> dict[str, Any]:
        """Return the window's place in the chain, one process at a time.

        The highest key comes first, then the wait: who could still commit a lower one is open by then.
        """
        if (known := self.chain.of(self.window)) is not None:
            return known
        self.chain.hold(cursor, self.spec.patience, self.sleep)
        if (known := self.chain.of(self.window)) is not None:
            return known
        after = self.chain.begin(self.window, self.spec.since or self.window.start, self.spec.after)
        horizon.ended(cursor, self.window, self._what, self.spec.patience, self.sleep)
        top = highest(cursor, self.spec)
        upto = after if top is None else top if after is None else max(top, after)
        position = {**self._settled(connection, cursor), "key": self.spec.key, "after": after, "upto": upto}
        self.chain.keep(self.window, position)
        return position

    def _prepare(self, cursor: Any) -> None:
        cursor.execute(EXACT_TEXTS)
        open_table(cursor, self._table)

    def _others(self, cursor: Any, count: int, held: ExitStack) -> list[Any]:
        """Return cursors of further connections in the snapshot of the first one."""
        if not count:
            return []
        cursor.execute("SELECT pg_export_snapshot()")
        snapshot = cursor.fetchone()[0]
        made = []
        for _ in range(count):
            other = held.enter_context(closing(self.server.connect()))
            made.append(held.enter_context(other.cursor()))
            try:
                made[-1].execute("SET TRANSACTION SNAPSHOT %s", [snapshot])
            except psycopg2.Error as error:
                raise Unavailable(f"{self._what}: the snapshot is gone ({first_line(error)}); try again") from error
            self._prepare(made[-1])
        return made

    def _query(self, asked: list[sql.Composable], by: list[sql.Composable], rows: Range) -> Any:
        return sql.SQL("COPY (SELECT {} FROM {} WHERE {} ORDER BY {}) TO STDOUT (FORMAT binary)").format(
            sql.SQL(", ").join(asked),
            self._table,
            rows.condition,
            sql.SQL(", ").join(by),
        )
