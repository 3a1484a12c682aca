"""One service of the stack alone, the contract of the rows that are read from it, and the plot of what came of it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate.contract.odcs import read_contract
from tidegate.delivery import project_root
from tidegate.stack.config import StackConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tidegate.contract import Contract

_STATIONS = """apiVersion: v3.1.0
kind: DataContract
id: bench
version: 1.0.0
status: active
schema:
  - name: bench
    properties:
      - {name: id, logicalType: integer, physicalType: bigint, required: true, logicalTypeOptions: {format: i64}}
      - {name: origin, logicalType: string, physicalType: string, required: true}
      - {name: carrier, logicalType: string, physicalType: string}
      - {name: wind, logicalType: integer, physicalType: int}
      - {name: temp, logicalType: number, physicalType: double}
      - {name: visib, logicalType: number, physicalType: double}
      - {name: gust, logicalType: number, physicalType: double}
      - {name: ok, logicalType: boolean, physicalType: boolean}
"""


def stations() -> Contract:
    """Return the contract of rows such as weather stations send."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.yaml"
        path.write_text(_STATIONS, encoding="utf-8")
        return read_contract(path)


@contextmanager
def running(services: Callable[[StackConfig], Sequence[Any]]) -> Iterator[StackConfig]:
    """Run services without the rest of the stack, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder, ExitStack() as held:
        cfg = StackConfig.load(Path(folder))
        for service in services(cfg):
            service.prepare()
            assert service.program is not None
            program = service.program()
            log = held.enter_context((Path(folder) / f"{service.name}.log").open("wb"))
            environment = {**os.environ, **program.env}
            process = subprocess.Popen(program.command, cwd=program.directory, env=environment, stdout=log, stderr=log)
            held.callback(process.wait)
            held.callback(process.kill)
            while not _is_ready(service):
                assert process.poll() is None, Path(log.name).read_text()
        yield cfg


def _is_ready(service: Any) -> bool:
    try:
        return bool(service.ready(0.0))
    except OSError:
        return False


def bars(name: str, rates: Mapping[str, float], labels: Sequence[str], unit: str, height: float = 2.6) -> str:
    """Draw how fast each way was, ours in colour, as var/bench/<name>.png; return the file's path."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained")
    axis = figure.subplots()
    colours = ["#2a6f97" if way.startswith("Tidegate") else "#b0b0b0" for way in rates]
    axis.barh(list(rates), list(rates.values()), color=colours)
    axis.bar_label(axis.containers[0], labels=list(labels), padding=3)
    axis.invert_yaxis()
    axis.set_xlabel(unit)
    axis.spines[["top", "right"]].set_visible(False)
    folder = project_root() / "var" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", dpi=110)
    return str(folder / f"{name}.png")
