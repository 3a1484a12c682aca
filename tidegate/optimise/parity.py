"""Whether an optimised model still says what the SavedModel says, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tidegate.errors import DataError, Permanent

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Parity:
    """The largest absolute difference of two predictions, and the row that has it."""

    rows: int
    max_difference: float
    worst_row: int


def compare(reference: NDArray[Any], optimised: NDArray[Any], tolerance: float) -> Parity:
    """Compare two predictions [n] of the same rows.

    Raises:
        DataError: there is no row to compare, or the two have not the same number.
        Permanent: a difference is over `tolerance`, or a prediction of either is not a number.
    """
    if reference.size == 0 or reference.shape != optimised.shape:
        raise DataError(f"{reference.size} predictions against {optimised.size}; parity needs as many, from 1 up")
    difference = np.abs(reference.astype(np.float64) - optimised.astype(np.float64))
    ranked = np.where(np.isnan(difference), np.inf, difference)
    worst = int(ranked.argmax())
    if not ranked[worst] <= tolerance:
        raise Permanent(
            f"the optimised model differs by {difference[worst]:.3g} at row {worst} of the compared rows "
            f"({reference[worst]:.6g} by the SavedModel, {optimised[worst]:.6g} optimised; limit {tolerance:g}); "
            "look at the model's numerics, or raise optimise.tolerance in the delivery"
        )
    return Parity(reference.size, float(difference[worst]), worst)


def spread(rows: int, at_most: int) -> NDArray[np.int64]:
    """Return at most `at_most` row numbers, evenly over `rows`, first and last among them."""
    return np.unique(np.linspace(0, rows - 1, min(rows, at_most)).astype(np.int64)) if rows else np.empty(0, np.int64)
