"""Checks what the embedded stack needs from the machine before anything is started."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate.errors import SetupError

if TYPE_CHECKING:
    from tidegate.stack.config import Paths

_JAVA = range(17, 22)  # HDFS 3.4 fails on newer ones; Kafka 4 needs 17
_DISK_GIB = 3.0  # logs, Kafka's and HDFS's data, models of a demo
_INSTALL = "apt-get install openjdk-17-jre-headless maven"


def check(paths: Paths, *, jars_cached: bool) -> None:
    """Refuse to start on a machine that lacks something.

    Args:
        paths: this installation's folders.
        jars_cached: whether Maven has nothing left to fetch.

    Raises:
        SetupError: names what is missing, the value found, the limit and the one command that mends it.
    """
    java()
    if not jars_cached and not shutil.which("mvn"):
        raise SetupError(f"Maven (mvn) is not on PATH; it fetches Kafka and HDFS once. Remedy: {_INSTALL}")
    if not paths.python_serve.exists():
        raise SetupError(f"the serving environment is missing: no {paths.python_serve}. Remedy: make envs")
    check_disk(paths.var)


def check_disk(folder: Path, need_gib: float = _DISK_GIB) -> None:
    """Refuse a disk with less than `need_gib` GiB free."""
    free = shutil.disk_usage(folder).free / 2**30
    if free < need_gib:
        raise SetupError(
            f"{free:.1f} GiB free on the disk of {folder}, the stack needs {need_gib:g} GiB. "
            "Remedy: free some space, or keep the state on another disk: export TIDEGATE_VAR=..."
        )


def java() -> Path:
    """The Java that runs Kafka and HDFS: $JAVA_HOME/bin/java, else the one on PATH.

    Raises:
        SetupError: there is none, or its version is not proven.
    """
    home = os.environ.get("JAVA_HOME")
    found = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if not found or not Path(found).exists():
        raise SetupError(f"Java 17 is missing: no {found or 'java on PATH'}. Remedy: {_INSTALL}")
    told = subprocess.run((found, "-version"), capture_output=True, text=True, timeout=30, check=False)
    match = re.search(r'version "(\d+)', told.stderr + told.stdout)
    if not match or int(match.group(1)) not in _JAVA:
        version = match.group(1) if match else "unknown"
        raise SetupError(
            f"{found} is Java {version}; Kafka and HDFS need {_JAVA.start} to {_JAVA.stop - 1}. "
            f"Remedy: {_INSTALL}, then export JAVA_HOME to it"
        )
    return Path(found)
