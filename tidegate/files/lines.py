"""Reads JSON lines: one object a line; a line that is none is kept as its bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tidegate.contract.batch import decode_many
from tidegate.errors import DataError
from tidegate.files import sliced
from tidegate.files.streams import LONGEST, chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tidegate.contract import Contract
    from tidegate.files.streams import Input, Packing

_ROWS = 10_000
_BYTES = 8 << 20
_KEPT = 1 << 16  # bytes of a line too long to be read that quarantine keeps


def read(path: Input, packed: Packing | None, contract: Contract, progress: Callable[[int], None]) -> Iterator[Any]:
    """Yield the rows of one file of JSON lines; empty lines are no rows."""
    batch = _Batch(path.name, contract)
    read_bytes = 0
    for number, line, whole in _lines(chunks(path, packed, progress)):
        read_bytes += len(line)
        text = line.strip()
        if not text:
            continue
        batch.add(number, text.removeprefix(b"\xef\xbb\xbf") if number == 1 else text, whole)
        if len(batch.numbers) >= _ROWS or batch.held >= _BYTES:
            yield batch.table()
            batch = _Batch(path.name, contract)
    if not read_bytes:
        raise DataError(f"{path} holds nothing once it is unpacked; its writer was cut off, or remove it")
    yield batch.table()


class _Batch:
    """Lines that are decoded together."""

    def __init__(self, name: str, contract: Contract):
        self._name, self._contract = name, contract
        self.numbers: list[int] = []
        self._texts: list[bytes] = []
        self._long: dict[int, tuple[str, bytes]] = {}
        self.held = 0

    def add(self, number: int, text: bytes, whole: bool) -> None:
        """Take a line; of one that is not whole only the start is kept."""
        if not whole:
            self._long[len(self.numbers)] = (f"longer_than_{LONGEST >> 20}_MiB", text[:_KEPT])
        self._texts.append(text)
        self.numbers.append(number)
        self.held += len(text)

    def table(self) -> Any:
        """Return the lines as rows."""
        places = sliced.places(f"{self._name}:", np.array(self.numbers, np.int64))
        return decode_many(self._texts, places, self._contract, self._long)


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
