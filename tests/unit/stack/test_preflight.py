"""What is missing on a machine is told with its remedy."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tidegate.errors import SetupError
from tidegate.stack import preflight
from tidegate.stack.config import Paths

INSTALL = "apt-get install openjdk-17-jre-headless maven"


def fake_java(folder: Path, version: str) -> None:
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-01-01' >&2\n")
    java.chmod(0o755)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths(tmp_path, tmp_path, tmp_path)
    made.python_serve.parent.mkdir(parents=True)
    made.python_serve.touch()
    return made


def test_java_17_is_taken_from_java_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_java(tmp_path, "17.0.15")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert preflight.java() == tmp_path / "bin" / "java"


@pytest.mark.parametrize("version", ["1.8.0_402", "11.0.2", "25"])
def test_another_java_is_refused_with_the_command_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    fake_java(tmp_path, version)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(SetupError, match=INSTALL):
        preflight.java()


def test_a_missing_java_is_told_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match=INSTALL):
        preflight.java()


def test_maven_is_needed_only_while_jars_are_missing(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_java(tmp_path / "jdk", "17.0.1")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    monkeypatch.setattr(preflight, "check_disk", lambda _folder: None)
    preflight.check(paths, jars_cached=True)
    with pytest.raises(SetupError, match=rf"Maven.*{INSTALL}"):
        preflight.check(paths, jars_cached=False)


def test_a_missing_serving_environment_is_told(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "java", lambda: Path("/java"))
    paths.python_serve.unlink()
    with pytest.raises(SetupError, match="make envs"):
        preflight.check(paths, jars_cached=True)


def test_a_full_disk_is_told_with_what_is_free_and_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=2**29))
    with pytest.raises(SetupError, match=r"0\.5 GiB free .* needs 3 GiB.*Remedy"):
        preflight.check_disk(tmp_path)
