"""Serving environments by their lock: the installed one, and one for each other lock, built when first asked for.

An environment holds a copy of the lock it was made from, requirements.txt in its folder. In those built here it is
written last: a folder with it is complete, one without it is left over from a build that died, and is built anew.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

from tidegate.errors import DataError, Permanent, Retryable, SetupError, Unavailable
from tidegate.localfiles import locked

if TYPE_CHECKING:
    from pathlib import Path

LOCK = "requirements.txt"
_STEP_S = 900.0  # seconds for one step of uv; a download of all packages is some 300 MB
_TAIL = 1500  # characters of uv's words worth showing
_WRONG = re.compile(r"hash mismatch|no solution found|must have a hash", re.IGNORECASE)
_AWAY = re.compile(
    r"error sending request|failed to (fetch|connect)|dns error|timed? ?out|connection (refused|reset)|"
    r"\b(429|50[0234])\b",
    re.IGNORECASE,
)
_FULL = re.compile(r"no space left|disk quota", re.IGNORECASE)
_log = logging.getLogger(__name__)


class Environments:
    """Finds or builds the environment that a serving lock describes.

    Args:
        python: interpreter of the installed serving environment, which new ones take their Python from.
        folder: keeps the environments built here, each named by the first 16 digits of its lock's SHA-256.
        project: the project's folder: holds .tools/bin/uv, and is itself installed into each environment.
    """

    def __init__(self, python: Path, folder: Path, project: Path):
        self._python = python
        self._folder = folder
        self._project = project

    def python_for(self, lock: bytes) -> Path:
        """Return the interpreter of the environment of this lock, building it first where there is none.

        Raises:
            SetupError: the environment must be built and there is no uv.
            DataError: the lock cannot be installed: a hash differs, a package is not to be had.
            Unavailable: a package index did not answer, or a step took over 15 minutes.
            Retryable: the disk is full.
        """
        if _made_from(self._python.parent.parent, lock):
            return self._python
        home = self._folder / hashlib.sha256(lock).hexdigest()[:16]
        if not _made_from(home, lock):
            with locked(self._folder / ".lock"):
                if not _made_from(home, lock):  # nobody built it meanwhile
                    self._build(home, lock)
        return home / "bin" / "python"

    def _build(self, home: Path, lock: bytes) -> None:
        uv = find_uv(self._project)
        begun = time.monotonic()
        _log.info("building the serving environment %s: its lock differs from that of %s", home, self._python)
        shutil.rmtree(home, ignore_errors=True)
        wanted, python = home / f"{LOCK}.part", str(home / "bin" / "python")
        install = ("pip", "install", "-q", "--python", python)
        try:
            self._run(uv, "venv", "-q", "-p", str(self._python), str(home))
            wanted.write_bytes(lock)
            self._run(uv, *install, "--require-hashes", "-r", str(wanted))
            self._run(uv, *install, "--no-deps", "-e", str(self._project))
            os.replace(wanted, home / LOCK)
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise
        _log.info("built the serving environment %s in %.1f s", home, time.monotonic() - begun)

    def _run(self, uv: Path, *arguments: str) -> None:
        begun = time.monotonic()
        try:
            done = subprocess.run([str(uv), *arguments], capture_output=True, text=True, timeout=_STEP_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"uv {' '.join(arguments)} did not end within {_STEP_S:g} s; try again") from error
        except OSError as error:
            raise SetupError(f"{uv} does not run ({error}). Remedy: make envs") from error
        if done.returncode != 0:
            raise _failure(" ".join(arguments), done.returncode, done.stderr)
        _log.info("uv %s: %.1f s", arguments[0], time.monotonic() - begun)


def find_uv(project: Path) -> Path:
    """Return the project's own uv, .tools/bin/uv, else the one on PATH.

    Raises:
        SetupError: there is neither.
    """
    own = project / ".tools" / "bin" / "uv"
    found = own if own.exists() else shutil.which("uv")
    if found is None:
        raise SetupError(
            f"a bundle's serving lock differs from that of the serving environment, and there is no uv at {own} nor on "
            "PATH to build another. Remedy: make envs, or install uv"
        )
    return own if own.exists() else own.__class__(found)


def _made_from(environment: Path, lock: bytes) -> bool:
    try:
        return (environment / LOCK).read_bytes() == lock
    except (FileNotFoundError, NotADirectoryError):
        return False


def _failure(command: str, code: int, said: str) -> Permanent | Retryable:
    words = f"uv {command} ended with {code}:\n{said.strip()[-_TAIL:]}\n"
    if _FULL.search(said):
        return Retryable(f"{words}free some space, then try again")
    if _AWAY.search(said) and not _WRONG.search(said):
        return Unavailable(f"{words}the package index did not answer; try again")
    return DataError(f"{words}the lock cannot be installed here; register the model again under the present lock")
