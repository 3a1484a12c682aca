"""Which code this is: the package's version and, where it runs from a repository, the commit."""

from __future__ import annotations

import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


@lru_cache(maxsize=1)
def code_version() -> str:
    """Return 0.1.0+1a2b3c4d5e6f, with -dirty where files differ from the commit; 0.1.0 where there is no repository."""
    try:
        released = version("tidegate")
    except PackageNotFoundError:
        released = "unknown"
    commit = _commit()
    return f"{released}+{commit}" if commit else released


def _commit() -> str:
    if not (_ROOT / ".git").exists():
        return ""
    command = ("git", "-C", str(_ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
