"""What messages become: rows of the raw slice, decoded, with what Kafka said of each message beside them.

A raw slice of a topic has five columns more than others: `_key`, `_headers` (in their order, names may repeat),
`_timestamp`, `_timestamp_type` (create: the producer's clock; append: the broker's) and `_late`. Where it holds Avro,
`_schema` has the writer's schema of each message that is kept as bytes.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME

from tidegate.contract.arrow import BYTES, ERROR, POSITION, slice_schema
from tidegate.contract.avro import SCHEMA, decode_avro
from tidegate.contract.batch import decode_many
from tidegate.errors import DataError
from tidegate.files import sliced
from tidegate.files.streams import LONGEST
from tidegate.ingest.slices import LATE, SKIPPED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from tidegate.contract import Contract
    from tidegate.delivery import KafkaSource
    from tidegate.ingest.kafka_registry import Registry

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
_AHEAD = 1  # batches read while one is decoded
_CLOCKS = {TIMESTAMP_CREATE_TIME: "create", TIMESTAMP_LOG_APPEND_TIME: "append"}


def decoder(spec: KafkaSource, contract: Contract, registry: Registry | None = None) -> Decoder:
    """Return what decodes a source's messages.

    Raises:
        DataError: the contract has another shape than raw bytes need.
    """
    if spec.format == "json":
        return Decoder(contract, partial(_as_json, contract=contract))
    if spec.format == "bytes":
        column = contract.columns[0]
        if len(contract.columns) != 1 or column.raw != "bytes":
            raise DataError(
                f"topic {spec.topic!r} is read by format bytes: its value goes to the one column of the contract, of "
                f"physicalType bytea, but {contract.path} has {', '.join(contract.names)}; keep one such column"
            )
        return Decoder(contract, partial(_as_bytes, contract=contract))
    if registry is None:
        raise DataError(
            f"topic {spec.topic!r} holds Avro, and no schema registry was named; name the source's registry"
        )
    return Decoder(contract, partial(_as_avro, contract=contract, registry=registry), (pa.field(SCHEMA, pa.string()),))


class Decoder(NamedTuple):
    """How values become rows: (values, positions, those too long) -> a table of the contract's columns and `more`."""

    contract: Contract
    decode: Callable[[list[bytes | None], Any, dict[int, tuple[str, bytes]]], Any]
    more: tuple[Any, ...] = ()

    @property
    def schema(self) -> Any:
        """The schema of the topic's raw slice."""
        return pa.schema([*slice_schema(self.contract), *self.more, *FIELDS])


def _as_json(values: list[bytes | None], positions: Any, long: dict[int, tuple[str, bytes]], contract: Contract) -> Any:
    return decode_many(values, positions, contract, long)


def _as_bytes(
    values: list[bytes | None], positions: Any, long: dict[int, tuple[str, bytes]], contract: Contract
) -> Any:
    kept = [None if row in long else value for row, value in enumerate(values)]
    wrong: dict[int, tuple[str, bytes | None]] = {row: ("tombstone", None) for row, v in enumerate(values) if v is None}
    wrong.update(long)
    errors = [f"undecodable:{wrong[row][0]}" if row in wrong else None for row in range(len(values))]
    aside = [wrong[row][1] if row in wrong else None for row in range(len(values))]
    columns = [pa.array(kept, pa.binary()), positions, pa.array(errors, pa.string()), pa.array(aside, pa.binary())]
    return pa.Table.from_arrays(columns, schema=slice_schema(contract))


def _as_avro(
    values: list[bytes | None],
    positions: Any,
    long: dict[int, tuple[str, bytes]],
    contract: Contract,
    registry: Registry,
) -> Any:
    rows = []
    for row, (value, place) in enumerate(zip(values, positions.to_pylist(), strict=True)):
        if row in long:
            reason, kept = long[row]
            rows.append({POSITION: place, ERROR: f"undecodable:{reason}", BYTES: kept})
        else:
            rows.append(decode_avro(value, place, contract, registry.schema))
    return pa.Table.from_pylist(rows, schema=pa.schema([*slice_schema(contract), pa.field(SCHEMA, pa.string())]))


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
        kinds, moments = zip(*self._stamps, strict=True) if self._stamps else ((), ())
        stamps = np.fromiter(moments, np.int64, len(moments))
        known = np.ones(len(kinds), dtype=bool)
        if not _CLOCKS.keys() >= set(kinds):
            known = np.array([kind in _CLOCKS for kind in kinds])
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


def _clocks(kinds: tuple[int, ...]) -> Any:
    if len(set(kinds)) == 1:
        return pa.repeat(pa.scalar(_CLOCKS.get(kinds[0]), pa.string()), len(kinds))
    return pa.array([_CLOCKS.get(kind) for kind in kinds], pa.string())


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
