"""Where a window of a table begins and ends: by an event time, or by a key that only grows.

A key says nothing of when, so windows by key are a chain: each begins where the one before it ended, and ends at the
highest key of the moment at which it is frozen, after its end. The bounds are kept in the lake before anything is read,
and stay as they are, also for a refresh: no key lies in two windows or in none.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg2 import sql

from tidegate import keys
from tidegate.errors import DataError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from tidegate.delivery import PostgresSource
    from tidegate.handoff import Window
    from tidegate.lake import Lake

_PAUSE = 0.2  # seconds between two looks at the lock
_SEQUENCE = """
SELECT seqrelid::regclass::text, seqcache, seqincrement FROM pg_sequence
WHERE seqrelid = pg_get_serial_sequence(%s, %s)::regclass AND (seqcache > 1 OR seqincrement < 1)
"""


@dataclass(frozen=True)
class Chain:
    """The bounds of a source's windows by key, as frozen in a lake."""

    lake: Lake
    delivery: str
    source: str

    def hold(self, cursor: Any, patience: float, sleep: Callable[[float], None]) -> None:
        """Take the lock, in the source's database, under which a window is added; the session's end lets it go.

        Who waits for it inside of one statement would be a transaction that the holder waits for.

        Raises:
            Unavailable: another process has it for longer than `patience`, seconds.
        """
        number = zlib.crc32(f"tidegate/{self.delivery}/{self.source}".encode())
        waited = 0.0
        while True:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [number])
            if cursor.fetchone()[0]:
                return
            if waited >= patience:
                raise Unavailable(
                    f"source {self.source!r}: another process has been freezing a window by key for {waited:.0f} s "
                    f"(patience {patience:g} s); let it end, then try again"
                )
            sleep(_PAUSE)
            waited += _PAUSE

    def of(self, window: Window) -> dict[str, Any] | None:
        """Return a window's position, or None where it was not frozen."""
        found = self.lake.manifest(keys.bounds(self.delivery, self.source, window))
        return None if found is None else found["position"]

    def keep(self, window: Window, position: dict[str, Any]) -> None:
        """Keep a window's position for ever."""
        with self.lake.publish(keys.bounds(self.delivery, self.source, window), position=position):
            pass

    def begin(self, window: Window, since: datetime, after: int | None) -> int | None:
        """Return the key after which a window that is not frozen begins; None for the table's beginning.

        `since` and `after` are where the first window begins, in time and by key.

        Raises:
            Unavailable: the windows before it are not read yet.
            DataError: it begins before the chain does, or within a window of it.
        """
        name = f"window {window} of source {self.source!r}"
        if window.start < since:
            raise DataError(f"{name} begins before the source's `since`, {since:%Y-%m-%d %H:%M}; move that")
        last, upto = self._last()
        end = last.end if last else since
        if window.start > end:
            raise Unavailable(
                f"{name} is read after those before it, because each begins at the key at which the one before ended: "
                f"read the window that begins at {end:%Y-%m-%d %H:%M} UTC first, then this"
            )
        if last is None:
            return after
        if window.start < end:
            raise DataError(
                f"{name} begins within windows that were read by key, the last of which is {last}; read those again "
                f"as they are, or one that begins at {end:%Y-%m-%d %H:%M} UTC"
            )
        return upto

    def _last(self) -> tuple[Window | None, int | None]:
        """Return the last window of the chain and the highest key of it."""
        listed = self.lake.keys(keys.bounds(self.delivery, self.source))
        if not listed:
            return None, None
        key = max(listed, key=lambda each: keys.window_of(each).end)
        return keys.window_of(key), self.lake.require(key)["position"]["upto"]


def highest(cursor: Any, spec: PostgresSource) -> int | None:
    """Return the highest key that is seen now, or None in an empty table.

    Raises:
        DataError: the key is no whole number, or its sequence does not give numbers in the order of time.
    """
    table = sql.Identifier(*spec.table.split("."))
    cursor.execute(_SEQUENCE, [table.as_string(cursor), spec.key])
    if found := cursor.fetchone():
        name, cache, step = found
        raise DataError(
            f"key {spec.key!r} of table {spec.table!r}: sequence {name} has CACHE {cache} and INCREMENT {step}, so a "
            f"lower number may come after a higher one, and rows would be lost; ALTER SEQUENCE {name} CACHE 1 "
            "INCREMENT 1, or give the source a `time`"
        )
    cursor.execute(sql.SQL("SELECT max({}) FROM {}").format(sql.Identifier(str(spec.key)), table))
    value = cursor.fetchone()[0]
    if value is not None and not isinstance(value, int):
        raise DataError(
            f"key {spec.key!r} of table {spec.table!r} holds {value!r}, which is no whole number; name a column of "
            "smallint, integer or bigint, or give the source a `time`"
        )
    return value
