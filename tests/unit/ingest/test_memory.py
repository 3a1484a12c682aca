"""A slice of any size is published and validated in 512 MiB of memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tidegate.delivery import project_root

LIMIT = 512  # MiB


@pytest.mark.parametrize("rows", [1_000_000, pytest.param(20_000_000, marks=pytest.mark.nightly)])
def test_publishing_and_validating_a_slice_stays_below_512_mib(tmp_path: Path, rows: int) -> None:
    done = subprocess.run(
        (sys.executable, "-m", "tests.unit.ingest.memory", str(tmp_path), str(rows)), cwd=project_root(),
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    peak, read, clean, quarantined = (int(word) for word in done.stdout.split()[-4:])
    print(f"{rows:,} rows: {peak} MiB")
    assert read == rows == clean + quarantined
    assert quarantined > rows // 200
    assert peak < LIMIT
