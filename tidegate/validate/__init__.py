"""Rows in, clean rows and quarantined rows out: nothing nonconforming goes on, and nothing is dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidegate.contract import Contract
    from tidegate.handoff import Slice, ValidatedSlice
    from tidegate.lake import Lake

__all__ = ["validate"]


def validate(slice: Slice, contract: Contract, lake: Lake) -> ValidatedSlice:
    """Publish a slice's clean rows and its quarantined rows, each of these with its reasons and source position.

    The same slice under the same contract is validated once; a later contract, or a slice read anew, makes a new
    revision.

    Raises:
        DataError: the slice is not published, or its columns are not the contract's.
    """
    from tidegate.validate.rows import validate_slice

    return validate_slice(slice, contract, lake)
