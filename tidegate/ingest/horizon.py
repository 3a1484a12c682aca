"""Waits until no transaction is open that could still commit rows into a window that ended: its horizon is passed.

A snapshot shows what has been committed. A row whose event time lies in the window, but whose transaction commits
later, would be in no slice: its own window was read already, and no later one asks for it. So the window is read only
after every transaction has ended that was open at the first look, and the first look comes after the window's end by
the server's own clock. Transactions are told apart by their virtual ids, which they have from their first moment and
every role sees in `pg_locks`: one that has written nothing yet has no other, and may write tomorrow what it calls
today (`now()` is the time at which a transaction began).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tidegate.errors import DataError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidegate.handoff import Window

_MARGIN = 1.0  # seconds from a window's end to the first look: a transaction's time is taken just before its id is seen
_STAMPED = 60.0  # seconds by which an application's stamp may be older than the transaction that writes it
_PAUSES = (0.05, 2.0)  # seconds between looks, the shortest and the longest: Postgres announces no end
_NAMED = 3  # transactions that an error names

_OPEN = """
SELECT l.virtualtransaction, l.pid, coalesce(a.usename, '?'), coalesce(nullif(a.application_name, ''), '?'),
       coalesce(a.state, 'state hidden'), extract(epoch FROM clock_timestamp() - a.xact_start)::float8
FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND l.granted AND l.pid <> pg_backend_pid()
  AND (a.pid IS NULL OR a.datid = (SELECT oid FROM pg_database WHERE datname = current_database()))
  AND a.backend_type IS DISTINCT FROM 'autovacuum worker'
  AND (a.backend_xid IS NOT NULL OR a.xact_start IS NULL OR a.xact_start < to_timestamp(%s::float8))
"""
_PREPARED = """
SELECT gid, owner, extract(epoch FROM clock_timestamp() - prepared)::float8
FROM pg_prepared_xacts WHERE database = current_database()
"""


@dataclass(frozen=True)
class Holder:
    """A transaction that may still commit: who it is, how it is ended, and its age in seconds where it can be seen."""

    who: str
    end: str
    age: float | None

    def __str__(self) -> str:
        """Return it as a part of a sentence."""
        return f"{self.who}, open for {self.age:.0f} s" if self.age is not None else f"{self.who}, age hidden"


def settle(
    connection: Any,
    window: Window,
    what: str,
    patience: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    every: bool = False,
) -> dict[str, Any]:
    """Wait until the window is closed for good; return what the manifest says of it: seconds waited, holders awaited.

    `connection` is in autocommit mode: a transaction of ours would keep others waiting, and they us. `what` names the
    table for errors; `patience` is the longest wait, seconds. `every` waits also for transactions that began after the
    window's end and have written nothing yet: they may hold a number of a sequence.

    Raises:
        Unavailable: the window has not ended, or a transaction stays open, for longer than `patience`.
        DataError: the server is a standby, which does not know the transactions that are open on its primary.
    """
    begun, pause = clock(), _PAUSES[0]
    with connection.cursor() as cursor:
        _primary(cursor, what)
        ended(cursor, window, what, patience, sleep)
        before = math.inf if every else window.end.timestamp() + _STAMPED
        held, prepared = _open(cursor, before), _prepared(cursor)
        awaited = len(held) + len(prepared)
        while held or prepared:
            waited = clock() - begun
            if waited >= patience:
                raise _still_open(window, what, waited, patience, [*held.values(), *prepared.values()])
            sleep(min(pause, patience - waited))
            pause = min(2 * pause, _PAUSES[1])
            now_open, now_prepared = _open(cursor, before), _prepared(cursor)  # in this order: see _prepared
            left = {key: now_open[key] for key in held if key in now_open}
            known = now_prepared if len(left) < len(held) else prepared
            held, prepared = left, {gid: now_prepared[gid] for gid in known if gid in now_prepared}
    return {"awaited": awaited, "waited_s": round(clock() - begun, 3)}


def snapshot(cursor: Any) -> dict[str, Any]:
    """Return the bounds of the running transaction's snapshot, and how many ids in between are in progress.

    Every transaction below `xmin` has ended; none from `xmax` on is seen.
    """
    cursor.execute("SELECT pg_current_snapshot()::text")
    low, high, between = cursor.fetchone()[0].split(":")
    return {"xmin": int(low), "xmax": int(high), "in_progress": len(between.split(",")) if between else 0}


def _primary(cursor: Any, what: str) -> None:
    cursor.execute("SELECT pg_is_in_recovery()")
    if cursor.fetchone()[0]:
        raise DataError(
            f"{what} is read from a standby, which lags and does not see the transactions that are open on its "
            "primary, so rows would be lost; name the primary in the connection"
        )


def ended(cursor: Any, window: Window, what: str, patience: float, sleep: Callable[[float], None]) -> None:
    """Wait for the window's end by the server's clock.

    Raises:
        Unavailable: it is further away than `patience`, seconds.
    """
    while True:
        cursor.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
        remaining = window.end.timestamp() + _MARGIN - cursor.fetchone()[0]
        if remaining <= 0:
            return
        if remaining > patience:
            raise Unavailable(
                f"window {window} of {what} ends in {remaining:.0f} s by the server's clock, more than the patience of "
                f"{patience:g} s; read it again after its end"
            )
        sleep(remaining)


def _open(cursor: Any, before: float) -> dict[str, Holder]:
    """Return the transactions that may write, by virtual id; of those that have not, who began `before`, seconds."""
    cursor.execute(_OPEN, [before])
    return {
        virtual: Holder(
            f"pid {pid} ({role}, {application}, {state})", f"SELECT pg_terminate_backend({pid})", age
        )
        for virtual, pid, role, application, state, age in cursor.fetchall()
    }  # fmt: skip


def _prepared(cursor: Any) -> dict[str, Holder]:
    """Return the prepared transactions by name.

    A transaction that is prepared is listed here before its virtual id goes, and nothing tells which one it was. So the
    open ones are asked for first, and when one of those has gone, all that are prepared by then are waited for.
    """
    cursor.execute(_PREPARED)
    return {
        gid: Holder(f"prepared transaction {gid!r} ({owner})", f"ROLLBACK PREPARED '{gid}'", age)
        for gid, owner, age in cursor.fetchall()
    }


def _still_open(window: Window, what: str, waited: float, patience: float, holders: list[Holder]) -> Unavailable:
    oldest = sorted(holders, key=lambda holder: -(holder.age or 0.0))
    named = "; ".join(map(str, oldest[:_NAMED])) + (f"; {len(oldest) - _NAMED} more" if len(oldest) > _NAMED else "")
    return Unavailable(
        f"window {window} of {what} cannot be closed: after {waited:.0f} s (patience {patience:g} s) "
        f"{len(oldest)} open transactions may still commit rows into it ({named}); let them end, or "
        f"end the oldest: {oldest[0].end}"
    )
