"""Serving environments by their lock, with a uv that is a script."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tidegate.clients.environments import Environments, find_uv
from tidegate.errors import DataError, Retryable, SetupError, Unavailable

OWN, OTHER = b"numpy==1\n", b"numpy==2\n"
VENV = 'if [ "$1" = venv ]; then mkdir -p "$5/bin"; touch "$5/bin/python"; exit 0; fi\n'


class Room:
    """An installed environment, a project whose uv notes how it was called, and a folder for what it builds."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.calls = folder / "calls"
        self.built = folder / "built"
        self.python = folder / "installed" / "bin" / "python"
        self.python.parent.mkdir(parents=True)
        (folder / "installed" / "requirements.txt").write_bytes(OWN)
        self.home = self.built / hashlib.sha256(OTHER).hexdigest()[:16]
        self.environments = Environments(self.python, self.built, folder / "project")

    def uv(self, script: str = "") -> None:
        path = self.folder / "project" / ".tools" / "bin" / "uv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\necho "$@" >> {self.calls}\n{VENV}{script}\n')
        path.chmod(0o755)

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def test_the_installed_environment_serves_its_own_lock_without_uv(room: Room) -> None:
    assert room.environments.python_for(OWN) == room.python
    assert not room.built.exists()


def test_another_lock_is_built_once_with_hashes_and_the_project_without_dependencies(room: Room) -> None:
    room.uv()
    assert room.environments.python_for(OTHER) == room.home / "bin" / "python"
    install = f"pip install -q --python {room.home}/bin/python"
    assert room.called() == [
        f"venv -q -p {room.python} {room.home}",
        f"{install} --require-hashes -r {room.home}/requirements.txt.part",
        f"{install} --no-deps -e {room.folder}/project",
    ]
    assert (room.home / "requirements.txt").read_bytes() == OTHER
    assert room.environments.python_for(OTHER) == room.home / "bin" / "python"
    assert len(room.called()) == 3


def test_an_environment_whose_build_died_is_built_anew(room: Room) -> None:
    room.uv()
    room.home.mkdir(parents=True)
    (room.home / "half").touch()
    (room.home / "requirements.txt.part").write_bytes(OTHER)
    room.environments.python_for(OTHER)
    assert not (room.home / "half").exists()
    assert len(room.called()) == 3


def test_an_installed_environment_that_names_no_lock_is_not_trusted(room: Room) -> None:
    (room.folder / "installed" / "requirements.txt").unlink()
    room.uv()
    assert room.environments.python_for(OTHER) == room.home / "bin" / "python"


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("error: Failed to download `zipp==4.1.1`\n  cause: Hash mismatch for `zipp==4.1.1`", DataError),
        ("error: No solution found when resolving dependencies", DataError),
        ("error: In `--require-hashes` mode, all requirements must have a hash", DataError),
        (
            "error: Failed to fetch: http://a/simple/zipp/\n  cause: error sending request\n  cause: dns error",
            Unavailable,
        ),
        ("error: Failed to download `zipp==4.1.1`\n  cause: operation timed out", Unavailable),
        ("error: HTTP status server error (503 Service Unavailable)", Unavailable),
        ("error: failed to write: No space left on device", Retryable),
    ],
)
def test_a_failed_build_says_what_uv_said_and_leaves_nothing(room: Room, said: str, error: type[Exception]) -> None:
    (room.folder / "said").write_text(said)
    room.uv(f"cat {room.folder}/said >&2; exit 2")
    with pytest.raises(error) as raised:
        room.environments.python_for(OTHER)
    assert type(raised.value) is error
    assert said in str(raised.value)
    assert not room.home.exists()


def test_a_machine_without_uv_is_told_how_to_get_it(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(room.folder))
    with pytest.raises(SetupError, match=r"no uv at .*project/\.tools/bin/uv nor on PATH .*Remedy: make envs"):
        room.environments.python_for(OTHER)
    assert not room.home.exists()


def test_the_projects_own_uv_comes_before_the_one_on_path(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(room.folder))
    other = room.folder / "uv"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    assert find_uv(room.folder / "project") == other
    room.uv()
    assert find_uv(room.folder / "project") == room.folder / "project" / ".tools" / "bin" / "uv"
