"""Slices, datasets and bundles on any fsspec storage: written aside, published by one atomic manifest.

A key is complete or absent: readers look for `<key>/manifest.json` and nothing else. Files are written below
`<key>/<revision>/`, where the revision is the SHA-256 of what was written; the manifest, which names the revision, is
written last. Publishing the same bytes again changes nothing; other bytes become a new revision. Readers get the newest
one; those before it stay, each with its manifest at `<key>/revisions/<revision>.json`. A manifest may list files of
other keys, where they were published: so large things are put together without being copied.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate.errors import DataError
from tidegate.lake.drafts import draft_folder
from tidegate.lake.manifests import difference, digest_of, parsed, sha256, text_of
from tidegate.lake.storage import ASIDE, Storage, room

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Draft", "Lake", "difference", "digest_of", "sha256"]

_DAY = 86_400.0  # seconds after which a file on its way was left by a dead publisher
_REVISION = 16  # hexadecimal digits of a digest that name a revision's folder
_KEPT = re.compile(r"^[0-9a-f]{16}\.json$")
_ASIDE = re.compile(ASIDE)


class Lake:
    """A folder of published artefacts at a URL, such as file:///var/lake, hdfs://host:port/lake or s3://bucket/lake.

    Storage that does not answer, is full or refuses, and a key or link that leads out of the lake, are the named errors
    of `tidegate.lake.storage.Storage`.
    """

    def __init__(self, url: str):
        self._storage = Storage(url)
        self.url = self._storage.url

    @property
    def is_local(self) -> bool:
        """Whether the lake is a folder of this machine."""
        return self._storage.is_local

    @contextmanager
    def publish(self, key: str, **fields: Any) -> Iterator[Draft]:
        """Give a local folder to write into; on leaving without an error, publish it under `key` with `fields`.

        `fields` and those set on the draft go into the manifest and must not hold the present time: two runs over the
        same input write the same manifest.

        Raises:
            NoSpace: the local disk, or the storage, is full; nothing is published.
        """
        self._storage.path(key)
        with draft_folder() as folder:
            draft = Draft(folder, dict(fields))
            with room(draft.folder, f"a draft of {self.url}/{key}"):
                yield draft
            self._store(key, draft)

    def _store(self, key: str, draft: Draft) -> None:
        written = {}
        for path in sorted(p for p in draft.folder.rglob("*") if p.is_file()):
            written[path.relative_to(draft.folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        files = {**written, **self._referred(draft)}
        digest = digest_of(files)
        past = self._past(key)
        if past is not None and past["digest"] == digest and _same(past, draft) and self._has_all(key, past):
            return
        for name, file in written.items():
            self._put(draft.folder / name, f"{key}/{digest[:_REVISION]}/{name}", file)
        if past is not None and past["digest"] != digest:
            self._keep(key, past)
        manifest = {**draft.fields, **draft.about, "key": key, "digest": digest, "files": files}
        self._storage.write(f"{key}/manifest.json", text_of(manifest))
        self._keep(key, manifest)  # another publisher may have replaced it already
        self._storage.sweep(key, time.time() - _DAY)

    def _referred(self, draft: Draft) -> dict[str, Any]:
        """Return the files of other keys that a draft lists, each looked at once more."""
        for name, file in draft.listed.items():
            if not self._holds(file["at"], file):
                raise DataError(f"{self.url}/{file['at']} ({name}) is gone or was altered; publish it again, then this")
        return draft.listed

    def _past(self, key: str) -> dict[str, Any] | None:
        try:
            return self.manifest(key)
        except DataError:
            return None  # what is no manifest is replaced by one

    def _has_all(self, key: str, manifest: Mapping[str, Any]) -> bool:
        """Whether each file is there, whole and unaltered: publishing again is the remedy for one that is not."""
        return all(self._holds(_place(key, manifest, name), file) for name, file in manifest["files"].items())

    def _keep(self, key: str, manifest: Mapping[str, Any]) -> None:
        self._storage.write(f"{key}/revisions/{str(manifest['digest'])[:_REVISION]}.json", text_of(manifest))

    def _put(self, local: Path, below: str, file: Mapping[str, Any]) -> None:
        if not self._holds(below, file):
            self._storage.put(local, below)

    def _holds(self, below: str, file: Mapping[str, Any]) -> bool:
        try:
            return bool(
                self._storage.exists(below)
                and self._storage.size(below) == file["bytes"]
                and self._storage.digest(below) == file["sha256"]
            )
        except FileNotFoundError:
            return False

    def manifest(self, key: str) -> dict[str, Any] | None:
        """Return a key's manifest, or None where nothing is published under it.

        Raises:
            DataError: what lies there is truncated, no manifest, or was altered.
        """
        path = f"{key}/manifest.json"
        try:
            return parsed(self._storage.read(path), f"{self.url}/{path}")
        except FileNotFoundError:
            return None

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
        kept = [path for path in self._storage.find(f"{key}/revisions") if _KEPT.match(path.rpartition("/")[2])]
        past = [parsed(self._storage.read(path), f"{self.url}/{path}") for path in kept]
        return [newest, *(each for each in past if each["digest"] != newest["digest"])]

    def path(self, key: str, name: str, revision: str | None = None) -> str:
        """Return the full storage path of one file of a published key: of its newest revision, or of the one named."""
        return self._storage.path(self._place(key, name, self.require(key, revision)))

    def _place(self, key: str, name: str, manifest: Mapping[str, Any]) -> str:
        if name not in manifest["files"]:
            have = ", ".join(sorted(manifest["files"]))
            raise DataError(f"{self.url}/{key} has no file {name!r}; it has: {have}")
        return _place(key, manifest, name)

    def is_whole(self, key: str) -> bool:
        """Whether a key is published and each of its files is there, unaltered."""
        found = self._past(key)
        return found is not None and self._has_all(key, found)

    def read(self, key: str, name: str, revision: str | None = None) -> bytes:
        """Return the bytes of one file of a published key."""
        try:
            return self._storage.read(self._place(key, name, self.require(key, revision)))
        except FileNotFoundError as error:
            raise self._lost(key, name) from error

    def fetch(self, key: str, to: Path, names: list[str] | None = None, revision: str | None = None) -> Path:
        """Copy a published key's files (all, or those named) below the local folder `to`, and check their digests.

        Raises:
            DataError: a file differs from its manifest, or the storage has lost it.
            NoSpace: the local disk is full.
        """
        manifest = self.require(key, revision)
        for name in names if names is not None else manifest["files"]:
            place = self._place(key, name, manifest)
            target = to / name
            target.parent.mkdir(parents=True, exist_ok=True)
            aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
            try:
                self._storage.get(place, aside)
                if sha256(aside) != manifest["files"][name]["sha256"]:
                    raise self._altered(key, name)
                aside.replace(target)
            except FileNotFoundError as error:
                raise self._lost(key, name) from error
            finally:
                aside.unlink(missing_ok=True)
        return to

    def _lost(self, key: str, name: str) -> DataError:
        return DataError(f"{self.url}/{key} lists {name}, but the storage has lost it; publish the key again")

    def _altered(self, key: str, name: str) -> DataError:
        return DataError(f"{self.url}/{key}/{name} differs from its manifest; publish it again")

    def unlisted(self, key: str) -> list[str]:
        """Return files that lie among a published key's own without being in its manifest, sorted.

        What an interrupted publication left (*.part) is not counted: nobody reads it.
        """
        manifest = self.require(key)
        below = f"{key}/{manifest['digest'][:_REVISION]}"
        names = {path.removeprefix(f"{below}/") for path in self._storage.find(below)}
        return sorted(name for name in names - set(manifest["files"]) if not _ASIDE.search(name))

    def local(self, key: str, name: str, revision: str | None = None) -> Path:
        """Return a local path of one file, checked: the file itself on local storage, else a copy in the cache.

        Raises:
            DataError: the file differs from its manifest, or the storage has lost it.
        """
        manifest = self.require(key, revision)
        digest = str(manifest["digest"])
        if self.is_local:
            place = self._place(key, name, manifest)
            try:
                if self._storage.digest(place) != manifest["files"][name]["sha256"]:
                    raise self._altered(key, name)
            except FileNotFoundError as error:
                raise self._lost(key, name) from error
            return Path(self._storage.path(place))
        cache = Path(tempfile.gettempdir()) / "tidegate-lake" / digest[:_REVISION]
        file = manifest["files"].get(name, {})
        if not (cache / name).exists() or sha256(cache / name) != file.get("sha256"):
            self.fetch(key, cache, [name], digest)
        return cache / name

    @contextmanager
    def at_hand(self, key: str, name: str, revision: str | None = None) -> Iterator[Path]:
        """Give a local path of one file, checked, for as long as it is needed: a copy is not kept, as `local` does.

        Raises:
            DataError, NoSpace: as `fetch`.
        """
        if self.is_local:
            yield self.local(key, name, revision)
            return
        with draft_folder() as folder:
            yield self.fetch(key, folder, [name], revision) / name

    def keys(self, prefix: str) -> list[str]:
        """Return the published keys below a prefix, sorted."""
        end = "/manifest.json"
        return [path.removesuffix(end) for path in self._storage.find(prefix) if path.endswith(end)]

    def delete(self, key: str) -> None:
        """Withdraw a key: its manifest first, so that readers see it whole or not at all."""
        self._storage.remove(f"{key}/manifest.json")
        self._storage.remove(key)


class Draft:
    """A local folder being written, with the fields its manifest will carry."""

    def __init__(self, folder: Path, fields: dict[str, Any]):
        self.folder = folder
        self.fields = fields
        self.about: dict[str, Any] = {}
        """Fields that tell how the files came about: where all else is as published, they alone change no manifest."""
        self.listed: dict[str, Any] = {}

    def file(self, name: str) -> Path:
        """Return the path to write a file at, its folder made."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def list(self, name: str, manifest: Mapping[str, Any], of: str) -> None:
        """List the file `of` of another key as `name`, where it was published; it is not copied."""
        file = manifest["files"][of]
        self.listed[name] = {**file, "at": _place(manifest["key"], manifest, of)}


def _place(key: str, manifest: Mapping[str, Any], name: str) -> str:
    """Return the path below the lake of a file that a key's manifest lists."""
    file = manifest["files"][name]
    return str(file.get("at") or f"{key}/{manifest['digest'][:_REVISION]}/{name}")


def _same(past: Mapping[str, Any], draft: Draft) -> bool:
    """Whether a manifest says what a draft's fields say."""
    own = {"key", "digest", "files", "seal", *draft.about}
    said = json.loads(json.dumps(draft.fields, default=str))
    return bool(said == {name: value for name, value in past.items() if name not in own})
