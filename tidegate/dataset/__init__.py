"""The training table: the delivery's SQL over validated slices, held to see no future, split by time, encodings frozen.

`build` makes and publishes it; `select` runs the same SQL over tables in memory; `checked` is what can be said of the
SQL without any rows.
"""

from __future__ import annotations

from tidegate.dataset.encode import chosen_encodings
from tidegate.dataset.query import checked, read_select, select
from tidegate.dataset.table import build

__all__ = ["build", "checked", "chosen_encodings", "read_select", "select"]
