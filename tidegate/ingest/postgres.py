"""Reads one window of a Postgres table: COPY as CSV through a pipe into Arrow, in one read-only snapshot."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg2
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from psycopg2 import errors, sql
from psycopg2.extensions import ISOLATION_LEVEL_REPEATABLE_READ, parse_dsn

from tidegate.contract.arrow import POSITION, raw_schema, slice_schema
from tidegate.errors import DataError
from tidegate.ingest import horizon
from tidegate.ingest.edge import away
from tidegate.ingest.slices import publish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tidegate.contract import Contract
    from tidegate.delivery import PostgresSource
    from tidegate.handoff import Slice, Window
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
    """Publish the table's rows with start <= time < end, ordered by time and key.

    The source's position is the horizon: the snapshot's bounds, and how long it waited for open transactions (see
    `tidegate.ingest.horizon`). A row's position is its primary key (by the contract), or its number.
    `timeout` is the time to connect, seconds; `sleep` is called between two looks at open transactions.

    Raises:
        Unavailable: the server does not answer, or hangs up, or a transaction that could still commit rows into the
            window stays open for longer than the source's `patience`.
        DataError: no such database, table or column, no access, or values that the contract's types cannot hold.
    """

    def rows(position: dict[str, Any]) -> Iterator[Any]:
        try:
            connection = psycopg2.connect(dsn, connect_timeout=max(2, round(timeout)))
        except psycopg2.OperationalError as error:
            raise _no_connection(error, dsn, timeout) from error
        try:
            connection.autocommit = True
            what = f"table {spec.table!r} at {_address(dsn)}"
            position.update(horizon=horizon.settle(connection, window, what, spec.patience, sleep=sleep))
            connection.autocommit = False
            connection.set_session(isolation_level=ISOLATION_LEVEL_REPEATABLE_READ, readonly=True)
            yield from _copy(connection, spec, contract, window, position)
        except (errors.UndefinedTable, errors.UndefinedColumn, errors.InsufficientPrivilege) as error:
            raise DataError(
                f"table {spec.table!r} at {_address(dsn)} cannot be read: {_first_line(error)}; "
                f"create it or grant SELECT, or mend the source {source!r} and its contract {contract.path}"
            ) from error
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            raise away("Postgres", _address(dsn), timeout, _first_line(error)) from error
        except pa.ArrowInvalid as error:
            raise DataError(
                f"table {spec.table!r} holds what {contract.path} cannot: {error}; mend the column's physicalType there"
            ) from error
        finally:
            connection.close()

    return publish(
        delivery=delivery, source=source, contract=contract, window=window, lake=lake, refresh=refresh, read=rows
    )


def _copy(
    connection: Any, spec: PostgresSource, contract: Contract, window: Window, position: dict[str, Any]
) -> Iterator[Any]:
    with connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE 'UTC'; SET DATESTYLE = ISO")
        position.update(kind="postgres", table=spec.table)
        position["horizon"] |= horizon.snapshot(cursor)
        query = _query(spec, contract, window).as_string(cursor)
        receiving, sending = (os.fdopen(end, mode) for end, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
        failures: list[BaseException] = []

        def send() -> None:
            try:
                with sending:
                    cursor.copy_expert(query, sending)
            except BaseException as error:  # raised below, in the reading thread
                failures.append(error)

        sender = threading.Thread(target=send, name="tidegate-copy", daemon=True)
        sender.start()
        try:
            with receiving:
                yield from _tables(receiving, contract)
        except pa.ArrowInvalid:
            sender.join()
            if failures:  # a COPY that broke off leaves half a line, or no header: its own error is the one to report
                raise failures[0] from None
            raise
        finally:
            sender.join()
        if failures:
            raise failures[0]


def _query(spec: PostgresSource, contract: Contract, window: Window) -> Any:
    columns = sql.SQL(", ").join(map(sql.Identifier, contract.names))
    time = sql.Identifier(spec.time)
    order: list[sql.Composable] = [time]
    for name in contract.key or contract.names:
        column = contract.column(name)
        is_text = column is not None and column.raw == "string"
        order.append(sql.SQL('{} COLLATE "C"').format(sql.Identifier(name)) if is_text else sql.Identifier(name))
    return sql.SQL(
        "COPY (SELECT {columns} FROM {table} WHERE {time} >= {start} AND {time} < {end} ORDER BY {order}) "
        "TO STDOUT (FORMAT csv, HEADER true)"
    ).format(
        columns=columns,
        table=sql.Identifier(*spec.table.split(".")),
        time=time,
        start=sql.Literal(window.start),
        end=sql.Literal(window.end),
        order=sql.SQL(", ").join(order),
    )


def _tables(stream: Any, contract: Contract) -> Iterator[Any]:
    batches = pacsv.open_csv(
        stream,
        read_options=pacsv.ReadOptions(use_threads=False, block_size=4 << 20),
        parse_options=pacsv.ParseOptions(newlines_in_values=True),
        convert_options=pacsv.ConvertOptions(
            column_types=raw_schema(contract),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
            true_values=["t"],
            false_values=["f"],
        ),
    )
    number = 0
    for batch in batches:
        yield _positioned(pa.Table.from_batches([batch]), contract, number)
        number += batch.num_rows


def _positioned(table: Any, contract: Contract, number: int) -> Any:
    names = contract.key
    if names:
        parts = [pc.binary_join_element_wise(name, table.column(name).cast(pa.string()), "=") for name in names]
        places = pc.binary_join_element_wise(*parts, " ", null_handling="replace", null_replacement="NULL")
    else:
        places = pa.array([f"row={row}" for row in range(number, number + table.num_rows)], pa.string())
    nothing = pa.nulls(table.num_rows, pa.string())
    columns = [*table.columns, places, nothing, nothing.cast(pa.binary())]
    schema = slice_schema(contract)
    assert schema.get_field_index(POSITION) == len(table.columns)  # noqa: S101 - the order the line above relies on
    return pa.Table.from_arrays(columns, schema=schema)


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
