"""What messages become: rows of the raw slice, decoded, with what Kafka said of each message beside them.

A raw slice of a topic has five columns more than others: `_key`, `_headers` (in their order, names may repeat),
`_timestamp`, `_timestamp_type` (create: the producer's clock; append: the broker's) and `_late`.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME

from tidegate.contract.arrow import slice_schema
from tidegate.files import sliced
from tidegate.files.streams import LONGEST
from tidegate.ingest.slices import LATE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from tidegate.contract import Contract

    Decode = Callable[[list[bytes | None], Any, dict[int, tuple[str, bytes]]], Any]

pc: Any = pyarrow.compute
_nulls: Any = pa.nulls

FIELDS = [
    pa.field("_key", pa.binary()),
    pa.field("_headers", pa.list_(pa.struct([("name", pa.string()), ("value", pa.binary())]))),
    pa.field("_timestamp", pa.timestamp("ms", tz="UTC")),
    pa.field("_timestamp_type", pa.string()),
    pa.field("_late", pa.bool_()),
]
_ROWS = 10_000
_BYTES = 8 << 20
_KEPT = 1 << 16  # bytes that quarantine keeps of a message too long to be decoded
_AHEAD = 2  # batches read while one is decoded
_CLOCKS = {TIMESTAMP_CREATE_TIME: "create", TIMESTAMP_LOG_APPEND_TIME: "append"}


def schema(contract: Contract) -> Any:
    """Return the schema of a topic's raw slice."""
    return pa.schema([*slice_schema(contract), *FIELDS])


class Batch:
    """Messages of one partition, column by column, as they come."""

    def __init__(self) -> None:
        self.values: list[bytes | None] = []
        self.long: dict[int, tuple[str, bytes]] = {}
        self.held = 0
        self._offsets: list[int] = []
        self._keys: list[bytes | None] = []
        self._headers: list[Any] = []
        self._stamps: list[tuple[int, int]] = []

    def add(self, messages: list[Any]) -> None:
        """Take messages; of a value longer than 16 MiB the start is kept, with its size and its SHA-256."""
        values = [message.value() for message in messages]
        sizes = [0 if value is None else len(value) for value in values]
        if max(sizes) > LONGEST:
            for at, value in enumerate(values):
                if value is not None and len(value) > LONGEST:
                    values[at] = b""
                    sizes[at] = _KEPT
                    self.long[len(self.values) + at] = (f"longer_than_{LONGEST >> 20}_MiB", _shortened(value))
        self.values += values
        self.held += sum(sizes)
        self._offsets += [message.offset() for message in messages]
        self._keys += [message.key() for message in messages]
        self._headers += [message.headers() for message in messages]
        self._stamps += [message.timestamp() for message in messages]

    @property
    def is_full(self) -> bool:
        """Whether it is time to decode it."""
        return len(self.values) >= _ROWS or self.held >= _BYTES

    def table(self, place: str, late_before: datetime, contract: Contract, decode: Decode) -> Any:
        """Return the messages as rows of the raw slice; `place` is `topic/partition/`."""
        positions = sliced.places(place, np.array(self._offsets, np.int64))
        rows = decode(self.values, positions, self.long)
        kinds, stamps = np.array(self._stamps, np.int64).reshape(-1, 2).T
        known = np.isin(kinds, list(_CLOCKS))
        late = known & (stamps < int(late_before.timestamp() * 1000))
        beside = [
            pa.array(self._keys, pa.binary()),
            _headers(self._headers),
            pa.array(stamps, pa.int64(), mask=~known).cast(FIELDS[2].type),
            pa.array([_CLOCKS.get(kind) for kind in kinds.tolist()], pa.string()),
            pa.array(late),
        ]
        told = schema(contract).with_metadata({LATE: str(int(late.sum())).encode()})
        return pa.Table.from_arrays([*(column.combine_chunks() for column in rows.columns), *beside], schema=told)


def _shortened(value: bytes) -> bytes:
    digest = hashlib.sha256(value).hexdigest()
    return value[:_KEPT] + f"\n... {len(value)} bytes in all, SHA-256 {digest}".encode()


def _headers(headers: list[Any]) -> Any:
    if not any(headers):
        return _nulls(len(headers), FIELDS[1].type)
    listed = [
        None if each is None else [{"name": name, "value": _bytes(value)} for name, value in each] for each in headers
    ]
    return pa.array(listed, FIELDS[1].type)


def _bytes(value: bytes | str | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def batches(messages: Iterator[list[Any]]) -> Iterator[Batch]:
    """Gather messages into batches of at most 10,000 or some 8 MiB."""
    batch = Batch()
    for some in messages:
        if some:
            batch.add(some)
        if batch.is_full:
            yield batch
            batch = Batch()
    if batch.values:
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
