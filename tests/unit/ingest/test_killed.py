"""A publisher that is killed at any step leaves readers the old slice or the new one, and the next run completes it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tidegate.delivery import project_root


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.nightly)])
def test_killed_at_its_steps_it_leaves_the_old_slice_or_the_new_and_the_next_run_the_same_bytes(
    tmp_path: Path, every: int
) -> None:
    done = subprocess.run(
        (sys.executable, "-m", "tests.unit.ingest.killed", str(tmp_path), str(every)), cwd=project_root(),
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kills = json.loads(done.stdout.splitlines()[-1])
    print(kills)
    assert len(kills) == 3
    assert all(count * every > 30 for count in kills.values())
