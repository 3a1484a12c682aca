"""A source's schema and rules: an ODCS file becomes Arrow schemas, row masks and encodings.

Importing this package costs nothing: the file readers and Arrow load only where they are called, because the serving
process imports `tidegate.contract.encodings` with numpy alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegate.contract.model import Column, Contract

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Column", "Contract", "load_contract"]


def load_contract(name: str, folder: Path | None = None) -> Contract:
    """Read the contract `<name>.yaml` from `folder` (default: schemas/contracts of the project).

    Raises:
        SpecProblems: the file has mistakes; each names file, line, field, value and remedy.
    """
    from tidegate.contract.odcs import contracts_folder, read_contract

    return read_contract((folder or contracts_folder()) / f"{name}.yaml")
