"""Folders that drafts are written into: each held by a lock, so that those of dead processes are known and removed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREFIX = "tidegate-draft-"
_LOCK = ".held"
_YOUNG = 60.0  # seconds that a folder may be without a lock: its maker is about to take it


@contextmanager
def draft_folder() -> Iterator[Path]:
    """Give an empty folder on the local disk ($TMPDIR), gone afterwards; remove what dead processes left there."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as made, (Path(made) / f"{_LOCK}.new").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.rename(lock.name, Path(made) / _LOCK)  # nobody ever sees it without its lock held
        _remove_abandoned(Path(made))
        files = Path(made) / "files"
        files.mkdir()
        yield files


def _remove_abandoned(own: Path) -> None:
    for folder in own.parent.glob(f"{_PREFIX}*"):
        if folder != own and not folder.is_symlink() and _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    with suppress(OSError):  # another user's, or just gone
        if folder.stat().st_uid != os.getuid():
            return False
        if not (folder / _LOCK).exists():
            return time.time() - folder.stat().st_mtime > _YOUNG
        with (folder / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False
