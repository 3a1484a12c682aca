"""Reads JSON lines: one object a line; a line that is none is kept as its bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tidegate.contract.arrow import BYTES, ERROR, POSITION, slice_schema
from tidegate.contract.decode import decode_json
from tidegate.errors import DataError
from tidegate.files.streams import LONGEST, chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tidegate.contract import Contract
    from tidegate.files.streams import Packing

_ROWS = 10_000
_BYTES = 8 << 20
_KEPT = 1 << 16  # bytes of a line too long to be read that quarantine keeps


def read(path: Path, packed: Packing | None, contract: Contract, progress: Callable[[int], None]) -> Iterator[Any]:
    """Yield the rows of one file of JSON lines; empty lines are no rows."""
    schema = slice_schema(contract)
    rows: list[dict[str, Any]] = []
    held = read_bytes = 0
    for number, line, whole in _lines(chunks(path, packed, progress)):
        read_bytes += len(line)
        text = line.strip()
        if not text:
            continue
        place = f"{path.name}:{number}"
        if whole:
            rows.append(decode_json(text.removeprefix(b"\xef\xbb\xbf") if number == 1 else text, place, contract))
        else:
            rows.append({POSITION: place, ERROR: f"undecodable:longer_than_{LONGEST >> 20}_MiB", BYTES: text[:_KEPT]})
        held += len(line)
        if len(rows) >= _ROWS or held >= _BYTES:
            yield pa.Table.from_pylist(rows, schema=schema)
            rows, held = [], 0
    if not read_bytes:
        raise DataError(f"{path} holds nothing once it is unpacked; its writer was cut off, or remove it")
    yield pa.Table.from_pylist(rows, schema=schema)


def _lines(blocks: Iterator[bytes]) -> Iterator[tuple[int, bytes, bool]]:
    """Yield line numbers from 1, lines, and whether each is whole: of one that is too long only the start is kept."""
    number, left, whole = 1, b"", True
    for block in blocks:
        first, *rest = block.split(b"\n")
        if whole:
            left += first
        if len(left) > LONGEST:
            left, whole = left[:_KEPT], False
        if not rest:
            continue
        yield number, left, whole
        for line in rest[:-1]:
            number += 1
            yield number, line, True
        number, left, whole = number + 1, rest[-1], True
    if left:
        yield number, left, whole
