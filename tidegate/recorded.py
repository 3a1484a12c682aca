"""Recorded answers: real rows as callers send them, with what the trained model said to each; a server is held to them.

Written beside the artefact by the optimise stage, kept in the bundle as probe.json, asked again of every server before
it may have traffic. Needs the standard library alone.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tidegate.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PROBE = "probe.json"
ROUNDING = 1e-6
"""Allowed beyond the tolerance: about eight units in the last place of a float32 probability near 1."""
_FORMAT = 1


@dataclass(frozen=True)
class RecordedAnswers:
    """Held-out rows with their recorded probabilities; all sequences are of one length, at least one row."""

    rows: tuple[int, ...]
    """Row numbers in the dataset's test.parquet."""
    columns: Mapping[str, tuple[Any, ...]]
    """Raw values by feature, before any encoding; None is a missing value."""
    probabilities: tuple[float, ...]
    """What the SavedModel gave each row."""
    tolerance: float
    """The delivery's optimise.tolerance: the largest absolute difference allowed."""

    @property
    def limit(self) -> float:
        """The largest absolute difference that passes: the tolerance and the rounding of a float32 on the wire."""
        return self.tolerance + ROUNDING

    def to_json(self) -> str:
        """Return the answers as JSON text; equal answers give equal text."""
        body = {
            "format": _FORMAT,
            "tolerance": self.tolerance,
            "rows": self.rows,
            "columns": dict(self.columns),
            "probability": self.probabilities,
        }
        return json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> RecordedAnswers:
        """Read what `to_json` wrote.

        Raises:
            DataError: it is of another format, holds no row, or its parts are not of one length.
        """
        try:
            found = json.loads(text)
            if found["format"] != _FORMAT:
                raise DataError(f"{PROBE} has format {found['format']!r}, not {_FORMAT}; register the model again")
            columns = {str(name): tuple(values) for name, values in found["columns"].items()}
            made = cls(tuple(found["rows"]), columns, tuple(found["probability"]), float(found["tolerance"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{PROBE} holds no recorded answers ({error!r}); register the model again") from error
        lengths = {len(values) for values in (made.rows, made.probabilities, *columns.values())}
        if len(lengths) != 1 or not made.rows:
            raise DataError(
                f"{PROBE} has columns of {sorted(lengths)} rows, not of one length; register the model again"
            )
        return made

    def compare(self, server: str, answered: Sequence[float]) -> float:
        """Return the largest absolute difference between a server's answers and the recorded ones.

        Raises:
            DataError: an answer is missing, is no number or is over the limit; names row, wanted, got and limit.
        """
        if len(answered) != len(self.rows):
            raise DataError(f"{server} gave {len(answered)} answers to {len(self.rows)} recorded rows; see its log")
        largest = 0.0
        for row, wanted, got in zip(self.rows, self.probabilities, answered, strict=True):
            difference = abs(got - wanted)
            if math.isnan(difference) or difference > self.limit:
                raise DataError(
                    f"{server} answered recorded row {row} with {got:.7g}, the trained model said {wanted:.7g}: they "
                    f"differ by {difference:.3g}, limit {self.limit:.3g}; compare the serving lock and the encodings "
                    "with those of training, or raise optimise.tolerance and register the model again"
                )
            largest = max(largest, difference)
        return largest
