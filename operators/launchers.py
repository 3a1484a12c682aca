"""Where workloads run: the launcher backend a delivery names, with this installation's folder and interpreters."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from operators.support import var_folder
from tidegate.launch import launcher as launcher_of_kind

if TYPE_CHECKING:
    from tidegate.launch import Launcher


def launcher(kind: str) -> Launcher:
    """Return the launcher of this kind.

    Raises:
        SpecError: no such launcher; nothing falls back to another one.
    """
    pythons = {"control": sys.executable}
    for name in ("train", "validate"):
        pythons[name] = os.environ.get(f"TIDEGATE_PYTHON_{name.upper()}", sys.executable)
    return launcher_of_kind(kind, var_folder() / "work", pythons)
