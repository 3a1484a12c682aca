"""What a manifest says, how it is known to be whole, and the digests behind it; without storage."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

from tidegate.errors import DataError
from tidegate.lake.storage import sha256_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_SEAL = "seal"


def digest_of(files: Mapping[str, Any]) -> str:
    """Return the digest of a manifest's `files`, by which the whole key is known, wherever the files lie."""
    plain = {name: {said: value for said, value in file.items() if said != "at"} for name, file in files.items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def text_of(manifest: Mapping[str, Any]) -> bytes:
    """Return a manifest as it is stored, with the seal by which an alteration is seen."""
    plain = json.loads(json.dumps({name: value for name, value in manifest.items() if name != _SEAL}, default=str))
    return json.dumps({**plain, _SEAL: _seal(plain)}, sort_keys=True, indent=1).encode()


def parsed(text: bytes, where: str) -> dict[str, Any]:
    """Return a stored manifest.

    Raises:
        DataError: it is truncated, no manifest, or was altered.
    """
    try:
        found = json.loads(text)
        if not isinstance(found["files"], dict) or digest_of(found["files"]) != found["digest"]:
            raise ValueError("its digest is not that of its files")
        if _SEAL in found and found[_SEAL] != _seal({name: value for name, value in found.items() if name != _SEAL}):
            raise ValueError("what it says was altered")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{where} is no manifest as it was published ({type(error).__name__}: {error}; {len(text)} bytes); no file "
            "below is used. Remove it, and run the stage that writes it again; the revisions before stay"
        ) from error
    return dict(found)


def _seal(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


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
        return sha256_of(file)
