"""Reads one window of a Postgres table: COPY as CSV into Arrow, in one read-only snapshot."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import ISOLATION_LEVEL_REPEATABLE_READ, parse_dsn

from tidegate.errors import DataError
from tidegate.ingest import horizon, postgres_rows
from tidegate.ingest.edge import away
from tidegate.ingest.postgres_columns import BYTES_AS_STORED, EXACT_TEXTS, order, readings
from tidegate.ingest.postgres_copy import copied
from tidegate.ingest.postgres_parts import parts
from tidegate.ingest.slices import AtOnce, publish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from tidegate.contract import Contract
    from tidegate.delivery import PostgresSource
    from tidegate.handoff import Slice, Window
    from tidegate.ingest.postgres_columns import Reading
    from tidegate.lake import Lake

TIMEOUT = 10.0
_REFUSALS = ("authentication failed", "does not exist", "no password supplied", "pg_hba.conf")


def read(
    *,
    delivery: str,
    source: str,
    spec: PostgresSource,
    contract: Contract,
    window: Window,
    dsn: str,
    lake: Lake,
    refresh: bool = False,
    timeout: float = TIMEOUT,
    sleep: Callable[[float], None] = time.sleep,
) -> Slice:
    """Publish the table's rows with start <= time < end, ordered by time, key and, where two may share these, all else.

    The source's position is the horizon: the snapshot's bounds, and how long it waited for open transactions (see
    `tidegate.ingest.horizon`). A row's position is its primary key (by the contract), or its number.
    `timeout` is the time to connect, seconds; `sleep` is called between two looks at open transactions.

    Raises:
        Unavailable: the server does not answer, or hangs up, or a transaction that could still commit rows into the
            window stays open for longer than the source's `patience`.
        DataError: no such database, table or column, no access, or numbers whose digits the contract would lose.
    """
    asked = reading(
        delivery=delivery,
        source=source,
        spec=spec,
        contract=contract,
        window=window,
        dsn=dsn,
        lake=lake,
        timeout=timeout,
        sleep=sleep,
    )
    return publish(
        delivery=delivery, source=source, contract=contract, window=window, lake=lake, refresh=refresh, reading=asked
    )


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
) -> AtOnce:
    """Return how the window is read; see `read`."""

    def connect() -> Any:
        try:
            connection = psycopg2.connect(dsn, connect_timeout=max(2, round(timeout)))
        except psycopg2.OperationalError as error:
            raise _no_connection(error, dsn, timeout) from error
        connection.set_session(isolation_level=ISOLATION_LEVEL_REPEATABLE_READ, readonly=True)
        return connection

    def rows(position: dict[str, Any]) -> Iterator[Any]:
        connection = connect()
        try:
            connection.autocommit = True
            what = f"table {spec.table!r} at {_address(dsn)}"
            position.update(horizon=horizon.settle(connection, window, what, spec.patience, sleep=sleep))
            connection.autocommit = False
            yield from _copy(connection, connect, spec, contract, window, position)
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            raise away("Postgres", _address(dsn), timeout, _first_line(error)) from error
        except psycopg2.Error as error:
            raise DataError(
                f"table {spec.table!r} at {_address(dsn)} cannot be read: {_first_line(error)}; "
                f"create it or grant SELECT, or mend the source {source!r} and its contract {contract.path}"
            ) from error
        finally:
            connection.close()

    return AtOnce(rows)


def _copy(
    connection: Any, connect: Callable[[], Any], spec: PostgresSource, contract: Contract, window: Window,
    position: dict[str, Any],
) -> Iterator[Any]:  # fmt: skip
    with ExitStack() as held:
        cursor = held.enter_context(connection.cursor())
        cursor.execute(EXACT_TEXTS)
        position.update(kind="postgres", table=spec.table)
        position["horizon"] |= horizon.snapshot(cursor)
        found = readings(cursor, spec.table, contract)
        by = sql.SQL(", ").join(order(cursor, spec.table, spec.time, contract, found))
        intervals = parts(cursor, spec, window)
        queries = [_query(spec, found, by, each).as_string(cursor).encode() for each in intervals]
        cursors = [cursor]
        if len(intervals) > 1:
            cursor.execute("SELECT pg_export_snapshot()")
            snapshot = cursor.fetchone()[0]
            for _ in range(min(spec.connections, len(intervals)) - 1):
                other = held.enter_context(closing(connect()))
                cursors.append(held.enter_context(other.cursor()))
                cursors[-1].execute("SET TRANSACTION SNAPSHOT %s", [snapshot])
                cursors[-1].execute(EXACT_TEXTS)
        for each in cursors:
            each.execute(BYTES_AS_STORED)
        number = 0
        with closing(copied(cursors, queries)) as blocks:
            for rows in blocks:
                yield postgres_rows.table(rows, number, found, contract)
                number += len(rows)


def _query(spec: PostgresSource, found: list[Reading], by: sql.Composable, interval: tuple[datetime, datetime]) -> Any:
    return sql.SQL(
        "COPY (SELECT {columns} FROM {table} WHERE {time} >= {start} AND {time} < {end} ORDER BY {order}) "
        "TO STDOUT (FORMAT csv)"
    ).format(
        columns=sql.SQL(", ").join(each.selected for each in found),
        table=sql.Identifier(*spec.table.split(".")),
        time=sql.Identifier(spec.time),
        start=sql.Literal(interval[0]),
        end=sql.Literal(interval[1]),
        order=by,
    )


def _no_connection(error: Exception, dsn: str, timeout: float) -> Exception:
    line = _first_line(error)
    if any(refusal in line for refusal in _REFUSALS):
        return DataError(f"Postgres at {_address(dsn)} refuses the connection: {line}; mend the Airflow connection")
    return away("Postgres", _address(dsn), timeout, line)


def _address(dsn: str) -> str:
    parts = parse_dsn(dsn)
    return f"{parts.get('host', 'localhost')}:{parts.get('port', '5432')}/{parts.get('dbname', '')}"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
