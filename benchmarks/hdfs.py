"""How fast files on HDFS become a published slice: beside raw reading of their bytes, and the plain way by hand.

`python -m benchmarks.hdfs [--quick] [--profile]` starts a NameNode and a DataNode of its own, prints a table, writes
var/bench/hdfs.png, and ends with a JSON object. All read the same files, in turns, each at its best of several runs.
Raw reading takes the bytes and looks at none: hdfs-native by 16 MiB, and WebHDFS by httpx. A slice is more: its files'
checksums are frozen and checked, its values decoded and typed, positions added, and Parquet written and published. By
hand is what does at least the middle of that: hdfs-native and pyarrow read, pyarrow writes with the same compression.
The floor is the least that makes the same Parquet file: by hand, with positions and a slice's encodings, of files known
to hold no bad value, nothing checked and nothing published. `composed` is by hand by its three parts, each timed alone.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import os
import pstats
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from hdfs_native import Client, WriteOptions
from rich.console import Console
from rich.table import Table

from benchmarks.alone import running, stations
from tidegate.contract.arrow import PARQUET, encodings, raw_schema, slice_schema
from tidegate.delivery import HdfsSource, project_root
from tidegate.handoff import Window
from tidegate.ingest import hdfs
from tidegate.ingest.slices import Target, publish
from tidegate.lake import Lake
from tidegate.stack import preflight
from tidegate.stack.config import StackConfig
from tidegate.stack.services import hdfs as servers
from tidegate.units import utc

if TYPE_CHECKING:
    from collections.abc import Callable

pc: Any = pyarrow.compute
FILES = 4
DAY = Window(start=utc("2013-01-01"), end=utc("2013-01-02"))
OWN, RAW, WEB, HAND = "Tidegate: a published slice", "hdfs-native, raw", "WebHDFS, raw", "by hand"
FLOOR = "the floor: the same file by hand"


def rows(count: int, seed: int) -> Any:
    """Return rows such as weather stations send."""
    draw = np.random.default_rng(seed)
    temps = draw.normal(60, 15, count).round(2)
    return pa.table(
        {
            "id": pa.array(np.arange(count) + seed * count),
            "origin": np.array(["EWR", "JFK", "LGA"])[draw.integers(0, 3, count)],
            "carrier": np.char.add("C", draw.integers(0, 20, count).astype(str)),
            "wind": pa.array(draw.integers(0, 360, count), pa.int32()),
            "temp": temps,
            "visib": draw.choice([10.0, 9.0, 2.5], count),
            "gust": pa.array(temps / 2, mask=draw.random(count) < 0.8),
            "ok": draw.random(count) < 0.9,
        }
    )


def fill(cfg: StackConfig, form: str, count: int) -> int:
    """Write the files of one format; return their bytes."""
    client, size = Client(cfg.hdfs), 0
    client.mkdirs(f"/{form}", 0o755, True)
    for number in range(FILES):
        out = io.BytesIO()
        table = rows(count // FILES, number)
        if form == "csv":
            pacsv.write_csv(table, out)
        else:
            pq.write_table(table, out, compression="snappy")
        with client.create(f"/{form}/{number}.{form}", WriteOptions(block_size=256 << 20)) as file:
            file.write(out.getbuffer())
        size += len(out.getbuffer())
    return size


def raw(cfg: StackConfig, form: str) -> None:
    """Take all bytes by hdfs-native."""
    client = Client(cfg.hdfs)
    for number in range(FILES):
        reader = client.read(f"/{form}/{number}.{form}")
        while reader.read(16 << 20):
            pass


def web(cfg: StackConfig, form: str) -> None:
    """Take all bytes by WebHDFS."""
    with httpx.Client(follow_redirects=True, timeout=60) as client:
        for number in range(FILES):
            url = f"{cfg.url('hdfs-namenode-http')}/webhdfs/v1/{form}/{number}.{form}"
            with client.stream("GET", url, params={"op": "OPEN"}) as answer:
                for _ in answer.iter_raw(1 << 20):
                    pass


class Plain:
    """The plain way: read, decode, write, one after another."""

    def __init__(self, cfg: StackConfig, form: str, contract: Any, folder: Path):
        self._client, self._form = Client(cfg.hdfs), form
        self._schema, self._out = raw_schema(contract), folder / "hand.parquet"
        self._slice_schema = slice_schema(contract)

    def bytes_of(self, number: int) -> bytes:
        """Read a file whole."""
        reader = self._client.read(f"/{self._form}/{number}.{self._form}")
        parts = []
        while part := reader.read(16 << 20):
            parts.append(part)
        return b"".join(parts)

    def table_of(self, data: bytes) -> Any:
        """Decode it."""
        if self._form == "csv":
            options = pacsv.ConvertOptions(column_types=self._schema, strings_can_be_null=True)
            return pacsv.read_csv(io.BytesIO(data), convert_options=options)
        return pq.read_table(io.BytesIO(data)).cast(self._schema)

    def run(self) -> None:
        """Do all of it."""
        with pq.ParquetWriter(self._out, self._schema, **PARQUET) as out:
            for number in range(FILES):
                out.write_table(self.table_of(self.bytes_of(number)), row_group_size=1 << 16)

    def floor(self) -> None:
        """Write what a slice holds."""
        first = self.placed(0)
        with pq.ParquetWriter(self._out, self._slice_schema, **PARQUET, **encodings(first.slice(0, 1 << 16))) as out:
            out.write_table(first, row_group_size=1 << 16)
            for number in range(1, FILES):
                out.write_table(self.placed(number), row_group_size=1 << 16)

    def placed(self, number: int) -> Any:
        """Read and decode a file, and add where each row stood."""
        table = self.table_of(self.bytes_of(number))
        places = pa.array(np.arange(table.num_rows)).cast(pa.string())
        places = pc.binary_replace_slice(places, 0, 0, f"/{self._form}/{number}.{self._form}:")
        nothing = pa.nulls(table.num_rows, pa.string())
        return pa.Table.from_arrays(
            [*table.columns, places, nothing, nothing.cast(pa.binary())], schema=self._slice_schema
        )

    def parts(self) -> dict[str, float]:
        """Return the seconds of each part, timed alone."""
        spent = {"read": 0.0, "decode": 0.0, "write": 0.0}
        with pq.ParquetWriter(self._out, self._schema, **PARQUET) as out:
            for number in range(FILES):
                began = time.perf_counter()
                data = self.bytes_of(number)
                read = time.perf_counter()
                table = self.table_of(data)
                decoded = time.perf_counter()
                out.write_table(table, row_group_size=1 << 16)
                for name, seconds in zip(
                    spent, (read - began, decoded - read, time.perf_counter() - decoded), strict=True
                ):
                    spent[name] += seconds
        return spent


def ours(cfg: StackConfig, form: str, contract: Any, folder: Path, count: int) -> None:
    """Publish the files as a slice in a new lake."""
    with tempfile.TemporaryDirectory(dir=folder) as lake:
        target = Target("d", "s", contract, DAY, Lake(f"file://{lake}"))
        reading = hdfs.reading(
            spec=HdfsSource(connection="c", path=f"/{form}"), host="127.0.0.1", port=cfg.ports["hdfs-namenode"],
            webhdfs=cfg.url("hdfs-namenode-http"), **vars(target),
        )  # fmt: skip
        found = publish(target, reading)
    assert found.rows == count


def libhdfs(cfg: StackConfig) -> str:
    """Say whether pyarrow's libhdfs can be measured here."""
    from pyarrow import fs

    os.environ.setdefault("JAVA_HOME", str(preflight.java().resolve().parents[1]))
    try:
        fs.HadoopFileSystem("127.0.0.1", cfg.ports["hdfs-namenode"])
    except OSError as error:
        return f"libhdfs is not measured: {str(error).splitlines()[0]}"
    return "libhdfs can be loaded here, and is not measured"


def measure(count: int, times: int, profile: bool) -> dict[str, Any]:
    """Return for each format its bytes and name -> seconds, wall and CPU of this process, best of `times`."""
    formats = {}
    with running(servers.services) as cfg, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        contract = stations()
        for form in ("parquet", "csv"):
            size = fill(cfg, form, count)
            plain = Plain(cfg, form, contract, folder)
            calls: dict[str, Callable[[], None]] = {
                RAW: lambda form=form: raw(cfg, form),
                WEB: lambda form=form: web(cfg, form),
                OWN: lambda form=form: ours(cfg, form, contract, folder, count),
                HAND: plain.run,
                FLOOR: plain.floor,
            }
            found: dict[str, tuple[float, float]] = {}
            load = os.getloadavg()[0]
            for _ in range(times):
                for label, call in calls.items():
                    began, busy = time.perf_counter(), time.process_time()
                    call()
                    took = time.perf_counter() - began, time.process_time() - busy
                    before = found.get(label, took)
                    found[label] = (min(took[0], before[0]), min(took[1], before[1]))
            formats[form] = {"bytes": size, "load": load, "found": found, "parts": plain.parts()}
            if profile:
                _show_profile(form, calls[OWN])
        note = libhdfs(cfg)
    return {"rows": count, "formats": formats, "note": note}


def _show_profile(form: str, call: Callable[[], None]) -> None:
    """Print where the thread that writes the slice spends its time; the readers' threads are beside it."""
    profile = cProfile.Profile()
    profile.runcall(call)
    shown = io.StringIO()
    pstats.Stats(profile, stream=shown).sort_stats("tottime").print_stats(12)
    print(f"{form}: the thread that writes\n{shown.getvalue()}")


def figures(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the ratios as figures: bytes a second of ours over a peer's."""
    listed = []
    for form, each in measured["formats"].items():
        found = each["found"]
        best = min((RAW, WEB), key=lambda name: found[name][0])
        for key, peer, goal in (("P3a", best, 0.85), ("P3b", HAND, None), ("P3c", FLOOR, None)):
            ratio = found[peer][0] / found[OWN][0]
            listed.append(
                {
                    "id": f"{key}-{form}", "what": f"{form} on HDFS to a published slice",
                    "value": round(each["bytes"] / found[OWN][0] / 1e6, 1), "unit": "MB/s of files", "peer": peer,
                    "peer_value": round(each["bytes"] / found[peer][0] / 1e6, 1), "ratio": round(ratio, 2),
                    "goal": goal, "met": None if goal is None else ratio >= goal,
                    "cpu_ratio": round(found[peer][1] / found[OWN][1], 2),
                }
            )  # fmt: skip
    return listed


def plot(measured: dict[str, Any]) -> str:
    """Draw MB a second of each; return the file's path."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    for axis, (form, each) in zip(figure.subplots(2, 1), measured["formats"].items(), strict=True):
        names = list(each["found"])
        rates = [each["bytes"] / each["found"][name][0] / 1e6 for name in names]
        axis.barh(names, rates, color=["#2a6f97" if name == OWN else "#b0b0b0" for name in names])
        axis.bar_label(axis.containers[0], labels=[f"{rate:.0f}" for rate in rates], padding=3)
        axis.invert_yaxis()
        axis.set_xlabel(f"{form}: MB of files a second")
        axis.spines[["top", "right"]].set_visible(False)
    folder = project_root() / "var" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "hdfs.png", dpi=110)
    return str(folder / "hdfs.png")


def main() -> None:
    """Measure, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="400,000 rows and fewer runs: within a minute")
    parser.add_argument("--profile", action="store_true", help="print where the time of a slice goes")
    asked = parser.parse_args()
    measured = measure(400_000 if asked.quick else 4_000_000, 3 if asked.quick else 5, asked.profile)
    console = Console(width=120)
    for form, each in measured["formats"].items():
        title = (
            f"{form}: {FILES} files, {each['bytes'] / 1e6:.0f} MB, {measured['rows']:,} rows, load {each['load']:.1f}"
        )
        table = Table(title=title, title_justify="left")
        for name in ("", "seconds", "of CPU", "MB/s", "rows/s", "Tidegate against it"):
            table.add_column(name, justify="right" if name else "left")
        own = each["found"][OWN][0]
        for name, (seconds, cpu) in each["found"].items():
            rates = f"{each['bytes'] / seconds / 1e6:.0f}", f"{measured['rows'] / seconds:,.0f}"
            table.add_row(name, f"{seconds:.3f}", f"{cpu:.3f}", *rates, f"{seconds / own:.2f}x")
        console.print(table)
        console.print("by hand, composed: " + ", ".join(f"{name} {took:.3f} s" for name, took in each["parts"].items()))
    console.print(measured["note"], highlight=False, soft_wrap=True)
    console.print(f"plot: {plot(measured)}", highlight=False, soft_wrap=True)
    print(json.dumps({"benchmark": "hdfs", "quick": asked.quick, "figures": figures(measured)}))


if __name__ == "__main__":
    main()
