"""Reads Avro container files block by block; a record with a value that is none is kept as its bytes.

The container is read here, because a reader of untrusted files must bound what a block may unpack to, and must find
the record after a bad one; schemas and records are fastavro's.
"""

from __future__ import annotations

import bz2
import io
import json
import lzma
import zlib
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tidegate.contract.arrow import BYTES, ERROR, POSITION, slice_schema
from tidegate.contract.avro import fields_of, next_value, parsed
from tidegate.errors import DataError
from tidegate.files.streams import LONGEST, Exact, chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tidegate.contract import Contract
    from tidegate.files.streams import Input, Packing

_MAGIC, _SYNC = b"Obj\x01", 16
_BLOCK = 2 * LONGEST  # bytes of the largest block, packed or not
_ROWS, _HELD = 10_000, 8 << 20


def read(file: Input, _packed: Packing | None, contract: Contract, progress: Callable[[int], None]) -> Iterator[Any]:
    """Yield the rows of one Avro container file; a row's position is `name#row`, from 0."""
    schema = slice_schema(contract)
    rows: list[dict[str, Any]] = []
    held = 0
    for number, (record, reason, raw) in enumerate(_records(file, progress, contract)):
        place = f"{file.name}#{number}"
        if record is not None:
            try:
                rows.append({**fields_of(record, contract), POSITION: place})
            except ValueError as error:
                reason = str(error)
        if reason is not None:
            rows.append({POSITION: place, ERROR: f"undecodable:{reason}", BYTES: raw})
        held += len(raw)
        if len(rows) >= _ROWS or held >= _HELD:
            yield pa.Table.from_pylist(rows, schema=schema)
            rows, held = [], 0
    yield pa.Table.from_pylist(rows, schema=schema)


def records(file: Input) -> Iterator[dict[str, Any]]:
    """Yield the records of a file that can be read, as fastavro gives them."""
    for record, _, _ in _records(file, lambda _: None, None):
        if record is not None:
            yield record


Found = tuple[dict[str, Any] | None, str | None, bytes]


def _records(file: Input, progress: Callable[[int], None], contract: Contract | None) -> Iterator[Found]:
    """Yield each record, or None with the reason; and its bytes."""
    stream = Exact(chunks(file, None, progress))
    try:
        text, codec, sync = _header(stream, file)
        schema, plain = _schemas(text, file, contract)
        for at, count, data in _blocks(stream, codec, sync, file):
            block = io.BytesIO(data)
            for _ in range(count):
                start = block.tell()
                record, reason = None, None
                try:
                    record = next_value(block, schema)
                except ValueError:
                    block.seek(start)
                    _passed(block, plain, file, at)
                    reason = "no_such_value"
                yield record, reason, data[start : block.tell()]
            if block.read(1):
                raise _damaged(file, f"the block at byte {at} holds more than its {count} records")
    except EOFError as error:
        raise _damaged(file, str(error)) from error


def _passed(block: io.BytesIO, plain: Any, file: Input, at: int) -> None:
    """Pass over a record that has a text which is none, or an instant that no calendar has."""
    try:
        next_value(block, plain)
    except ValueError:
        raise _damaged(file, f"the block at byte {at} holds what its schema does not say") from None


def _damaged(file: Input, why: str) -> DataError:
    return DataError(f"{file} cannot be read as .avro: {why}; it is damaged or no such file: write it anew")


def _header(stream: Exact, file: Input) -> tuple[str, str, bytes]:
    if stream.take(len(_MAGIC)) != _MAGIC:
        raise _damaged(file, "it does not begin as an Avro container file")
    found: dict[str, bytes] = {}
    while count := _long(stream, file):
        if count < 0:
            _long(stream, file)
        for _ in range(min(abs(count), 1000)):
            name = stream.take(_length(stream, file)).decode("utf-8", "replace")
            found[name] = stream.take(_length(stream, file))
    codec = found.get("avro.codec", b"null").decode("utf-8", "replace")
    if codec not in _CODECS:
        known = ", ".join(sorted(_CODECS))
        raise DataError(f"{file}: its codec {codec!r} is not known here; write it with one of {known}")
    try:
        text = found.get("avro.schema", b"").decode("utf-8")
    except UnicodeDecodeError:
        raise _damaged(file, "its schema is no UTF-8") from None
    return text, codec, stream.take(_SYNC)


def _long(stream: Exact, file: Input) -> int:
    value = shift = 0
    while shift < 64:
        byte = stream.take(1)[0]
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return (value >> 1) ^ -(value & 1)
        shift += 7
    raise _damaged(file, f"no number ends at byte {stream.at}")


def _length(stream: Exact, file: Input) -> int:
    found = _long(stream, file)
    if not 0 <= found <= _BLOCK:
        raise _damaged(file, f"a length of {found} bytes at byte {stream.at}; at most {_BLOCK} are read at once")
    return found


def _blocks(stream: Exact, codec: str, sync: bytes, file: Input) -> Iterator[tuple[int, int, bytes]]:
    """Yield each block's place, number of records and unpacked bytes."""
    while not stream.ended():
        at = stream.at
        count = _long(stream, file)
        packed = stream.take(_length(stream, file))
        if stream.take(_SYNC) != sync or count < 0:
            raise _damaged(file, f"the block at byte {at} does not end as it should")
        try:
            data = _CODECS[codec](packed)
        except (zlib.error, lzma.LZMAError, pa.ArrowException, OSError, EOFError, ValueError, IndexError) as error:
            raise _damaged(file, f"the block at byte {at} cannot be unpacked by {codec}: {error}") from error
        if len(data) > _BLOCK:
            raise DataError(f"{file}: the block at byte {at} is of more than {_BLOCK} bytes; write smaller blocks")
        if count > len(data) > 0 or (count and not data):
            raise _damaged(file, f"the block at byte {at} cannot hold {count} records in {len(data)} bytes")
        yield at, count, data


def _by(make: Callable[[], Any]) -> Callable[[bytes], bytes]:
    def unpack(packed: bytes) -> bytes:
        machine = make()
        data: bytes = machine.decompress(packed, _BLOCK + 1)
        if len(data) <= _BLOCK and not machine.eof:
            raise ValueError("it is cut off")
        return data

    return unpack


def _snappy(packed: bytes) -> bytes:
    size = shift = 0
    for byte in packed[:5]:
        size |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            break
    if size > _BLOCK:
        return b"\0" * (_BLOCK + 1)
    data: bytes = pa.decompress(packed[:-4], size, "snappy", asbytes=True)
    if zlib.crc32(data) != int.from_bytes(packed[-4:], "big"):
        raise ValueError("its checksum is another")
    return data


def _zstandard(packed: bytes) -> bytes:
    stream = pa.CompressedInputStream(pa.BufferReader(packed), "zstd")
    parts, held = [], 0
    while held <= _BLOCK and (part := stream.read(_BLOCK + 1 - held)):
        parts.append(part)
        held += len(part)
    return b"".join(parts)


_CODECS: dict[str, Callable[[bytes], bytes]] = {
    "null": lambda data: data,
    "deflate": _by(lambda: zlib.decompressobj(-15)),
    "bzip2": _by(bz2.BZ2Decompressor),
    "xz": _by(lzma.LZMADecompressor),
    "snappy": _snappy,
    "zstandard": _zstandard,
}


def _schemas(text: str, file: Input, contract: Contract | None) -> tuple[Any, Any]:
    """Return the writer's schema, and the one by which every record can be passed over."""
    try:
        schema = json.loads(text)
        found, plain = parsed(text), parsed(json.dumps(_plain(schema)))
        if schema["type"] not in ("record", "error"):
            raise ValueError("it is of no records")
        have = [str(field["name"]) for field in schema["fields"]]
        is_countable = not _is_empty(schema) and not any(_is_empty(items) for items in _items(schema))
    except (ValueError, RecursionError, AttributeError, TypeError, KeyError) as error:
        raise _damaged(file, f"its schema is none: {error}") from error
    missing = [name for name in contract.names if name not in have] if contract else []
    if contract and missing:
        raise DataError(
            f"{file} has no column {', '.join(missing)}, but {', '.join(have)}; write the file with it, or take it "
            f"out of {contract.path}"
        )
    if not is_countable:
        raise DataError(f"{file}: its schema has records or lists of nothing, of which no bytes tell the number")
    return found, plain


def _items(schema: Any) -> Iterator[Any]:
    """Yield the item types of all arrays in a schema."""
    if isinstance(schema, list):
        for each in schema:
            yield from _items(each)
    elif isinstance(schema, dict):
        if schema.get("type") == "array":
            yield schema.get("items")
        for name in ("items", "values", "type"):
            yield from _items(schema.get(name))
        for field in schema.get("fields", ()):
            yield from _items(field.get("type"))


def _is_empty(schema: Any) -> bool:
    """Whether a value of this type takes no bytes."""
    if isinstance(schema, dict):
        if schema.get("type") in ("record", "error"):
            return all(_is_empty(field.get("type")) for field in schema.get("fields", ()))
        if schema.get("type") == "fixed":
            return not schema.get("size")
        return _is_empty(schema.get("type"))
    return bool(schema == "null")


def _plain(schema: Any) -> Any:
    """Return a schema of the same bytes, by which every value can be passed over: no text, no instant."""
    if isinstance(schema, list):
        return [_plain(each) for each in schema]
    if isinstance(schema, dict):
        kept = {name: value for name, value in schema.items() if name not in ("logicalType", "default")}
        for name in ("type", "items", "values"):
            if name in kept:
                kept[name] = _plain(kept[name])
        if "fields" in kept:
            kept["fields"] = [_plain(field) for field in kept["fields"]]
        return kept
    return "bytes" if schema == "string" else schema
