"""Reads files from HDFS: the list is frozen first, with sizes, times and checksums, and each file is read as frozen.

Files of a path that names the window are its rows; those of another path are reference data, read whole for each.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from tidegate.delivery.paths import paths
from tidegate.errors import Conflict, DataError, Retryable
from tidegate.files import form_of, read_file
from tidegate.files.streams import Input
from tidegate.ingest.ahead import in_order
from tidegate.ingest.hdfs_client import SHA256, BeingWritten, File, Flowing, Hdfs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate.contract import Contract
    from tidegate.delivery import HdfsSource
    from tidegate.handoff import Window
    from tidegate.lake import Lake

TIMEOUT = 30.0
PART = 2 << 30
"""Bytes of the files that one part reads: a minute's work or more."""
_UNFINISHED = (".tmp", "._copying_", ".inprogress", ".in-progress", ".partial", ".part", ".crc")
_OPEN_FOR = 86_400.0  # seconds in which a file that ends with a block is taken for one that grows
log = logging.getLogger(__name__)


def reading(
    *,
    delivery: str,
    source: str,
    spec: HdfsSource,
    contract: Contract,
    window: Window,
    host: str,
    port: int,
    lake: Lake,
    timeout: float = TIMEOUT,
    webhdfs: str | None = None,
) -> Files:
    """Return how all rows of the files below a path are read, in the order of their names.

    The source's position is the list of files, and of those left out; a row's position is `path:line` (CSV, JSON lines)
    or `path#row`. `timeout` holds for each call to the NameNode and each read, seconds; `webhdfs` is the address of the
    NameNode's HTTP server, `http://host:9870`: without it files are read twice, to know their checksums first.

    Raises, when it is frozen or read:
        Unavailable: the NameNode or a DataNode does not answer in time.
        Retryable: a path of the window has no file yet. Conflict: a file changed while it was read.
        DataError: no such path, no right to read it, no data file in it, or a file that cannot be read by the contract.
    """
    return Files(spec, contract, window, host, port, timeout, webhdfs)


@dataclass(frozen=True)
class Files:
    """The files of one window: see `tidegate.ingest.slices.Reading`."""

    spec: HdfsSource
    contract: Contract
    window: Window
    host: str
    port: int
    timeout: float
    webhdfs: str | None

    def _hdfs(self) -> Hdfs:
        return Hdfs(self.host, self.port, self.timeout, self.webhdfs)

    def freeze(self) -> dict[str, Any]:
        """Return the files that are whole, with checksums, and those left out, each with the reason."""
        hdfs = self._hdfs()
        patterns = paths(self.spec.path, self.window.start, self.window.end)
        listed = {each.path: (each, pattern) for pattern in patterns for each in hdfs.find(pattern)}
        with ThreadPoolExecutor(self.spec.connections) as pool:
            looked = pool.map(partial(_frozen, hdfs), *zip(*(listed[path] for path in sorted(listed)), strict=True))
        files, left = [], []
        for path, found in zip(sorted(listed), looked, strict=True):
            if isinstance(found, str):
                left.append({"path": path, "reason": found})
                log.info("hdfs://%s%s is left out: %s", hdfs.address, path, found)
            else:
                files.append(found)
        held = {listed[file["path"]][1] for file in files}
        empty = [pattern for pattern in patterns if pattern not in held]
        if empty and not (self.spec.is_windowed and self.spec.missing == "skip"):
            raise self._nothing(hdfs, empty, left)
        return {
            "kind": "hdfs", "windowed": self.spec.is_windowed, "paths": patterns, "files": files, "left_out": left,
            "empty": empty,
        }  # fmt: skip

    def _nothing(self, hdfs: Hdfs, empty: list[str], left: list[dict[str, str]]) -> Exception:
        shown = ", ".join(f"hdfs://{hdfs.address}{path}" for path in empty[:3])
        shown += f" and {len(empty) - 3} more" if len(empty) > 3 else ""
        if left:
            shown += f" (left out: {left[0]['path']}, because {left[0]['reason']})"
        if self.spec.is_windowed:
            return Retryable(
                f"{shown}: no data file is there, of {self.window}; this is tried again. Where a path without "
                "files means that there are no rows, write `missing: skip` into the source"
            )
        if not any(letter in empty[0] for letter in "*?[") and not hdfs.exists(empty[0]):
            return DataError(f"HDFS at {hdfs.address} has no path {empty[0]}; create it, or mend the source's path")
        return DataError(f"{shown}: no data file is there; put one there, or mend the source's path")

    def parts(self, position: dict[str, Any]) -> list[dict[str, Any]]:
        """Return runs of files, in their order, of some PART bytes each."""
        runs, held = [{"first": 0, "end": 0}], 0
        for number, file in enumerate(position["files"]):
            if held and held + file["size"] > PART:
                runs.append({"first": number, "end": number})
                held = 0
            held += file["size"]
            runs[-1]["end"] = number + 1
        return runs

    def rows(self, position: dict[str, Any], part: dict[str, Any]) -> Iterator[Any]:
        """Yield the rows of the part's files, `connections` of which are read at once."""
        hdfs = self._hdfs()
        files = position["files"][part["first"] : part["end"]]
        return in_order([partial(_rows, hdfs, each, self.contract) for each in files], self.spec.connections)


def _left_out(file: File, pattern: str) -> str | None:
    """Say why a listed file is no data, or not yet; None where it is."""
    fixed = pattern.split("*")[0].split("?")[0].split("[")[0].rstrip("/")
    below = PurePosixPath(file.path.removeprefix(fixed if file.path.startswith(f"{fixed}/") else ""))
    if any(part.startswith((".", "_")) for part in below.parts if part != "/"):
        return "its name, or a folder's, begins with . or _"
    if file.path.lower().endswith(_UNFINISHED):
        return "its name says that it is being written"
    try:
        form_of(PurePosixPath(file.path))
    except DataError:
        return "its name says no format"
    return "it is empty: 0 bytes" if file.size == 0 else None


def _frozen(hdfs: Hdfs, file: File, pattern: str) -> dict[str, Any] | str:
    """Return a file as the position has it, or why it is left out."""
    if why := _left_out(file, pattern):
        return why
    try:
        if hdfs.webhdfs is None and _may_grow(hdfs, file):
            return "it may be open: its last block cannot be read yet, or was filled within a day"
        checksum = hdfs.checksum(file.path)
    except BeingWritten:
        return "it is open for writing"
    return {"path": file.path, "size": file.size, "modified": file.modified, "checksum": checksum}


def _may_grow(hdfs: Hdfs, file: File) -> bool:
    """Whether a file looks as one that is being written does to those who cannot ask WebHDFS.

    Of such a file fewer bytes can be read than are listed, or whole blocks alone.
    """
    if hdfs.readable(file.path) != file.size:
        return True
    is_recent = time.time() - file.modified / 1000 < _OPEN_FOR
    return is_recent and file.block > 0 and file.size % file.block == 0


def _rows(hdfs: Hdfs, file: dict[str, Any], contract: Contract) -> Iterator[Any]:
    """Yield one file's rows, and see that they are of the file as it was frozen."""
    _same(hdfs, file, None)
    flows: list[Flowing] = []
    is_sought = form_of(PurePosixPath(file["path"]))[0] == ".parquet"

    def flow() -> Flowing:
        flows.append(Flowing(hdfs.chunks(file["path"])))
        return flows[-1]

    opened = Input(file["path"], file["path"], file["size"], partial(hdfs.sought, file["path"]) if is_sought else flow)
    try:
        yield from read_file(opened, contract)
    except DataError:
        _same(hdfs, file, {})
        raise
    digest = flows[-1].sha256 if flows else None
    _same(hdfs, file, {"algorithm": SHA256, "value": digest} if digest else {})


def _same(hdfs: Hdfs, file: dict[str, Any], seen: dict[str, str] | None) -> None:
    """Compare a file with what was frozen: size and time and, unless `seen` is None, the checksum, `seen` or asked for.

    Raises:
        Conflict: it is another one now.
    """
    now = hdfs.stat(file["path"])
    what = None
    if (now.size, now.modified) != (file["size"], file["modified"]):
        what = f"{now.size} bytes of {now.modified} now, {file['size']} of {file['modified']} when the list was made"
    elif seen is not None:
        frozen = file["checksum"]
        try:
            asked = seen if seen.get("algorithm") == frozen["algorithm"] else hdfs.checksum(file["path"])
        except BeingWritten:
            asked = {"value": "it is open for writing"}
        if asked["value"] != frozen["value"]:
            what = f"checksum {asked['value']} now, {frozen['value']} when the list was made"
    if what:
        raise Conflict(
            f"hdfs://{hdfs.address}{file['path']} changed while it was read: {what}; write new files beside the old "
            "ones. The window is to be read again: where several tasks read it, clear its `ingest` task"
        )
