"""How fast rows are judged with their reasons: beside polars by hand, Great Expectations and `datacontract test`.

`python -m benchmarks.validate [--quick]` prints a table, writes var/bench/validate.png, and ends with a JSON object.
The same rules on the same million rows of eight columns, 1% of them bad. polars is what a user would write: one
expression per rule, its own casts, each bad row with all its reasons. Great Expectations (result COMPLETE) and
datacontract-cli run in their own environments, and only where those are there; their start is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.alone import bars
from tidegate.contract.arrow import raw_schema
from tidegate.contract.masks import judge
from tidegate.contract.odcs import read_contract
from tidegate.contract.targets import compile_for
from tidegate.delivery import project_root

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tidegate.contract import Contract

FORM = r"\d{4}-\d{2}-\d{2}T\d{2}:00:00Z"
TAIL = "^N[1-9][0-9A-Z]{0,4}$"
ORIGINS = ["EWR", "JFK", "LGA"]
TEXT = r"""apiVersion: v3.1.0
kind: DataContract
id: bench
version: 1.0.0
status: active
servers: [{server: local, type: local, path: PATH, format: parquet}]
schema:
  - name: bench
    properties:
      - name: at
        logicalType: integer
        logicalTypeOptions: {format: i64}
        physicalType: string
        required: true
        customProperties:
          - {property: lexicalForm, value: '\d{4}-\d{2}-\d{2}T\d{2}:00:00Z'}
          - {property: cast, value: epochSeconds}
      - {name: id, logicalType: integer, physicalType: bigint, required: true, logicalTypeOptions: {format: i64, minimum: 0}}
      - name: origin
        logicalType: string
        physicalType: string
        required: true
        quality: [{metric: invalidValues, arguments: {validValues: [EWR, JFK, LGA]}, mustBe: 0}]
      - {name: tail, logicalType: string, physicalType: string, logicalTypeOptions: {pattern: '^N[1-9][0-9A-Z]{0,4}$'}}
      - {name: delay, logicalType: integer, physicalType: int, logicalTypeOptions: {minimum: -120, maximum: 2880}}
      - {name: distance, logicalType: integer, physicalType: int, required: true, logicalTypeOptions: {minimum: 1, maximum: 12500}}
      - {name: temp, logicalType: number, physicalType: double, logicalTypeOptions: {minimum: -60, maximum: 140}}
      - {name: name, logicalType: string, physicalType: string, required: true, logicalTypeOptions: {minLength: 2, maxLength: 12}}
"""  # noqa: E501 - the contract is as a user would write it


def contract(path: str = "data.parquet") -> Contract:
    """Return the contract of the rows; `path` is where its server has them."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.yaml"
        file.write_text(TEXT.replace("PATH", path), encoding="utf-8")
        return read_contract(file)


def rows(count: int, distinct: bool = False, seed: int = 7) -> Any:
    """Return the raw table: `count` rows, of which 1% break one rule each, spread over all of them.

    As in flights, there are 8,760 hours, 4,000 tail numbers and 7,000 names; or, `distinct`, hardly a text twice.
    """
    draw = np.random.default_rng(seed)
    hours = np.datetime64("1900-01-01T00") + draw.integers(0, 1_700_000 if distinct else 8760, count).astype("m8[h]")
    at = np.char.add(np.datetime_as_string(hours, unit="s"), "Z").astype(object)
    if distinct:
        tails = np.array([f"N{n // 26 + 10}{chr(65 + n % 26)}" for n in draw.integers(0, 259_000, count)], dtype=object)
        names = np.array([f"row{n}" for n in range(count)], dtype=object)
    else:
        tails = np.array([f"N{n}" for n in draw.integers(10, 99999, 4000)], dtype=object)[draw.integers(0, 4000, count)]
        names = np.array([f"row{n % 1000}-{n % 7}" for n in range(7000)], dtype=object)[draw.integers(0, 7000, count)]
    columns: dict[str, Any] = {
        "at": at,
        "id": np.arange(count),
        "origin": np.array(ORIGINS, dtype=object)[draw.integers(0, 3, count)],
        "tail": tails,
        "delay": draw.integers(-60, 600, count).astype(object),
        "distance": draw.integers(50, 5000, count),
        "temp": draw.normal(60, 15, count).clip(-59, 139),
        "name": names,
    }
    wrong: dict[str, Any] = {
        "at": "yesterday at six", "id": -1, "origin": "XYZ", "tail": "n0", "delay": 9999, "distance": 0, "temp": 999.0,
        "name": "x",
    }  # fmt: skip
    bad = draw.choice(count, count // 100, replace=False)
    for place, (name, value) in enumerate(wrong.items()):
        columns[name][bad[place :: len(wrong)]] = value
    columns["delay"][draw.choice(count, count // 40, replace=False)] = None
    return pa.table({n: pa.array(c) for n, c in columns.items()}).cast(raw_schema(contract()))


def ours(table: Any, rules: Contract) -> int:
    """Judge the rows by masks; return how many are bad."""
    judged = judge(table, rules)
    bad = table.take(judged.bad).append_column("reasons", judged.all_reasons)
    assert judged.clean.num_rows + bad.num_rows == table.num_rows
    return int(bad.num_rows)


def by_polars(frame: Any) -> int:
    """Judge the rows as a user of polars would, lazily on all cores; return how many are bad."""
    import polars as pl

    col = pl.col
    fits = col("at").str.contains(rf"^(?:{FORM})$")
    cast = col("at").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", strict=False, time_zone="UTC")
    rules = {
        "at:required": col("at").is_null(),
        "at:lexical_form": ~fits,
        "at:no_such_value": fits & col("cast").is_null(),
        "id:required": col("id").is_null(),
        "id:minimum": col("id") < 0,
        "origin:required": col("origin").is_null(),
        "origin:enum": ~col("origin").is_in(ORIGINS),
        "tail:pattern": ~col("tail").str.contains(TAIL),
        "delay:minimum": col("delay") < -120,
        "delay:maximum": col("delay") > 2880,
        "distance:required": col("distance").is_null(),
        "distance:minimum": col("distance") < 1,
        "distance:maximum": col("distance") > 12500,
        "temp:not_finite": ~col("temp").is_finite(),
        "temp:minimum": col("temp") < -60,
        "temp:maximum": col("temp") > 140,
        "name:required": col("name").is_null(),
        "name:min_length": col("name").str.len_chars() < 2,
        "name:max_length": col("name").str.len_chars() > 12,
    }
    marked = (
        frame.lazy()
        .with_columns(cast=cast)
        .with_columns(**{name: rule.fill_null(False) for name, rule in rules.items()})
        .with_columns(bad=pl.any_horizontal(list(rules)))
    )
    names = [name for name in frame.columns if name != "at"]
    clean = marked.filter(~col("bad")).select(col("cast").dt.epoch("s").alias("at"), *names)
    reasons = pl.concat_list([pl.when(col(name)).then(pl.lit(name)) for name in rules]).list.drop_nulls()
    bad = marked.filter(col("bad")).select(*frame.columns, reasons=reasons)
    kept, quarantined = pl.collect_all([clean, bad])
    assert kept.height + quarantined.height == frame.height
    return int(quarantined.height)


GX = """
import json, sys, time, pandas as pd, great_expectations as gx
from great_expectations.core import ExpectationSuite
suite, data = json.load(open(sys.argv[1])), sys.argv[2]
context = gx.get_context(mode="ephemeral")
context.variables.progress_bars = None
frame = pd.read_parquet(data)
asset = context.data_sources.add_pandas("p").add_dataframe_asset("a")
batch = asset.add_batch_definition_whole_dataframe("b").get_batch({"dataframe": frame})
suite = ExpectationSuite(**suite)
took = []
for _ in range(int(sys.argv[3])):
    began = time.perf_counter()
    found = batch.validate(suite, result_format="COMPLETE")
    took.append(time.perf_counter() - began)
bad = set()
for result in found.results:
    bad.update(result.result.get("unexpected_index_list") or ())
print(json.dumps({"seconds": min(took), "bad": len(bad)}))
"""
DATACONTRACT = """
import json, sys, time
from datacontract.data_contract import DataContract
began = time.perf_counter()
run = DataContract(data_contract_file=sys.argv[1]).test()
failed = sum(str(check.result.value) == "failed" for check in run.checks)
print(json.dumps({"seconds": time.perf_counter() - began, "failed": failed}))
"""


def elsewhere(environment: str, code: str, *arguments: str) -> dict[str, Any] | None:
    """Run code in an environment of its own and return what its last line says; None where that is not there."""
    python = project_root() / ".envs" / environment / "bin" / "python"
    if not python.exists():
        return None
    done = subprocess.run([str(python), "-c", code, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


Timed = tuple[float, int | None, float | None]


def side_by_side(calls: Mapping[str, Callable[[], int]], times: int) -> dict[str, Timed]:
    """Run calls in turns; return for each its shortest wall and CPU time, seconds, with what it returned between."""
    found: dict[str, Timed] = {}
    for _ in range(times):
        for name, call in calls.items():
            began, busy = time.perf_counter(), time.process_time()
            bad = call()
            took = time.perf_counter() - began, time.process_time() - busy
            before = found.get(name, (np.inf, bad, np.inf))
            found[name] = (min(took[0], before[0]), bad, min(took[1], before[2] or np.inf))
    return found


def measure(count: int, times: int) -> dict[str, Any]:
    """Return name -> seconds and bad rows (None where a way names none), all on the same rows."""
    import polars as pl

    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.parquet"
        (Path(folder) / "bench.yaml").write_text(TEXT.replace("PATH", str(data)), encoding="utf-8")
        rules, table = contract(str(data)), rows(count)
        pq.write_table(table, data, version="1.0")
        frame = pl.from_arrow(table)
        load = os.getloadavg()[0]
        own, hand = "Tidegate", "polars, by hand"
        found = side_by_side({own: lambda: ours(table, rules), hand: lambda: by_polars(frame)}, times)
        other = rows(count, distinct=True)
        framed = pl.from_arrow(other)
        apart = side_by_side({DISTINCT[0]: lambda: ours(other, rules), DISTINCT[1]: lambda: by_polars(framed)}, times)
        suite = Path(folder) / "suite.json"
        suite.write_text(json.dumps(compile_for("great_expectations", rules).artefact), encoding="utf-8")
        gx = elsewhere("validate", GX, str(suite), str(data), str(max(1, times // 3)))
        if gx:
            found["Great Expectations"] = (gx["seconds"], gx["bad"], None)
        tested = elsewhere("contract", DATACONTRACT, str(Path(folder) / "bench.yaml"))
        if tested:
            found["datacontract test"] = (tested["seconds"], None, None)
        found.update(apart)
    return {"rows": count, "load": load, "found": found}


DISTINCT = ("Tidegate, hardly a text twice", "polars, hardly a text twice")
GOALS: dict[str, tuple[str, str, float | None]] = {
    "polars, by hand": ("P4a", "Tidegate", 1.0),
    DISTINCT[1]: ("P4a2", DISTINCT[0], 1.0),
    "Great Expectations": ("P4b", "Tidegate", 12.0),
    "datacontract test": ("P4c", "Tidegate", None),
}


def figures(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the ratios as figures: rows a second of ours over a peer's."""
    found, count = measured["found"], measured["rows"]
    listed = []
    for peer, (key, own, goal) in GOALS.items():
        if peer not in found:
            continue
        mine = count / found[own][0]
        theirs = count / found[peer][0]
        ratio = mine / theirs
        listed.append(
            {
                "id": key, "what": "rows judged with reasons", "value": round(mine), "unit": "rows/s", "peer": peer,
                "peer_value": round(theirs), "ratio": round(ratio, 2), "goal": goal,
                "met": None if goal is None else ratio >= goal,
                "cpu_ratio": None if found[peer][2] is None else round(found[peer][2] / found[own][2], 2),
            }
        )  # fmt: skip
    return listed


def plot(measured: dict[str, Any]) -> str:
    """Draw rows a second of each; return the file's path."""
    rates = {name: measured["rows"] / took[0] for name, took in measured["found"].items()}
    labels = [f"{rate / 1e6:.2f}M" for rate in rates.values()]
    return bars("validate", rates, labels, "rows a second, 8 columns, 1% bad", height=3.4)


def main() -> None:
    """Measure, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="200,000 rows and fewer runs: within a minute")
    asked = parser.parse_args()
    measured = measure(200_000 if asked.quick else 1_000_000, 3 if asked.quick else 9)
    table = Table(title=f"{measured['rows']:,} rows, load {measured['load']:.1f}", title_justify="left")
    for name in ("", "seconds", "of CPU", "rows/s", "bad rows named", "Tidegate is faster"):
        table.add_column(name, justify="right" if name else "left")
    own = {peer: measured["found"][own][0] for peer, (_, own, _) in GOALS.items()}
    for name, (seconds, bad, cpu) in measured["found"].items():
        shown = "none" if bad is None else f"{bad:,}"
        rate = f"{measured['rows'] / seconds:,.0f}"
        table.add_row(
            name,
            f"{seconds:.3f}",
            "" if cpu is None else f"{cpu:.3f}",
            rate,
            shown,
            f"{seconds / own[name]:.2f}x" if name in own else "",
        )
    console = Console(width=120)
    console.print(table)
    console.print(f"plot: {plot(measured)}", highlight=False, soft_wrap=True)
    print(json.dumps({"benchmark": "validate", "quick": asked.quick, "figures": figures(measured)}))


if __name__ == "__main__":
    main()
