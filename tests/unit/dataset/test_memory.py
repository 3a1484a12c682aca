"""How much memory a process takes that builds a dataset: the SELECT, its order, and everything that is checked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tidegate.delivery import project_root

LIMIT = 512  # MiB


@pytest.mark.parametrize("rows", [300_000, pytest.param(6_000_000, marks=pytest.mark.nightly)])
def test_a_dataset_is_built_and_checked_below_512_mib_where_duckdb_has_192mb(tmp_path: Path, rows: int) -> None:
    _run("make", str(tmp_path), str(rows))
    peak, train, test, compared, imported, seconds = map(int, _run(str(tmp_path), "192MB").split()[-6:])
    print(f"{rows:,} rows: {peak} MiB ({imported} of them imports), {seconds} s of processor time")
    assert train + test == rows
    assert compared == 3, "cuts at which the SELECT was run without the future"
    assert peak < LIMIT


def _run(*arguments: str) -> str:
    command = (sys.executable, "-m", "tests.unit.dataset.memory", *arguments)
    done = subprocess.run(command, cwd=project_root(), capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
