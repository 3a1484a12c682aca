"""A source's schema and rules: an ODCS file becomes Arrow schemas, row masks and encodings.

Importing this package costs nothing: the file readers and Arrow load only where they are called, because the serving
process imports `tidegate.contract.encodings` with numpy alone.
"""

from __future__ import annotations

import os
from pathlib import Path

from tidegate.contract.model import Column, Contract

__all__ = ["Column", "Contract", "contracts_folder", "load_contract"]


def contracts_folder() -> Path:
    """Return the folder of contract files (TIDEGATE_CONTRACTS; default: schemas/contracts of the project)."""
    from tidegate.delivery import project_root

    return Path(os.environ.get("TIDEGATE_CONTRACTS", project_root() / "schemas" / "contracts"))


def load_contract(name: str, folder: Path | None = None) -> Contract:
    """Read the contract `<name>.yaml` from `folder` (default: schemas/contracts of the project).

    Raises:
        SpecProblems: the file has mistakes; each names file, line, field, value and remedy.
    """
    from tidegate.contract.odcs import read_contract

    return read_contract((folder or contracts_folder()) / f"{name}.yaml")
