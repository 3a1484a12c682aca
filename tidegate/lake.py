"""Slices, datasets and bundles on any fsspec storage: written aside, published by one atomic manifest.

A key is complete or absent: readers look for `<key>/manifest.json` and nothing else. Files are written below
`<key>/<revision>/`, where the revision is the SHA-256 of what was written; the manifest, which names the revision, is
written last. Publishing the same bytes again changes nothing; other bytes become a new revision. Readers get the newest
one; those before it stay, each with its manifest at `<key>/revisions/<revision>.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec

from tidegate.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_CHUNK = 1 << 20
_REVISION = 16  # hexadecimal digits of a digest that name a revision's folder
_KEPT = re.compile(r"^[0-9a-f]{16}\.json$")
_PART = re.compile(r"\.[0-9a-f]{32}\.part$")  # a file on its way, see Lake._put


class Lake:
    """A folder of published artefacts at an fsspec URL, such as file:///var/lake or hdfs://host:port/lake."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        fs, root = fsspec.core.url_to_fs(self.url)
        self._fs: Any = fs
        self._root: str = root

    @property
    def is_local(self) -> bool:
        """Whether the lake is a folder of this machine."""
        return self.url.startswith("file://") or "://" not in self.url

    @contextmanager
    def publish(self, key: str, **fields: Any) -> Iterator[Draft]:
        """Give a local folder to write into; on leaving without an error, publish it under `key` with `fields`.

        `fields` and those set on the draft go into the manifest and must not hold the present time: two runs over the
        same input write the same manifest.
        """
        with tempfile.TemporaryDirectory(prefix="tidegate-draft-") as folder:
            draft = Draft(Path(folder), dict(fields))
            yield draft
            self._store(key, draft)

    def _store(self, key: str, draft: Draft) -> None:
        files = {}
        for path in sorted(p for p in draft.folder.rglob("*") if p.is_file()):
            files[path.relative_to(draft.folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        digest = digest_of(files)
        manifest = {**draft.fields, "key": key, "digest": digest, "files": files}
        text = json.dumps(manifest, sort_keys=True, indent=1, default=str).encode()
        folder = f"{self._root}/{key}/{digest[:_REVISION]}"
        for name, file in files.items():
            self._put(draft.folder / name, f"{folder}/{name}", file)
        self._keep_revision(key, digest)
        self._write(f"{self._root}/{key}", "manifest.json", text)

    def _keep_revision(self, key: str, digest: str) -> None:
        """Keep the manifest that is about to be replaced by one of other files."""
        past = self.manifest(key)
        if past is not None and past["digest"] != digest:
            text = json.dumps(past, sort_keys=True, indent=1).encode()
            self._write(f"{self._root}/{key}/revisions", f"{past['digest'][:_REVISION]}.json", text)

    def _write(self, folder: str, name: str, text: bytes) -> None:
        self._fs.makedirs(folder, exist_ok=True)
        aside = f"{folder}/.{name}-{uuid.uuid4().hex}"
        with self._fs.open(aside, "wb") as out:
            out.write(text)
        self._replace(aside, f"{folder}/{name}")

    def _put(self, local: Path, remote: str, file: Mapping[str, Any]) -> None:
        if self._holds(remote, file):
            return
        self._fs.makedirs(remote.rsplit("/", 1)[0], exist_ok=True)
        aside = f"{remote}.{uuid.uuid4().hex}.part"
        self._fs.put_file(str(local), aside)
        self._replace(aside, remote)

    def _holds(self, remote: str, file: Mapping[str, Any]) -> bool:
        """Whether a file is there, whole and unaltered: publishing again is the remedy for one that is not."""
        if not self._fs.exists(remote) or self._fs.size(remote) != file["bytes"]:
            return False
        with self._fs.open(remote, "rb") as stored:
            return _sha256_of(stored) == str(file["sha256"])

    def _replace(self, source: str, target: str) -> None:
        if self.is_local:
            os.replace(source, target)
        else:
            self._fs.mv(source, target)

    def manifest(self, key: str) -> dict[str, Any] | None:
        """Return a key's manifest, or None where nothing is published under it."""
        path = f"{self._root}/{key}/manifest.json"
        if not self._fs.exists(path):
            return None
        with self._fs.open(path, "rb") as file:
            found: dict[str, Any] = json.load(file)
        return found

    def require(self, key: str, revision: str | None = None) -> dict[str, Any]:
        """Return a key's newest manifest, or that of the revision whose digest begins with `revision`.

        Raises:
            DataError: nothing is published under the key, or no such revision, or several.
        """
        found = self.manifest(key)
        if found is None:
            raise DataError(f"nothing is published at {self.url}/{key}; run the stage that writes it, then this again")
        if revision is None or (len(revision) >= _REVISION and str(found["digest"]).startswith(revision)):
            return found
        every = self.revisions(key)
        fitting = [each for each in every if str(each["digest"]).startswith(revision)]
        if len(fitting) != 1:
            have = ", ".join(str(each["digest"])[:_REVISION] for each in every)
            raise DataError(f"{len(fitting)} revisions of {self.url}/{key} begin with {revision!r}; there are: {have}")
        return fitting[0]

    def revisions(self, key: str) -> list[dict[str, Any]]:
        """Return the manifests of all revisions of a key that are kept, the newest first, those before by digest."""
        newest = self.manifest(key)
        if newest is None:
            return []
        folder = f"{self._root}/{key}/revisions"
        kept = self._fs.find(folder) if self._fs.exists(folder) else []
        names = sorted(str(path).rpartition("/")[2] for path in kept)
        past = [json.loads(self._fs.cat_file(f"{folder}/{name}")) for name in names if _KEPT.match(name)]
        return [newest, *(each for each in past if each["digest"] != newest["digest"])]

    def path(self, key: str, name: str, revision: str | None = None) -> str:
        """Return the full storage path of one file of a published key: of its newest revision, or of the one named."""
        manifest = self.require(key, revision)
        if name not in manifest["files"]:
            have = ", ".join(sorted(manifest["files"]))
            raise DataError(f"{self.url}/{key} has no file {name!r}; it has: {have}")
        return f"{self._root}/{key}/{manifest['digest'][:_REVISION]}/{name}"

    def read(self, key: str, name: str) -> bytes:
        """Return the bytes of one file of a published key."""
        try:
            data: bytes = self._fs.cat_file(self.path(key, name))
        except FileNotFoundError as error:
            raise self._lost(key, name) from error
        return data

    def fetch(self, key: str, to: Path, names: list[str] | None = None, revision: str | None = None) -> Path:
        """Copy a published key's files (all, or those named) below the local folder `to`, and check their digests.

        Raises:
            DataError: a file differs from its manifest, or the storage has lost it.
        """
        files = self.require(key, revision)["files"]
        for name in names if names is not None else files:
            target = to / name
            target.parent.mkdir(parents=True, exist_ok=True)
            aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
            try:
                with self._fs.open(self.path(key, name, revision), "rb") as source, aside.open("wb") as out:
                    shutil.copyfileobj(source, out, _CHUNK)
            except FileNotFoundError as error:
                raise self._lost(key, name) from error
            if sha256(aside) != files[name]["sha256"]:
                aside.unlink()
                raise DataError(f"{self.url}/{key}/{name} differs from its manifest; publish it again")
            aside.replace(target)
        return to

    def _lost(self, key: str, name: str) -> DataError:
        return DataError(f"{self.url}/{key} lists {name}, but the storage has lost it; publish the key again")

    def unlisted(self, key: str) -> list[str]:
        """Return files that lie among a published key's own without being in its manifest, sorted.

        What an interrupted publication left (*.part) is not counted: nobody reads it.
        """
        manifest = self.require(key)
        below = f"{key}/{manifest['digest'][:_REVISION]}/"
        paths = self._fs.find(f"{self._root}/{below}") if self._fs.exists(f"{self._root}/{below}") else []
        names = {path.partition(below)[2] for path in paths}
        return sorted(name for name in names - set(manifest["files"]) if not _PART.search(name))

    def local(self, key: str, name: str, revision: str | None = None) -> Path:
        """Return a local path of one file: the file itself on local storage, else a checked copy in the cache."""
        digest = str(self.require(key, revision)["digest"])
        path = self.path(key, name, digest)
        if self.is_local:
            return Path(path)
        cache = Path(tempfile.gettempdir()) / "tidegate-lake" / digest[:_REVISION]
        if not (cache / name).exists():
            self.fetch(key, cache, [name], digest)
        return cache / name

    def keys(self, prefix: str) -> list[str]:
        """Return the published keys below a prefix, sorted."""
        start = f"{self._root}/{prefix}".rstrip("/")
        if not self._fs.exists(start):
            return []
        found = [p for p in self._fs.find(start) if p.endswith("/manifest.json")]
        return sorted(p[len(self._root) :].strip("/").removesuffix("/manifest.json") for p in found)

    def delete(self, key: str) -> None:
        """Withdraw a key: its manifest first, so that readers see it whole or not at all."""
        for path in (f"{self._root}/{key}/manifest.json", f"{self._root}/{key}"):
            if self._fs.exists(path):
                self._fs.rm(path, recursive=True)


class Draft:
    """A local folder being written, with the fields its manifest will carry."""

    def __init__(self, folder: Path, fields: dict[str, Any]):
        self.folder = folder
        self.fields = fields

    def file(self, name: str) -> Path:
        """Return the path to write a file at, its folder made."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def digest_of(files: Mapping[str, Any]) -> str:
    """Return the digest of a manifest's `files`, by which the whole key is known."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def difference(folder: Path, wanted: Mapping[str, str], ignored: re.Pattern[str] | None = None) -> str | None:
    """Return the first file below a folder that is missing, added or altered, or None.

    Args:
        folder: may be absent.
        wanted: SHA-256 by path below the folder, all that may be there.
        ignored: is found in the paths of files that may be there as well.
    """
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    found = {name for name in files if name in wanted or not (ignored and ignored.search(name))}
    for name in sorted(wanted.keys() | found):
        if name not in found or not (folder / name).is_file():
            return f"{name} is missing"
        if name not in wanted:
            return f"{name} was added"
        if sha256(folder / name) != wanted[name]:
            return f"{name} was altered"
    return None


def sha256(path: Path) -> str:
    """Return a file's SHA-256 as hexadecimal digits."""
    with path.open("rb") as file:
        return _sha256_of(file)


def _sha256_of(file: Any) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()
