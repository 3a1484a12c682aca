"""A file as a stream of bytes, unpacked on the way, that tells how far it has come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Packing = Literal["gzip", "zstd"]
CHUNK = 4 << 20
LONGEST = 16 << 20
"""Bytes of the longest record that is read; more would not fit the memory that a reader may use."""


def chunks(path: Path, packed: Packing | None, progress: Callable[[int], None]) -> Iterator[bytes]:
    """Yield a file's bytes, unpacked, at most CHUNK at a time.

    Raises:
        OSError: the compressed stream is truncated or damaged.
    """
    with pa.OSFile(str(path), "rb") as file:
        stream: Any = pa.CompressedInputStream(file, packed) if packed else file
        told = 0
        while block := stream.read(CHUNK):
            yield block
            at = file.tell()
            progress(at - told)
            told = at
