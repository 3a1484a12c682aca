"""One version's files where Triton reads them: in place complete or not at all, and checked again at every deploy."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tidegate import bundle as bundles
from tidegate.errors import DataError
from tidegate.lake import difference, digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tidegate.clients.model_server import Endpoint
    from tidegate.handoff import Bundle
    from tidegate.lake import Lake

_MANIFEST = "manifest.json"
_COMPILED = re.compile(r"/__pycache__/model\.[^/]*\.pyc$")  # Triton's Python leaves it beside the model.py we write


class Installation:
    """A version's folder: its bundle's manifest, endpoint.json, and in `repository/` the bundle's files for Triton."""

    def __init__(self, home: Path, bundle: Bundle):
        self._home = home
        self._bundle = bundle

    def serving_lock(self, lake: Lake) -> bytes:
        """Return the lock that the bundle serves with: from here where it is whole, else from the lake.

        Raises:
            DataError: the bundle is incomplete or altered.
        """
        name = bundles.SERVING_LOCK
        with suppress(OSError):
            here = (self._version(self._home) / name).read_bytes()
            if hashlib.sha256(here).hexdigest() == self._files().get(name, {}).get("sha256"):
                return here
        manifest = bundles.check(lake, self._bundle)
        text = lake.read(self._bundle.key, name)
        if hashlib.sha256(text).hexdigest() != manifest["files"][name]["sha256"]:
            raise DataError(f"{lake.url}/{self._bundle.key}/{name} differs from its manifest; register the model again")
        return text

    def problem(self, generated: Mapping[str, str]) -> str | None:
        """Return in what the files here differ from the bundle's manifest and from `generated`, or None.

        `generated` are the texts that are written beside the bundle's files, by path below the repository.
        """
        files = self._files()
        if not files:
            return f"{_MANIFEST} is not that of bundle {self._bundle.digest[:16]}"
        return self._difference(self._home, files, generated)

    def write(self, lake: Lake, generated: Mapping[str, str], endpoint: Endpoint, stop: Callable[[], None]) -> None:
        """Copy the bundle here, check every digest, then put it in the place of what was here.

        Args:
            lake: where the bundle is.
            generated: see `problem`.
            endpoint: written down as endpoint.json.
            stop: ends the server that uses the present files, if any; called once the new ones are whole.

        Raises:
            DataError: the bundle is incomplete or altered; what was here stays, and its server is not stopped.
        """
        manifest = bundles.check(lake, self._bundle)
        aside = self._home.with_name(f".{self._home.name}.{uuid.uuid4().hex}")
        try:
            lake.fetch(self._bundle.key, self._version(aside))
            for name, text in generated.items():
                (aside / "repository" / name).write_text(text, encoding="utf-8")
            wrong = self._difference(aside, manifest["files"], generated)
            if wrong is not None:
                raise DataError(f"bundle {self._bundle.key} was published anew while it was copied: {wrong}; try again")
            (aside / _MANIFEST).write_text(json.dumps(manifest, sort_keys=True, indent=1), encoding="utf-8")
            (aside / "endpoint.json").write_text(endpoint.to_json(), encoding="utf-8")
            if self._home.exists():
                stop()
                shutil.rmtree(self._home)
            aside.rename(self._home)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def read(self, name: str) -> bytes:
        """Return one of the bundle's files.

        Raises:
            DataError: it is gone: the version was retired meanwhile.
        """
        try:
            return (self._version(self._home) / name).read_bytes()
        except FileNotFoundError as error:
            raise DataError(f"{self._bundle.name} was retired while it was deployed; deploy it again") from error

    def _version(self, home: Path) -> Path:
        return home / "repository" / self._bundle.delivery / str(self._bundle.version)

    def _files(self) -> dict[str, Any]:
        """Return the bundle's files by the manifest here; none if there is none, or it is not this bundle's."""
        try:
            files: dict[str, Any] = json.loads((self._home / _MANIFEST).read_bytes())["files"]
        except (OSError, ValueError, KeyError):
            return {}
        return files if digest_of(files) == self._bundle.digest else {}

    def _difference(self, home: Path, files: Mapping[str, Any], generated: Mapping[str, str]) -> str | None:
        below = f"{self._bundle.delivery}/{self._bundle.version}"
        wanted = {f"{below}/{name}": str(file["sha256"]) for name, file in files.items()}
        wanted |= {name: hashlib.sha256(text.encode()).hexdigest() for name, text in generated.items()}
        return difference(home / "repository", wanted, _COMPILED)
