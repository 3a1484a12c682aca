"""A file as a stream of bytes, wherever it lies, unpacked on the way, that tells how far it has come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Packing = Literal["gzip", "zstd"]
CHUNK = 4 << 20
LONGEST = 16 << 20
"""Bytes of the longest record that is read; more would not fit the memory that a reader may use."""


@dataclass(frozen=True)
class Input:
    """A file to be read, local or not: `str()` of it names it in errors, `name` in the positions of its rows.

    Attributes:
        path: all of its path.
        name: what the positions of its rows begin with.
        size: its bytes.
        open: opens it anew as a binary stream that can be closed and tells its place; for Parquet it can be sought in.
    """

    path: str
    name: str
    size: int
    open: Callable[[], Any]

    @classmethod
    def local(cls, path: Path) -> Input:
        """Return a file of this machine.

        Raises:
            OSError: it is not there, or may not be read.
        """
        return cls(str(path), path.name, path.stat().st_size, lambda: pa.OSFile(str(path), "rb"))

    def __str__(self) -> str:
        return self.path


def chunks(file: Input, packed: Packing | None, progress: Callable[[int], None]) -> Iterator[bytes]:
    """Yield a file's bytes, unpacked, at most CHUNK at a time.

    Raises:
        OSError: the compressed stream is truncated or damaged.
    """
    with file.open() as raw:
        stream: Any = pa.CompressedInputStream(pa.PythonFile(raw, "r"), packed) if packed else raw
        told = 0
        while block := stream.read(CHUNK):
            yield block
            at = raw.tell()
            progress(at - told)
            told = at


class Exact:
    """Takes exact numbers of bytes from blocks, and knows where it is."""

    def __init__(self, blocks: Iterator[bytes]):
        self._blocks = blocks
        self._held, self._from = b"", 0
        self.at = 0
        """Bytes taken so far."""

    def ended(self) -> bool:
        """Whether nothing is left."""
        return not self._fill(1)

    def take(self, count: int) -> bytes:
        """Return the next bytes.

        Raises:
            EOFError: fewer are left; the message says where the stream ends.
        """
        if not self._fill(count):
            raise EOFError(f"it ends at byte {self.at + len(self._held) - self._from}, {count} are due at {self.at}")
        found = self._held[self._from : self._from + count]
        self._from += count
        self.at += count
        return found

    def skip(self, count: int, keep: int) -> bytes:
        """Pass over bytes of which only the first `keep` are held and returned.

        Raises:
            EOFError: fewer are left.
        """
        kept = self.take(min(count, keep))
        left = count - len(kept)
        while left:
            step = min(left, CHUNK)
            self.take(step)
            left -= step
        return kept

    def _fill(self, count: int) -> bool:
        held = len(self._held) - self._from
        if held >= count:
            return True
        parts = [self._held[self._from :]]
        while held < count and (block := next(self._blocks, b"")):
            parts.append(block)
            held += len(block)
        self._held, self._from = b"".join(parts), 0
        return held >= count
