"""Files that several processes share are seen whole, and are held by one at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tidegate.localfiles import locked, replace_text


def test_a_file_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state.json"
    replace_text(path, "first")
    with path.open() as reader:
        replace_text(path, "second, longer")
        assert reader.read() == "first"
    assert path.read_text() == "second, longer"
    assert list(path.parent.iterdir()) == [path]


def test_a_text_that_cannot_be_written_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    replace_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        replace_text(path, "\udcff")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_secret_is_its_owners_from_the_first_byte(tmp_path: Path, mode: int) -> None:
    umask = os.umask(0o022)
    try:
        replace_text(tmp_path / "secret", "s", mode)
    finally:
        os.umask(umask)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == mode


def test_a_lock_waits_for_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tidegate.localfiles import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    waiting = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(timeout=1)
    holder.kill()
    assert waiting.communicate(timeout=30)[0] == "held\n"
    holder.wait()
    with locked(tmp_path / "lock"):
        pass
