"""HDFS as reading needs it: each call ends within a time-out, and fails with an error of ours that says what to do."""

from __future__ import annotations

import getpass
import hashlib
import io
import os
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import httpx

from tidegate.errors import Conflict, DataError, Unavailable
from tidegate.files.streams import CHUNK
from tidegate.ingest.ahead import Ahead
from tidegate.ingest.edge import away, probe, within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")
_AHEAD = 2  # chunks of a file that wait to be read
SHA256 = "SHA-256"


@dataclass(frozen=True)
class File:
    """One file as HDFS lists it: path, bytes, modification time (milliseconds since 1970), bytes of a block."""

    path: str
    size: int
    modified: int
    block: int = 0


class BeingWritten(Exception):
    """A file is open for writing."""


class Hdfs:
    """One NameNode and, where its address is known, its WebHDFS (`http://host:9870`), which alone tells checksums.

    `timeout` holds for each call, seconds. Every method may raise Unavailable, and DataError where HDFS refuses.
    """

    def __init__(self, host: str, port: int, timeout: float, webhdfs: str | None = None):
        self.address, self.timeout = f"{host}:{port}", timeout
        self.webhdfs = webhdfs.rstrip("/") if webhdfs else None
        probe("HDFS", host, port, min(timeout, 5.0))
        is_plain = not (self.webhdfs or "").startswith("https:")
        context: Any = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if is_plain else True  # it takes 0.1 s to load all roots
        self._http = httpx.Client(timeout=timeout, follow_redirects=True, verify=context)
        self._client: Any = self.call(lambda: _client(f"hdfs://{self.address}"))

    def call(self, ask: Callable[[], T], path: str = "/") -> T:
        """Return what a call of hdfs-native returns, in time."""
        try:
            return within(self.timeout, ask, lambda: self.silent("no answer"))
        except (OSError, RuntimeError) as error:
            raise self.told(error, path) from error

    def silent(self, why: object) -> Unavailable:
        """Return the error of a service that does not answer."""
        return away("HDFS", self.address, self.timeout, why)

    def told(self, error: BaseException, path: str) -> Exception:
        """Return an error of hdfs-native in our words: a remote one is a RuntimeError, a lost connection an OSError."""
        said = (str(error).strip().splitlines() or [type(error).__name__])[0].split("\\n")[0]
        where = f"hdfs://{self.address}{path}"
        if isinstance(error, FileNotFoundError):
            return Conflict(f"{where} is not there, although it was a moment ago; this is tried again")
        if "AccessControlException" in said or "Permission denied" in said:
            return DataError(
                f"{where} may not be read: {said}; grant the right to {_user()}, or mend the source's path"
            )
        return self.silent(said)

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder."""

        def ask() -> bool:
            try:
                self._client.get_file_info(path)
            except FileNotFoundError:
                return False
            return True

        return self.call(ask, path)

    def find(self, pattern: str) -> list[File]:
        """Return all files that a pattern names and all below the folders that it names, sorted by path."""

        def ask() -> list[File]:
            found: dict[str, File] = {}
            for status in self._client.glob_status(pattern):
                below = self._client.list_status(status.path, True) if status.isdir else [status]
                found |= {each.path: _file(each) for each in below if not each.isdir}
            return [found[path] for path in sorted(found)]

        return self.call(ask, pattern)

    def stat(self, path: str) -> File:
        """Return what HDFS says of a file now; Conflict where it is gone."""
        return self.call(lambda: _file(self._client.get_file_info(path)), path)

    def readable(self, path: str) -> int:
        """Return how many bytes a reader of the file gets; of one that is being written, fewer than are listed."""
        return self.call(lambda: len(self._client.read(path)), path)

    def checksum(self, path: str) -> dict[str, str]:
        """Return a file's checksum: HDFS' own where WebHDFS is known, else the SHA-256 of its bytes, all read.

        Raises:
            BeingWritten: the file is open.
        """
        if self.webhdfs is None:
            digest = hashlib.sha256()
            for chunk in self.chunks(path):
                digest.update(chunk)
            return {"algorithm": SHA256, "value": digest.hexdigest()}
        found = self._ask_webhdfs(path, "GETFILECHECKSUM")["FileChecksum"]
        return {"algorithm": str(found["algorithm"]), "value": str(found["bytes"])}

    def _ask_webhdfs(self, path: str, operation: str) -> Any:
        url = f"{self.webhdfs}/webhdfs/v1{quote(path)}"
        try:
            answer = self._http.get(url, params={"op": operation, "user.name": _user()})
            found = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(
                f"WebHDFS at {url} gave no answer: {error!r} (time-out {self.timeout:g} s); start it, or take "
                "`webhdfs` out of the connection: files are then read twice, to know their checksums"
            ) from error
        if answer.is_success:
            return found
        said = str(found.get("RemoteException", {}).get("message", found)).splitlines()[0]
        if "under construction" in said:
            raise BeingWritten(path)
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise self.told(FileNotFoundError(path), path)
        raise self.told(RuntimeError(said), path)

    def chunks(self, path: str) -> Ahead[bytes]:
        """Give a file's bytes in their order, while the next ones are read already."""

        def read() -> Iterator[bytes]:
            try:
                reader = self._client.read(path)
                while chunk := reader.read(CHUNK):
                    yield chunk
            except (OSError, RuntimeError) as error:
                raise self.told(error, path) from error

        return Ahead(read, _AHEAD, self.timeout, lambda: self.silent("no answer"))

    def sought(self, path: str) -> Sought:
        """Open a file to be read here and there."""
        return Sought(self, path, self.call(lambda: self._client.read(path), path))


class Flowing(io.RawIOBase):
    """A file read from its start to its end, its digest taken on the way."""

    def __init__(self, chunks: Ahead[bytes]):
        self._chunks = chunks
        self._left = memoryview(b"")
        self._at = 0
        self._sha256 = hashlib.sha256()
        self._is_whole = False

    @property
    def sha256(self) -> str | None:
        """The digest of all bytes; None where the end was not reached."""
        return self._sha256.hexdigest() if self._is_whole else None

    def readable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Return how many bytes were read."""
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes, of what has come; at the end none."""
        if not self._left:
            chunk = next(self._chunks, b"")
            self._sha256.update(chunk)
            self._is_whole = not chunk
            self._left = memoryview(chunk)
        found = bytes(self._left[:size] if size >= 0 else self._left)
        self._left = self._left[len(found) :]
        self._at += len(found)
        return found

    def close(self) -> None:
        """Leave the rest unread."""
        self._chunks.close()
        super().close()


class Sought(io.RawIOBase):
    """A file read wherever its reader seeks; each call in time."""

    def __init__(self, hdfs: Hdfs, path: str, reader: Any):
        self._hdfs, self._path, self._reader = hdfs, path, reader
        self._size = len(reader)
        self._at = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Return the place."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, from the start, from here, or from the end."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Return `size` bytes, or all up to the end."""
        left = max(0, self._size - self._at)
        count = left if size < 0 else min(size, left)
        found: bytes = self._hdfs.call(lambda: self._reader.read_range(self._at, count), self._path) if count else b""
        self._at += len(found)
        return found


def _client(url: str) -> Any:
    from hdfs_native import Client

    return Client(url)


def _file(status: Any) -> File:
    return File(str(status.path), int(status.length), int(status.modification_time), int(status.blocksize or 0))


def _user() -> str:
    return os.environ.get("HADOOP_USER_NAME") or getpass.getuser()
