"""Connections to Postgres, and what its errors mean: try again later, or a person must act."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2.extensions import ISOLATION_LEVEL_REPEATABLE_READ, parse_dsn

from tidegate.errors import DataError, Unavailable
from tidegate.ingest.edge import away

if TYPE_CHECKING:
    from collections.abc import Iterator

_REFUSALS = ("authentication failed", "does not exist", "no password supplied", "pg_hba.conf")
_LATER = ("08", "40", "53", "55", "57")
"""Classes of SQLSTATE that pass: connection, rollback, resources, locks, operator's intervention."""
_TIMED_OUT = ("25P03", "25P04")  # a session or a transaction was open for longer than its role may
_CANCELLED = "57014"
_LOCK_WAIT = 30_000  # milliseconds: a lock that a waiting ALTER TABLE keeps from our other connections


@dataclass(frozen=True)
class Server:
    """A server that is read from: its address, and the longest time to connect, seconds."""

    dsn: str
    timeout: float

    @property
    def address(self) -> str:
        """Where it is, without secrets: host:port/database."""
        parts = parse_dsn(self.dsn)
        return f"{parts.get('host', 'localhost')}:{parts.get('port', '5432')}/{parts.get('dbname', '')}"

    def connect(self) -> Any:
        """Return a connection for read-only transactions, each of which sees one snapshot.

        Raises:
            Unavailable: the server does not answer, or takes no more connections.
            DataError: it knows no such database or role, or refuses the password.
        """
        try:
            connection = psycopg2.connect(
                self.dsn, connect_timeout=max(2, round(self.timeout)), keepalives_idle=30, keepalives_interval=10,
                keepalives_count=3,
            )  # fmt: skip
        except psycopg2.OperationalError as error:
            line = first_line(error)
            if any(refusal in line for refusal in _REFUSALS):
                message = f"Postgres at {self.address} refuses the connection: {line}; mend the Airflow connection"
                raise DataError(message) from error
            raise away("Postgres", self.address, self.timeout, line) from error
        connection.set_session(isolation_level=ISOLATION_LEVEL_REPEATABLE_READ, readonly=True)
        return connection

    @contextmanager
    def session(self, what: str, remedy: str) -> Iterator[Any]:
        """Give a connection whose errors are ours, and close it; `what` and `remedy` are parts of their sentences.

        Raises:
            Unavailable: the server hangs up, ends the transaction or lacks something for now.
            DataError: what is asked for is not there, or not allowed.
        """
        connection = self.connect()
        try:
            yield connection
        except psycopg2.Error as error:
            raise self.named(error, what, remedy) from error
        finally:
            connection.close()

    def named(self, error: psycopg2.Error, what: str, remedy: str) -> Exception:
        """Return the error of ours that one of the client's means; without a code it is the connection that broke."""
        code, line = error.pgcode, first_line(error)
        if code is None:
            return away("Postgres", self.address, self.timeout, line)
        if code == _CANCELLED:
            remedy = "raise statement_timeout for the role that reads, or let more `connections` share the window"
            return Unavailable(f"the reading of {what} was cancelled: {line}; try again, or {remedy}")
        if code[:2] in _LATER or code in _TIMED_OUT:
            return Unavailable(f"{what} cannot be read now: {line} (SQLSTATE {code}); try again later")
        return DataError(f"{what} cannot be read: {line}; {remedy}")


def open_table(cursor: Any, table: Any) -> None:
    """Begin to read a table: its columns stay as they are until the transaction ends.

    Whoever alters it waits for us. Another connection of ours would then wait for them, and we for it, which no
    deadlock detector sees: so that one gives up after half a minute.
    """
    cursor.execute("SELECT set_config('lock_timeout', %s, false)", [str(_LOCK_WAIT)])
    cursor.execute(b"SELECT FROM " + table.as_string(cursor).encode() + b" LIMIT 0")


def first_line(error: Exception) -> str:
    """Return what an error says, in one line."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
