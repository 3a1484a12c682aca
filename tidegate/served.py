"""What a server keeps of what it answered: a sample chosen by content, one JSON object a line, in two bounded files.

A row is chosen by the hash of its own raw values, so every version that meets the same input keeps it or none does:
that pairs the answers of two versions without any id. A line has

    id          the request's id as KServe v2 has it; "" where the caller gave none
    digest      32 hexadecimal digits over names and raw values of the features, in the order of their names
    features    raw values by name; null for NaN, text for BYTES
    prediction  the probability that was answered; null for one that is no number
    at          Unix seconds by the server's clock

and lies in `<version's folder>/served/<process>.jsonl`, or `<process>.1.jsonl` once that was full: owner only, 4 MiB
each. Needs the standard library only, because the serving process imports it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import queue
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

FOLDER = "served"
"""Of a version's folder: what its processes keep."""
SHARE = "sample"
"""File of a version's folder: the share of rows that its processes keep, read when they start."""
OWN = "tidegate"
"""The id of requests that Tidegate itself sends, to try a server, to warm it up and to load it: they are not kept."""
SEGMENT_BYTES = 4 << 20
MOST_ROWS = 32
"""Rows of one request that are looked at, so that a batch of thousands does not pay for it."""
_WAITING = 1000  # rows that may wait for the disk; more are dropped
_AGAIN_S = 1.0  # after an error of the disk, so long nothing is written
_SCALE = 1 << 64
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """One row that was answered; see the head of the module."""

    id: str
    digest: str
    features: Mapping[str, Any]
    prediction: float
    """NaN where the answer was no number."""
    at: float

    def to_line(self) -> bytes:
        """Return it as one line of JSON."""
        prediction = self.prediction if math.isfinite(self.prediction) else None
        features = {name: _plain(value) for name, value in self.features.items()}
        body = {"id": self.id, "digest": self.digest, "features": features, "prediction": prediction, "at": self.at}
        return json.dumps(body, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Served:
        """Read what `to_line` wrote.

        Raises:
            ValueError: the line is none of these.
        """
        try:
            found = json.loads(line)
            prediction = math.nan if found["prediction"] is None else float(found["prediction"])
            return cls(str(found["id"]), str(found["digest"]), dict(found["features"]), prediction, float(found["at"]))
        except (TypeError, KeyError, OverflowError, RecursionError) as error:
            raise ValueError(f"no served row: {error!r}") from error


def digest(row: Mapping[str, Any]) -> bytes:
    """Return 16 bytes that stand for a row: equal for equal names and raw values, whoever computes them."""
    parts = []
    for name in sorted(row):
        value = row[name]
        raw = value if isinstance(value, bytes) else str(value).encode()
        parts.append(b"%d:%b%d:%b" % (len(name), name.encode(), len(raw), raw))
    return hashlib.blake2b(b"".join(parts), digest_size=16).digest()


def is_chosen(row_digest: bytes, share: float) -> bool:
    """Whether a row of this digest belongs to a sample of this share; one of a smaller share lies in every larger."""
    return int.from_bytes(row_digest[:8], "big") < share * _SCALE


def read_share(folder: Path) -> float:
    """Return the share that a version's folder asks for, in [0, 1]; 0 where it says nothing that can be read."""
    try:
        share = float((folder / SHARE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0.0
    return share if 0.0 <= share <= 1.0 else 0.0


class Sampler:
    """Keeps a sample of what one process serves; no error of it, and no slow disk, reaches a request.

    Rows are hashed by the caller (microseconds each) and written by a thread of its own.

    Args:
        folder: the version's folder.
        process: the process's name; a later one of the same name goes on with its files.
        share: of all rows, in (0, 1].
        segment_bytes: of one file, of which there are two.
        clock: Unix seconds.
    """

    def __init__(
        self,
        folder: Path,
        process: str,
        share: float,
        segment_bytes: int = SEGMENT_BYTES,
        clock: Callable[[], float] = time.time,
    ):
        self._share, self._clock = share, clock
        self._file = Segments(folder / FOLDER / f"{process}.jsonl", segment_bytes)
        self._waiting: queue.Queue[Served | None] = queue.Queue(_WAITING)
        self.dropped = 0
        self._thread = threading.Thread(target=self._write, name="tidegate-served", daemon=True)
        self._thread.start()

    def see(self, request_id: str, columns: Mapping[str, NDArray[Any]], predictions: NDArray[Any]) -> None:
        """Keep the chosen rows of one answered request, unless it was Tidegate's own; never raises, never waits.

        Args:
            request_id: "" where there is none.
            columns: raw values [n, 1] by feature.
            predictions: [n, 1].
        """
        if request_id == OWN:
            return
        try:
            lists = {name: values[:MOST_ROWS].reshape(-1).tolist() for name, values in columns.items()}
            answers: Sequence[float] = predictions[:MOST_ROWS].reshape(-1).tolist()
            for place, prediction in enumerate(answers):
                row = {name: values[place] for name, values in lists.items()}
                found = digest(row)
                if is_chosen(found, self._share):
                    self._waiting.put_nowait(Served(request_id, found.hex(), row, prediction, self._clock()))
        except Exception:  # the edge of a request that has its answer already: a lost sample is only counted
            self.dropped += 1

    def close(self) -> None:
        """Write what waits, then end; a disk that does not answer is waited for a second at most."""
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(timeout=1.0)

    def _write(self) -> None:
        while (served := self._waiting.get()) is not None:
            if not self._file.append(served.to_line()):
                self.dropped += 1


class Segments:
    """A file that is appended to until it is full, and the one before it; whole lines only, errors swallowed."""

    def __init__(self, path: Path, limit: int, clock: Callable[[], float] = time.monotonic):
        self._path, self._limit, self._clock = path, limit, clock
        self._file: int | None = None
        self._size = 0
        self._not_before = -math.inf

    def append(self, line: bytes) -> bool:
        """Write a line; return whether it was. After an error nothing is tried for a second."""
        if self._clock() < self._not_before:
            return False
        try:
            file = self._open(len(line))
            written = os.write(file, line)
            if written < len(line):
                os.ftruncate(file, self._size)
                raise OSError(f"{written} of {len(line)} bytes")
            self._size += written
        except OSError as error:
            _log.warning("%s: a served row is not kept: %s", self._path, error)
            self._close()
            self._not_before = self._clock() + _AGAIN_S
            return False
        return True

    def _open(self, more: int) -> int:
        if self._file is not None and self._size + more > self._limit:
            self._close()
            os.replace(self._path, self._path.with_suffix(".1.jsonl"))
        if self._file is None:
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._size = _whole(self._file)
        return self._file

    def _close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
        self._file = None


def _whole(file: int) -> int:
    """Cut off a line that a dead process left half written; return the file's size."""
    size = os.fstat(file).st_size
    tail = os.pread(file, 65536, max(size - 65536, 0))
    if tail and not tail.endswith(b"\n"):
        size -= len(tail) - (tail.rfind(b"\n") + 1)
        os.ftruncate(file, size)
    return size


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return None if isinstance(value, float) and not math.isfinite(value) else value
