"""datacontract-cli beside us on the same files: it lints what we ship, and says what a change breaks."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tidegate.check import check
from tidegate.cli import app
from tidegate.contract.odcs import read_contract
from tidegate.delivery import project_root
from tidegate.yamlfile import SpecProblems

CONTRACTS = project_root() / "schemas" / "contracts"
PUBLISHED = CONTRACTS / "published" / "weather" / "1.0.0.yaml"  # never changes, as the contract of today does
TOOL = project_root() / ".envs" / "contract" / "bin" / "datacontract"
needs_tool = pytest.mark.skipif(not TOOL.exists(), reason="needs .envs/contract (datacontract-cli): make envs")


def lints(path: Path) -> bool:
    done = subprocess.run([str(TOOL), "lint", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode == 0


def reads(path: Path) -> bool:
    try:
        read_contract(path)
    except SpecProblems:
        return False
    return True


@needs_tool
@pytest.mark.parametrize("path", sorted(CONTRACTS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONTRACTS)))
def test_every_shipped_contract_is_right_to_both(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / f"{path.stem if path.parent == CONTRACTS else path.parent.name}.yaml"
    shutil.copy(path, copy)
    assert (lints(copy), reads(copy)) == (True, True)


@needs_tool
@pytest.mark.parametrize(
    ("old", "new", "both"),
    [
        ("logicalType: number", "logicalType: nummer", True),
        ("apiVersion: v3.1.0", "apiVersion: v9", False),  # it falls back to the newest it knows
        ("version: 1.0.0\n", "", True),
        ("minimum: -60", "minimum: low", True),
        ("eventTime", "evenTime", False),  # to the standard a custom property is anybody's
        ("lexicalForm", "lexicalFrom", False),
        ("physicalType: double", "physicalType: geometry", False),
    ],
)
def test_what_it_finds_we_find_and_we_find_what_nothing_would_enforce(
    tmp_path: Path, old: str, new: str, both: bool
) -> None:
    text = PUBLISHED.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "weather.yaml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    assert (lints(path), reads(path)) == (not both, False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "contracts"
    (folder / "published" / "weather").mkdir(parents=True)
    shutil.copy(PUBLISHED, folder / "published" / "weather")
    text = PUBLISHED.read_text(encoding="utf-8").replace("../../../contract.schema", "../contract.schema")
    (folder / "weather.yaml").write_text(text, encoding="utf-8")
    return folder


def edit(path: Path, *changes: tuple[str, str]) -> Path:
    text = path.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text, encoding="utf-8")
    return path


@needs_tool
@pytest.mark.parametrize(
    ("change", "breaks"),
    [
        (("maximum: 140", "maximum: 120"), {"writers"}),
        (("maximum: 140", "maximum: 150"), {"readers"}),
        (("name: visib", "name: visibility"), {"readers", "writers"}),
        ((r"T\d{2}:00:00Z", r"T\d{2}:\d{2}:00Z"), {"writers"}),
    ],
)
def test_a_breaking_change_without_a_new_major_version_is_refused_and_says_whom_it_breaks(
    folder: Path, change: tuple[str, str], breaks: set[str]
) -> None:
    path = edit(folder / "weather.yaml", ("version: 1.0.0", "version: 1.9.0"), change)
    found = check([path], contracts=folder)

    assert {side for side in ("readers", "writers") for p in found if f"breaks {side} of 1.0.0" in p.message} == breaks
    assert all("2.0.0" in problem.remedy for problem in found)
    line = path.read_text(encoding="utf-8").splitlines()[found[0].line - 1]
    assert "name: " in line or "properties:" in line  # of what is gone, the list it was in

    edit(path, ("version: 1.9.0", "version: 2.0.0"))
    assert check([path], contracts=folder) == []


@needs_tool
def test_another_change_needs_a_new_version_too(folder: Path) -> None:
    path = edit(folder / "weather.yaml", ("name: Weather", "name: The weather"))
    found = check([path], contracts=folder)

    assert [(p.field, p.remedy) for p in found] == [("version", "write version 1.1.0")]
    assert check([edit(path, ("version: 1.0.0", "version: 1.1.0"))], contracts=folder) == []


def test_without_the_tool_the_check_says_how_to_get_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_DATACONTRACT", str(folder / "nowhere"))
    path = edit(folder / "weather.yaml", ("maximum: 140", "maximum: 120"))
    done = CliRunner().invoke(app, ["check", str(path)])

    assert done.exit_code == 65
    assert "make envs" in done.stderr


def test_publishing_twice_changes_nothing_and_an_older_version_is_refused(folder: Path) -> None:
    done = CliRunner().invoke(app, ["contract", "publish", str(folder / "weather.yaml")])
    assert (done.exit_code, Path(done.stdout.strip())) == (0, folder / "published" / "weather" / "1.0.0.yaml")

    edit(folder / "weather.yaml", ("version: 1.0.0", "version: 0.9.0"))
    again = CliRunner().invoke(app, ["contract", "publish", str(folder / "weather.yaml")])
    assert again.exit_code == 65
    assert "1.0.0 is published already" in again.stderr


def test_a_new_contract_is_published_as_it_is(folder: Path) -> None:
    shutil.rmtree(folder / "published")
    text = (folder / "weather.yaml").read_text(encoding="utf-8")
    done = CliRunner().invoke(app, ["contract", "publish", str(folder / "weather.yaml")])
    copy = Path(done.stdout.strip()).read_text(encoding="utf-8")

    assert copy.splitlines()[1:] == text.splitlines()[1:]
    assert copy.splitlines()[0].endswith("$schema=../../../contract.schema.json")
