"""Makes slices of generated rows, or builds the dataset over them and prints its process' peak of resident memory, MiB.

`python -m tests.unit.dataset.memory make FOLDER ROWS`, then `python -m tests.unit.dataset.memory FOLDER [MEMORY]`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.peak import peak_mib
from tidegate import keys
from tidegate.contract import Column, Contract
from tidegate.contract.arrow import PARQUET, clean_schema
from tidegate.dataset import build
from tidegate.delivery import Delivery
from tidegate.handoff import Window
from tidegate.lake import Lake
from tidegate.units import utc

QUARTER = Window(start=utc("2013-01-01"), end=utc("2013-04-01"))
TRIPS = Contract(
    "trips",
    "1",
    (
        Column("moment", "timestamp", "timestamp", required=True, event_time=True),
        Column("id", "int64", "int64", key=1),
        Column("line", "string", "string", encoding="vocabulary"),
        Column("place", "string", "string", encoding="vocabulary"),
        Column("delay", "float64", "float64"),
        Column("load", "float64", "float64"),
        Column("late", "int32", "int32"),
    ),
    "trips.yaml",
    "0" * 64,
)
WEATHER = Contract(
    "weather",
    "1",
    (
        Column("hour", "timestamp", "timestamp", required=True, event_time=True),
        Column("place", "string", "string"),
        Column("temp", "float64", "float64"),
    ),
    "weather.yaml",
    "1" * 64,
)
CONTRACTS = {"trips": TRIPS, "weather": WEATHER}
SQL = """
SELECT t.moment, t.late, t.line, t.place, t.delay, t.load, w.temp, hour(t.moment) AS hour, isodow(t.moment) AS weekday
FROM trips t ASOF LEFT JOIN weather w ON w.place = t.place AND w.hour <= t.moment
"""
_BATCH = 1 << 17  # rows
_PLACES = 20_000


def delivery(**dataset: Any) -> Delivery:
    """Return a delivery over both sources; `dataset` replaces what it says of the dataset."""
    said = {"sql": "d.sql", "label": "late", "event_time": "moment", **dataset}
    sources = {
        name: {"contract": name, "postgres": {"connection": "c", "table": name, "time": clock}}
        for name, clock in (("trips", "moment"), ("weather", "hour"))
    }
    return Delivery.model_validate(
        {"delivery": "d", "folder": ".", "sources": sources, "dataset": said, "train": {"model": "m:f"}}
    )


def make(folder: str, rows: int) -> None:
    """Publish validated slices of three months with so many trips in all, in no order of time."""
    lake = Lake(f"file://{folder}/lake")
    for number, window in enumerate(keys.windows(QUARTER, "1 month")):
        drawn = np.random.default_rng(number)
        _publish(lake, "trips", window, TRIPS, (_trips(window, n, drawn) for n in _batches(rows // 3)))
        _publish(lake, "weather", window, WEATHER, iter([_weather(window, drawn)]))
    (Path(folder) / "d.sql").write_text(SQL, encoding="utf-8")


def _batches(rows: int) -> list[int]:
    return [min(_BATCH, rows - first) for first in range(0, rows, _BATCH)]


def _publish(lake: Lake, source: str, window: Window, contract: Contract, tables: Any) -> None:
    schema = clean_schema(contract)
    with (
        lake.publish(keys.validated("d", source, window)) as draft,
        pq.ParquetWriter(draft.file("clean.parquet"), schema, **PARQUET) as out,
    ):
        for columns in tables:
            out.write_table(pa.table({name: columns[name] for name in schema.names}, schema=schema))


def _moments(window: Window, micros: Any) -> Any:
    return pa.array(micros + int(window.start.timestamp()) * 1_000_000, pa.timestamp("us", "UTC"))


def _trips(window: Window, count: int, drawn: Any) -> dict[str, Any]:
    length = int((window.end - window.start).total_seconds()) * 1_000_000
    delay = drawn.normal(10.0, 15.0, count)
    return {
        "moment": _moments(window, drawn.integers(0, length, count)),
        "id": drawn.integers(0, 1 << 60, count),
        "line": np.char.add("line ", drawn.integers(0, 300, count).astype(str)),
        "place": np.char.add("place number ", drawn.integers(0, _PLACES, count).astype(str)),
        "delay": delay,
        "load": drawn.random(count),
        "late": (delay + drawn.normal(0.0, 20.0, count) > 15).astype(np.int32),
    }


def _weather(window: Window, drawn: Any) -> dict[str, Any]:
    days = int((window.end - window.start).days)
    place = np.repeat(np.arange(_PLACES), days)
    return {
        "hour": _moments(window, np.tile(np.arange(days) * 86_400_000_000, _PLACES)),
        "place": np.char.add("place number ", place.astype(str)),
        "temp": drawn.normal(50.0, 20.0, len(place)),
    }


def main(folder: str, memory: str | None = None) -> None:
    """Print the peak, training rows, held-out rows, cuts compared, the peak before, seconds of processor time."""
    lake = Lake(f"file://{folder}/lake")
    given = {"memory": memory} if memory else {}
    before = peak_mib()
    found = build(delivery(**given), QUARTER, lake, Path(folder), CONTRACTS)
    checks = lake.require(found.key)["checks"]
    compared = len(checks["causality"]["rows"])
    print(peak_mib(), found.train_rows, found.test_rows, compared, before, round(time.process_time()))


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(sys.argv[2], int(sys.argv[3]))
    else:
        main(*sys.argv[1:])
