"""Reads TFRecord files of tf.train.Example, without TensorFlow; a record that is none is kept as its bytes.

A column of one value is a feature of one value; a feature that is absent or empty is NULL. Whole numbers, instants
(microseconds since 1970), dates (days), times (microseconds) and booleans are int64, floats float32, texts and bytes
are bytes; decimals are texts, because a float32 would have rounded them.
"""

from __future__ import annotations

import struct
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import crc32c
import pyarrow as pa

from tidegate.contract.arrow import BYTES, ERROR, POSITION, slice_schema
from tidegate.contract.decode import READERS, typed
from tidegate.errors import DataError
from tidegate.files.streams import LONGEST, Exact, chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tidegate.contract import Column, Contract
    from tidegate.contract.decode import Readers
    from tidegate.files.streams import Input, Packing

_HEAD, _CRC = struct.Struct("<Q"), struct.Struct("<I")
_KEPT = 1 << 16  # bytes of a record too long to be read that quarantine keeps
_ROWS, _HELD = 10_000, 8 << 20
_MASK = 0xA282EAD8


def read(file: Input, packed: Packing | None, contract: Contract, progress: Callable[[int], None]) -> Iterator[Any]:
    """Yield the rows of one TFRecord file; a row's position is `name#record`, from 0."""
    for column in contract.columns:
        inner = column.items if column.items is not None else column
        if inner.raw in ("struct", "list"):
            raise DataError(
                f"{file}: an Example holds no {inner.raw}, as {column.name!r} is by {contract.path}; use JSON lines"
            )
    schema = slice_schema(contract)
    rows: list[dict[str, Any]] = []
    held = 0
    for number, (raw, reason) in enumerate(_records(file, packed, progress)):
        rows.append(_row(raw, reason, f"{file.name}#{number}", contract))
        held += len(raw)
        if len(rows) >= _ROWS or held >= _HELD:
            yield pa.Table.from_pylist(rows, schema=schema)
            rows, held = [], 0
    yield pa.Table.from_pylist(rows, schema=schema)


def records(file: Input, packed: Packing | None) -> Iterator[dict[str, list[Any]]]:
    """Yield name -> values of each record that can be read."""
    for raw, reason in _records(file, packed, lambda _: None):
        if reason is None:
            try:
                yield features(raw)
            except ValueError:
                continue


def _row(raw: bytes, reason: str | None, place: str, contract: Contract) -> dict[str, Any]:
    if reason is None:
        try:
            found = features(raw)
            fields = {c.name: _shaped(found.get(c.name, []), c) for c in contract.columns}
            return {**typed(fields, contract, _READERS), POSITION: place}
        except ValueError as error:
            reason = str(error)
    return {POSITION: place, ERROR: f"undecodable:{reason}", BYTES: raw}


def _shaped(values: list[Any], column: Column) -> Any:
    """Return a column's value: a list that is no single value is refused by the reader of its kind."""
    if column.raw == "list" or len(values) > 1:
        return values
    return values[0] if values else None


def _records(
    file: Input, packed: Packing | None, progress: Callable[[int], None]
) -> Iterator[tuple[bytes, str | None]]:
    """Yield each record's bytes, and why they are not to be read.

    Raises:
        DataError: the framing is broken, so that no later record can be found.
    """
    stream = Exact(chunks(file, packed, progress))
    try:
        while not stream.ended():
            at = stream.at
            head = stream.take(_HEAD.size)
            if _CRC.unpack(stream.take(_CRC.size))[0] != masked(head):
                raise EOFError(f"the length at byte {at} has another checksum")
            size = _HEAD.unpack(head)[0]
            if size > LONGEST:
                kept = stream.skip(size, _KEPT)
                stream.take(_CRC.size)
                yield kept, f"longer_than_{LONGEST >> 20}_MiB"
                continue
            data = stream.take(size)
            right = _CRC.unpack(stream.take(_CRC.size))[0] == masked(data)
            yield data, None if right else "checksum_differs"
    except EOFError as error:
        raise DataError(
            f"{file} cannot be read as .tfrecord: {error}; it is damaged or no such file: write it anew"
        ) from error


def masked(data: bytes) -> int:
    """Return the checksum that TFRecord keeps of bytes: their CRC-32C, turned and shifted."""
    found = int(crc32c.crc32c(data))
    return ((found >> 15 | found << 17) + _MASK) & 0xFFFFFFFF


def features(data: bytes) -> dict[str, list[Any]]:
    """Return name -> values of one serialised Example.

    Raises:
        ValueError: it is none, or it names a feature twice; the message is the reason.
    """
    from google.protobuf.message import DecodeError

    example = _example()()
    try:
        example.ParseFromString(data)
    except (DecodeError, UnicodeDecodeError):
        raise ValueError("not_an_example") from None
    found: dict[str, list[Any]] = {}
    for entry in example.features.feature:
        kind = entry.value.WhichOneof("kind")
        if entry.key in found:
            raise ValueError("repeated_feature")
        found[entry.key] = list(getattr(entry.value, kind).value) if kind else []
    return found


@cache
def _example() -> Any:
    """Return the message class of tf.train.Example, made here: TensorFlow is not in this environment.

    A map is a list of entries on the wire; declared as one, a name that comes twice is seen.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="tidegate/example.proto", package="tidegate", syntax="proto3")

    def message(name: str, *fields: tuple[str, int, str], one_of: str | None = None, repeated: bool = False) -> None:
        made = file.message_type.add(name=name)
        if one_of:
            made.oneof_decl.add(name=one_of)
        for number, (label, kind, type_name) in enumerate(fields, start=1):
            field = made.field.add(name=label, number=number, type=kind, label=3 if repeated else 1)
            if type_name:
                field.type_name = f".tidegate.{type_name}"
            if one_of:
                field.oneof_index = 0

    message("BytesList", ("value", kinds.TYPE_BYTES, ""), repeated=True)
    message("FloatList", ("value", kinds.TYPE_FLOAT, ""), repeated=True)
    message("Int64List", ("value", kinds.TYPE_INT64, ""), repeated=True)
    lists = [(f"{name}_list", kinds.TYPE_MESSAGE, f"{name.title()}List") for name in ("bytes", "float", "int64")]
    message("Feature", *lists, one_of="kind")
    message("Entry", ("key", kinds.TYPE_STRING, ""), ("value", kinds.TYPE_MESSAGE, "Feature"))
    message("Features", ("feature", kinds.TYPE_MESSAGE, "Entry"), repeated=True)
    message("Example", ("features", kinds.TYPE_MESSAGE, "Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tidegate.Example"))


def _text(value: Any, _: Column) -> str:
    if not isinstance(value, bytes):
        raise TypeError
    return value.decode("utf-8")


def _number(value: Any, _: Column) -> float:
    if not isinstance(value, int | float):
        raise TypeError
    return float(value)  # NaN and infinities are told by the masks


def _whole(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError
    return value


def _truth(value: Any, _: Column) -> bool:
    if _whole(value) not in (0, 1):
        raise ValueError
    return bool(value)


def _bytes(value: Any, _: Column) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError
    return value


def _clock(value: Any, _: Column) -> time:
    if not 0 <= _whole(value) < 86_400_000_000:
        raise ValueError
    return (datetime.min + timedelta(microseconds=value)).time()


_READERS: Readers = {
    **READERS,
    "string": _text,
    "bytes": _bytes,
    "float32": _number,
    "float64": _number,
    "bool": _truth,
    "decimal": lambda value, column: READERS["decimal"](_text(value, column), column),
    "date": lambda value, _: date(1970, 1, 1) + timedelta(days=_whole(value)),
    "time": _clock,
    "timestamp": lambda value, _: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=_whole(value)),
    "local_timestamp": lambda value, _: datetime(1970, 1, 1) + timedelta(microseconds=_whole(value)),
}
