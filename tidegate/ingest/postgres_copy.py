"""Runs COPY queries side by side and gives their rows in the queries' order: a few blocks are all that is held."""

from __future__ import annotations

import queue
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg2

from tidegate.ingest.postgres_binary import HEADER, HEADER_REST, TRAILER, Rows

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

BLOCK = 4 << 20  # bytes of rows that become one table
_PIECE = 1 << 18  # bytes of rows that are kept one by one: they stay in the processor's cache until they are joined
_AHEAD = 3  # blocks of a query that wait to be read


class _Sink:
    """What COPY writes to, a row a call: puts blocks of whole rows into a queue."""

    def __init__(self, blocks: queue.Queue[Rows | None]):
        self._blocks = blocks
        self._rows: list[bytes] = []
        self._size = 0
        self._pieces: list[bytes] = []
        self._sizes: list[Any] = []
        self._left = BLOCK  # bytes until the pieces are a block
        self._has_begun = False
        self.is_left = False

    def write(self, row: bytes) -> None:
        self._rows.append(row)
        self._size += len(row)
        if self._size >= _PIECE:
            self._join()

    def _join(self) -> None:
        if self.is_left:
            raise BrokenPipeError("the reader has gone")
        rows, self._rows, self._size = self._rows, [], 0
        if rows and not self._has_begun:
            self._has_begun = True
            rows[:1] = [each for each in (rows[0].removeprefix(HEADER)[HEADER_REST:],) if each]
        if rows and rows[-1] == TRAILER:
            rows.pop()
        if rows:
            self._pieces.append(b"".join(rows))
            self._sizes.append(np.fromiter(map(len, rows), np.int64, len(rows)))
            self._left -= len(self._pieces[-1])
        if self._left <= 0:
            self._put()

    def _put(self) -> None:
        pieces, sizes, self._pieces, self._sizes, self._left = self._pieces, self._sizes, [], [], BLOCK
        self._blocks.put(Rows.of(pieces, sizes))

    def end(self) -> None:
        """Put what is left."""
        self._join()
        if self._pieces:
            self._put()


class _Copy:
    """One COPY that is running: its blocks of rows, or its error."""

    def __init__(self, cursor: Any, query: bytes):
        self._blocks: queue.Queue[Rows | None] = queue.Queue(_AHEAD)
        self._sink = _Sink(self._blocks)
        self._failures: list[BaseException] = []
        self._ended = False
        self._cursor = cursor
        self._sender = threading.Thread(target=self._send, args=(query,), name="tidegate-copy", daemon=True)
        self._sender.start()

    def _send(self, query: bytes) -> None:
        try:
            self._cursor.copy_expert(query, self._sink)
            self._sink.end()
        except BaseException as error:  # raised where the rows are read
            self._failures.append(error)
        finally:
            self._blocks.put(None)

    def __iter__(self) -> Iterator[Rows]:
        while (block := self._blocks.get()) is not None:
            yield block
        self._ended = True
        if self._failures:
            raise self._failures[0]

    def close(self) -> None:
        """End it, also half-way, and its thread."""
        if not self._ended:
            self._sink.is_left = True
            with suppress(psycopg2.Error):  # a connection that broke is ended already
                self._cursor.connection.cancel()
            while self._blocks.get() is not None:
                pass
            self._ended = True
        self._sender.join()


def copied(cursors: Sequence[Any], queries: Sequence[bytes]) -> Generator[Rows, None, None]:
    """Yield the rows that the COPY queries give, in the queries' order, in blocks of some 4 MiB.

    As many queries run side by side as there are cursors, each of a connection of its own.
    """
    running = deque(_Copy(cursor, query) for cursor, query in zip(cursors, queries, strict=False))
    try:
        for number in range(len(queries)):
            yield from running[0]
            running.popleft().close()
            if number + len(cursors) < len(queries):
                running.append(_Copy(cursors[number % len(cursors)], queries[number + len(cursors)]))
    finally:
        for each in running:
            each.close()
