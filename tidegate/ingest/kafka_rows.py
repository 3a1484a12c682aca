"""Messages gathered by batches become rows of the raw slice, with what Kafka said of each message beside them."""

from __future__ import annotations

import hashlib
import queue
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME

from tidegate.files import sliced
from tidegate.files.streams import LONGEST
from tidegate.ingest.kafka_decode import FIELDS
from tidegate.ingest.slices import LATE, SKIPPED

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from numpy.typing import NDArray

    from tidegate.ingest.kafka_decode import Decoder

_nulls: Any = pa.nulls

_ROWS = 10_000
_BYTES = 8 << 20
_KEPT = 1 << 16  # bytes that quarantine keeps of a message too long to be decoded
_AHEAD = 1  # batches read while one is decoded
_CLOCKS = {TIMESTAMP_CREATE_TIME: "create", TIMESTAMP_LOG_APPEND_TIME: "append"}


class Batch:
    """Messages of one partition, column by column, as they come; tombstones are left out where `skip` says so."""

    def __init__(self, *, skip: bool = False) -> None:
        self._skip, self._skipped = skip, 0
        self.values: list[bytes | None] = []
        self.long: dict[int, tuple[str, bytes]] = {}
        self.held = 0
        self._offsets: list[int] = []
        self._keys: list[bytes | None] = []
        self._headers: list[Any] = []
        self._stamps: list[tuple[int, int]] = []

    def add(self, messages: list[Any]) -> None:
        """Take messages; of a value longer than 16 MiB the start is kept, with its size and its SHA-256."""
        if self._skip:
            valued = [message for message in messages if message.value() is not None]
            self._skipped += len(messages) - len(valued)
            messages = valued
        if not messages:
            return
        values = [message.value() for message in messages]
        if max(map(len, messages)) > LONGEST:  # a message's length is its value's
            for at, value in enumerate(values):
                if value is not None and len(value) > LONGEST:
                    values[at] = b""
                    self.held += _KEPT
                    self.long[len(self.values) + at] = (f"longer_than_{LONGEST >> 20}_MiB", _shortened(value))
        self.values += values
        self.held += sum(len(value) for value in values if value)
        self._offsets += [message.offset() for message in messages]
        keys = [message.key() for message in messages]
        self._keys += keys
        self.held += sum(len(key) for key in keys if key)
        self._headers += [message.headers() for message in messages]
        self._stamps += [message.timestamp() for message in messages]

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing at all."""
        return not self.values and not self._skipped

    @property
    def is_full(self) -> bool:
        """Whether it is time to decode it."""
        return len(self.values) >= _ROWS or self.held >= _BYTES

    def table(self, place: str, late_before: datetime, decoder: Decoder) -> Any:
        """Return the messages as rows of the raw slice; `place` is `topic/partition/`."""
        positions = sliced.places(place, np.array(self._offsets, np.int64))
        rows = decoder.decode(self.values, positions, self.long)
        kinds, stamps = np.array(self._stamps, np.int64).reshape(-1, 2).T
        known = np.isin(kinds, list(_CLOCKS))
        late = known & (stamps < int(late_before.timestamp() * 1000))
        beside = [
            pa.array(self._keys, pa.binary()),
            _headers(self._headers),
            pa.array(stamps, pa.int64(), mask=~known).cast(FIELDS[2].type),
            _clocks(kinds),
            pa.array(late),
        ]
        told = decoder.schema.with_metadata({LATE: str(int(late.sum())).encode(), SKIPPED: str(self._skipped).encode()})
        return pa.Table.from_arrays([*(column.combine_chunks() for column in rows.columns), *beside], schema=told)


def _shortened(value: bytes) -> bytes:
    digest = hashlib.sha256(value).hexdigest()
    return value[:_KEPT] + f"\n... {len(value)} bytes in all, SHA-256 {digest}".encode()


def _clocks(kinds: NDArray[np.int64]) -> Any:
    if (kinds == kinds[:1]).all():
        return pa.repeat(pa.scalar(_CLOCKS.get(int(kinds[0])) if len(kinds) else None, pa.string()), len(kinds))
    return pa.array([_CLOCKS.get(kind) for kind in kinds.tolist()], pa.string())


def _headers(headers: list[Any]) -> Any:
    if not any(headers):
        return _nulls(len(headers), FIELDS[1].type)
    listed = [
        None if each is None else [{"name": name, "value": _bytes(value)} for name, value in each] for each in headers
    ]
    return pa.array(listed, FIELDS[1].type)


def _bytes(value: bytes | str | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def batches(messages: Iterator[list[Any]], *, skip: bool = False) -> Iterator[Batch]:
    """Gather messages into batches of some 10,000 or some 8 MiB; `skip` leaves tombstones out."""
    batch = Batch(skip=skip)
    for some in messages:
        batch.add(some)
        if batch.is_full:
            yield batch
            batch = Batch(skip=skip)
    if not batch.is_empty:
        yield batch


def ahead(items: Iterator[Any]) -> Iterator[Any]:
    """Yield what an iterator yields, which works in a thread of its own, a few items ahead."""
    done = object()
    waiting: queue.Queue[Any] = queue.Queue(_AHEAD)
    stopped = threading.Event()

    def put(item: Any) -> bool:
        while not stopped.is_set():
            with suppress(queue.Full):
                waiting.put(item, timeout=0.2)
                return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    break
            put(done)
        except BaseException as error:  # handed to the reader, which raises it
            put(error)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=work, name="tidegate-ahead", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not done:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
