"""Reads on in the files in which a version's processes keep what they served, over their changes of segment."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from tidegate.served import FOLDER, Served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

_MOST_BYTES = 1 << 20  # of one file at one look


class Tail:
    """All that one version's processes keep.

    Args:
        home: the version's folder, which may not hold any sample yet.
    """

    def __init__(self, home: Path):
        self._folder = home / FOLDER
        self._files: dict[Path, _Follower] = {}
        self.bad = 0
        """Lines that were no sample."""

    def past(self) -> Iterator[Served]:
        """Yield what is in the files by now, the older segments first; `new` yields what comes after."""
        for path in sorted(self._folder.glob("*.jsonl"), key=lambda path: (not path.name.endswith(".1.jsonl"), path)):
            with suppress(FileNotFoundError):
                follower = _Follower(path)
                while lines := follower.lines():
                    yield from self._samples(lines)
                if path.name.endswith(".1.jsonl"):
                    follower.close()
                else:
                    self._files[path] = follower

    def new(self) -> Iterator[Served]:
        """Yield what was added since the last time, a mebibyte of each file at most."""
        for path, follower in list(self._files.items()):
            if follower.is_left(path):
                while lines := follower.lines():
                    yield from self._samples(lines)
                follower.close()
                del self._files[path]
        for path in self._folder.glob("*.jsonl"):
            if not path.name.endswith(".1.jsonl") and path not in self._files:
                with suppress(FileNotFoundError):
                    self._files[path] = _Follower(path)
        for follower in self._files.values():
            yield from self._samples(follower.lines())

    def close(self) -> None:
        """Close all files."""
        for follower in self._files.values():
            follower.close()
        self._files.clear()

    def _samples(self, lines: list[bytes]) -> Iterator[Served]:
        for line in lines:
            try:
                yield Served.from_line(line)
            except ValueError:
                self.bad += 1


class _Follower:
    """One open file, read line by line; a line without its end is left for later."""

    def __init__(self, path: Path):
        self._file: BinaryIO = path.open("rb")

    def lines(self) -> list[bytes]:
        """Return the next whole lines."""
        at = self._file.tell()
        chunk = self._file.read(_MOST_BYTES)
        whole = chunk[: chunk.rfind(b"\n") + 1]
        self._file.seek(at + len(whole))
        return whole.splitlines()

    def is_left(self, path: Path) -> bool:
        """Whether the path leads to another file by now, or to none."""
        with suppress(FileNotFoundError):
            return not os.path.samestat(os.fstat(self._file.fileno()), path.stat())
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()
