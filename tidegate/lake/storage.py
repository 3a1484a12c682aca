"""Whole files below one fsspec URL: each is replaced at once, and none lies outside of the folder."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import fsspec

from tidegate.errors import DataError, NoSpace, SpecError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ASIDE = r"\.[0-9a-f]{32}\.part$"
"""How the name of a file on its way ends; nobody reads it."""

_ASIDE = re.compile(ASIDE)
_CHUNK = 1 << 20
# time for a NameNode to restart; by default the client asks for three minutes before it says that nobody answers
_HDFS = {"dfs.client.failover.max.attempts": "8", "dfs.client.failover.sleep.max.millis": "3000"}
_FOLDERS = ("file", "local", "hdfs")  # a file is renamed over another at once
_OBJECTS = ("s3", "s3a", "memory", "gs", "gcs", "abfs", "az")  # no rename, but a file appears at its end, whole
_FULL = ("no space left on device", "disk quota exceeded", "quotaexceeded")
_REFUSALS = (
    "access_denied", "access denied", "invalid_access_key", "signature_does_not_match", "no_such_bucket",
    "permission denied", "accesscontrolexception",
)  # fmt: skip


class Storage:
    """The files below a URL such as file:///var/lake, hdfs://host:port/lake or s3://bucket/lake; paths are below it.

    Credentials come from the environment (S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or the others that AWS' own
    programs know; AWS_ENDPOINT_URL for another server than Amazon's), never from the URL.

    Raises:
        SpecError: the URL is of no kind that can publish a file at once, or it holds credentials.
        Unavailable: the storage does not answer (each method may raise it).
        NoSpace: it is full. DataError: it refuses, or the path leads out of the lake's folder.
    """

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        parts = urlsplit(self.url)
        self.kind = parts.scheme or "file"
        if parts.password is not None or (self.kind in ("s3", "s3a") and (parts.username or parts.query)):
            shown = f"{self.kind}://...@{(parts.hostname or '')}{parts.path}"
            raise SpecError(f"the lake's URL {shown} holds credentials; put them into the environment (AWS_...)")
        if self.kind not in (*_FOLDERS, *_OBJECTS):
            known = ", ".join((*_FOLDERS, *_OBJECTS))
            raise SpecError(
                f"a lake cannot be kept at {self.kind}://, where no file is replaced at once; known: {known}"
            )
        self._fs, self._root = _s3(self.url) if self.kind in ("s3", "s3a") else _fsspec(self.url)
        self.is_local = self.kind in ("file", "local")

    def path(self, below: str) -> str:
        """Return the full path of what lies below the URL.

        Raises:
            DataError: it would lie outside, by `..` or, on local storage, by a symbolic link.
        """
        parts = below.split("/")
        if ".." in parts or "\\" in below or "\0" in below or below.startswith("/"):
            raise DataError(f"{below!r} leads out of the lake {self.url}; keys and names are relative, without '..'")
        full = f"{self._root}/{below}".rstrip("/")
        if self.is_local:
            root, real = os.path.realpath(self._root), os.path.realpath(full)
            if real != root and not real.startswith(f"{root}/"):
                raise DataError(
                    f"{full} leads out of the lake {self.url} by a symbolic link, to {real}; remove the link, or move "
                    "what it points to into the lake"
                )
        return full

    def exists(self, below: str) -> bool:
        """Whether a file or folder is there."""
        with self._told(below) as full:
            return bool(self._fs.exists(full))

    def size(self, below: str) -> int:
        """Return a file's bytes."""
        with self._told(below) as full:
            return int(self._fs.size(full))

    def read(self, below: str) -> bytes:
        """Return a file's content.

        Raises:
            FileNotFoundError: it is not there.
        """
        with self._told(below) as full:
            data: bytes = self._fs.cat_file(full)
            return data

    def digest(self, below: str) -> str:
        """Return the SHA-256 of a file's bytes.

        Raises:
            FileNotFoundError: it is not there.
        """
        with self._told(below) as full, self._fs.open(full, "rb") as stored:
            return sha256_of(stored)

    def get(self, below: str, to: Path) -> None:
        """Copy a file to a local path.

        Raises:
            FileNotFoundError: it is not there.
            NoSpace: the local disk is full.
        """
        with self._told(below) as full, self._fs.open(full, "rb") as source, to.open("wb") as out:
            while chunk := source.read(_CHUNK):
                with room(to.parent, str(to), self._fs.size(full)):
                    out.write(chunk)

    def find(self, below: str) -> list[str]:
        """Return the paths of all files below a folder, sorted; none where it is absent."""
        with self._told(below) as full:
            found = self._fs.find(full) if self._fs.exists(full) else []
            start = self._root.rstrip("/") + "/"
            return sorted(str(path).partition(start)[2] for path in found)

    def remove(self, below: str) -> None:
        """Remove a file, or a folder with all below it; what is absent stays so."""
        with self._told(below) as full:
            if self._fs.exists(full):
                self._fs.rm(full, recursive=True)

    def sweep(self, below: str, before: float) -> None:
        """Remove the files below a folder that were on their way at a Unix time, and never came to be."""
        if self.kind in _OBJECTS:
            return
        for path in self.find(below):
            if _ASIDE.search(path):
                with suppress(FileNotFoundError), self._told(path) as full:
                    if self._fs.modified(full).timestamp() < before:
                        self._fs.rm(full)

    def write(self, below: str, content: bytes) -> None:
        """Make or replace a small file, at once."""

        def fill(path: str) -> None:
            with self._fs.open(path, "wb") as out:
                out.write(content)

        self._place(below, len(content), fill)

    def put(self, local: Path, below: str) -> None:
        """Make or replace a file by a copy of a local one, at once."""

        def fill(path: str) -> None:
            with local.open("rb") as source, self._fs.open(path, "wb") as out:
                shutil.copyfileobj(source, out, _CHUNK)

        self._place(below, local.stat().st_size, fill)

    def _place(self, below: str, size: int, fill: Callable[[str], None]) -> None:
        """Write aside and rename, or, where nothing can be renamed, write what appears only at its end."""
        with self._told(below, size) as full:
            if self.kind in _OBJECTS:
                fill(full)
                return
            self._fs.makedirs(full.rpartition("/")[0], exist_ok=True)
            aside = f"{full}.{uuid.uuid4().hex}.part"
            try:
                fill(aside)
                self._rename(aside, full)
            except Exception:
                self._forget(aside)
                raise

    def _rename(self, source: str, target: str) -> None:
        if self.is_local:
            os.replace(source, target)
        else:
            self._fs.mv(source, target, overwrite=True)

    def _forget(self, path: str) -> None:
        try:
            self._fs.rm(path)
        except (OSError, RuntimeError):
            return  # it is not there, or the storage that failed fails still; its name says that it is of no use

    @contextmanager
    def _told(self, below: str, size: int = 0) -> Iterator[str]:
        """Give the full path, and tell this storage's errors in our own words; FileNotFoundError stays itself."""
        full = self.path(below)
        try:
            yield full
        except (OSError, RuntimeError) as error:
            if isinstance(error, FileNotFoundError) and "no_such_bucket" not in str(error).lower():
                raise
            if is_full(error):
                free = (
                    f"{shutil.disk_usage(self._root).free:,} bytes are free" if self.is_local else "the storage is full"
                )
                raise _no_space(f"{self.url}/{below}", size, free) from error
            said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            if any(refusal in said.lower() for refusal in _REFUSALS):
                raise DataError(
                    f"{self.url}/{below}: the storage refuses: {said}; grant the right, or mend it"
                ) from error
            raise Unavailable(f"{self.url}/{below}: the storage did not do it: {said}; this is tried again") from error


@contextmanager
def room(folder: Path, path: str, size: int = 0) -> Iterator[None]:
    """Tell a full local disk in our own words: what is written where, how much it needs, how much is free.

    Raises:
        NoSpace: the disk of `folder`, or a quota on it, has no room left.
    """
    try:
        yield
    except Exception as error:
        if is_full(error):
            raise _no_space(path, size, f"{shutil.disk_usage(folder).free:,} bytes are free at {folder}") from error
        raise


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk or a quota has no room left."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(words in str(error).lower() for words in _FULL)


def _no_space(path: str, size: int, free: str) -> NoSpace:
    need = f"{size:,} bytes are needed" if size else "more is needed"
    return NoSpace(f"no room for {path}: {need}, {free}; make room, then this is tried again")


def sha256_of(file: Any) -> str:
    """Return the SHA-256 of what is left to read of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _fsspec(url: str) -> tuple[Any, str]:
    fs, root = fsspec.core.url_to_fs(url, **(_HDFS if url.startswith("hdfs://") else {}))
    return fs, str(root)


def _s3(url: str) -> tuple[Any, str]:
    """Return Arrow's S3 client, which every environment has, as an fsspec file system."""
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow import fs

    known, connect = os.environ.get, cast("Any", fs.S3FileSystem)  # its type information is older than it is
    client = connect(
        endpoint_override=known("AWS_ENDPOINT_URL_S3") or known("AWS_ENDPOINT_URL"),
        region=known("AWS_REGION") or known("AWS_DEFAULT_REGION") or "us-east-1",
        allow_delayed_open=True,  # what fits into one part, such as a manifest, is one PUT
    )
    return ArrowFSWrapper(client, skip_instance_cache=True), url.partition("://")[2]
