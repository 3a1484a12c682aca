"""Publishes and validates a slice of generated rows, and prints the process' peak of resident memory, MiB."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from tests.peak import peak_mib
from tidegate.contract import Column, Contract
from tidegate.contract.arrow import slice_schema
from tidegate.handoff import Window
from tidegate.ingest.slices import Target, publish
from tidegate.lake import Lake
from tidegate.units import utc
from tidegate.validate import validate

RULES = Contract(
    "events",
    "1",
    (
        Column("id", "int64", "int64", key=1),
        Column("at", "timestamp", "timestamp", event_time=True),
        Column("amount", "float64", "float64", minimum=0.0),
        Column("text", "string", "string"),
        Column("count", "string", "int32", lexical_form=r"\d+"),
    ),
    "events.yaml",
    "0" * 64,
)
WINDOW = Window(start=utc("2013-01-01"), end=utc("2013-02-01"))
_BATCH = 50_000


class Generated:
    """So many rows of which each hundredth is not as the contract wants it."""

    def __init__(self, rows: int):
        self.count = rows

    def freeze(self) -> dict[str, Any]:
        return {"kind": "generated", "rows": self.count}

    def parts(self, position: dict[str, Any]) -> list[dict[str, Any]]:
        return [{}]

    def rows(self, position: dict[str, Any], part: dict[str, Any]) -> Iterator[Any]:
        for first in range(0, self.count, _BATCH):
            numbers = np.arange(first, min(first + _BATCH, self.count))
            texts = [f"row {number * 2654435761 % 2**32}" for number in numbers]
            columns = [
                pa.array(numbers),
                pa.array(
                    numbers % 2_000_000_000 + int(WINDOW.start.timestamp()) * 1_000_000, pa.timestamp("us", "UTC")
                ),
                pa.array(np.where(numbers % 100 == 7, -1.0, numbers * 0.5)),
                pa.array(texts),
                pa.array(texts).cast(pa.string()) if first == 0 else pa.array((numbers % 1000).astype(str)),
                pa.array(numbers.astype(str)),
                pa.nulls(len(numbers), pa.string()),
                pa.nulls(len(numbers), pa.binary()),
            ]
            yield pa.Table.from_arrays(columns, schema=slice_schema(RULES))


def main(folder: str, rows: int) -> None:
    """Print the peak in MiB, then rows, clean and quarantined."""
    lake = Lake(f"file://{folder}")
    found = publish(Target("d", "s", RULES, WINDOW, lake), Generated(rows))
    checked = validate(found, RULES, lake)
    print(peak_mib(), found.rows, checked.clean, checked.quarantined)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
