"""`tidegate check`: deliveries and contracts are right, and they fit each other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tidegate.check import check
from tidegate.cli import app
from tidegate.delivery import project_root
from tidegate.yamlfile import Problem


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of its own: the example's delivery, contracts and folder."""
    here = project_root()
    shutil.copytree(here / "schemas", tmp_path / "schemas", ignore=shutil.ignore_patterns("published"))
    folder = tmp_path / "examples" / "flights"
    folder.mkdir(parents=True)
    shutil.copy(here / "examples" / "flights" / "dataset.sql", folder)
    (folder / "model.py").write_text("def build(): ...\ndef build_by_flight_number(): ...\n")
    monkeypatch.setenv("TIDEGATE_ROOT", str(tmp_path))
    monkeypatch.delenv("TIDEGATE_DELIVERIES", raising=False)
    monkeypatch.delenv("TIDEGATE_CONTRACTS", raising=False)
    return tmp_path


def edit(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


def test_the_project_as_it_is_has_no_problem() -> None:
    assert check() == []


def test_everything_right_prints_ok_and_exits_zero(root: Path) -> None:
    done = CliRunner().invoke(app, ["check"])
    assert (done.exit_code, done.output) == (0, "ok\n")


def test_a_problem_prints_file_line_field_value_and_remedy_and_exits_one(root: Path) -> None:
    path = edit(root / "schemas/deliveries/flights.yaml", "workers: 2", "workers: none")
    done = CliRunner().invoke(app, ["check", str(path)])

    assert done.exit_code == 1
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if "workers" in text)
    assert f"{path}:{line}: train.workers:" in done.output
    assert "found 'none'" in done.output
    assert "Remedy:" in done.output


DELIVERY = "schemas/deliveries/flights.yaml"
SQL = "examples/flights/dataset.sql"
MODEL = "examples/flights/model.py"


@pytest.mark.parametrize(
    ("file", "old", "new", "where", "field", "message"),
    [
        (DELIVERY, "contract: weather", "contract: wether", DELIVERY, "sources.weather.contract", "no such contract"),
        (DELIVERY, "time: time_hour", "time: hour_time", DELIVERY, "sources.flights.postgres.time", "no such column"),
        (DELIVERY, "time: time_hour", "time: year", DELIVERY, "sources.flights.postgres.time", "not the contract's"),
        (DELIVERY, "{contract: weather, ", "{contract: planes, ", DELIVERY, "sources.weather.contract", "read by time"),
        (DELIVERY, '"model:build"', '"model:bild"', DELIVERY, "train.model", "defines no function bild"),
        (DELIVERY, '"model:build"', '"modell:build"', DELIVERY, "train.model", "there is no"),
        (DELIVERY, "model:build_by", "model:bild_by", DELIVERY, "train.alternatives", "defines no function"),
        (DELIVERY, "sql: dataset.sql", "sql: data.sql", DELIVERY, "dataset.sql", "cannot be read"),
        (DELIVERY, "label: late", "label: tardy", DELIVERY, "dataset.sql", "no column 'tardy'"),
        (DELIVERY, "event_time: time_hour", "event_time: hour", DELIVERY, "dataset.sql", "int32"),
        (SQL, "w.temp,", "w.temperature,", SQL, "(sql)", "temperature"),
        (SQL, "f.carrier,", "f.tailnum,", DELIVERY, "dataset.sql", "'tailnum' is string"),
        (SQL, "f.distance,", "f.arr_delay AS d,", SQL, "(sql)", "made of f.arr_delay"),
        (SQL, "f.distance,", "f.distance * random() AS d,", SQL, "(sql)", "answers differently"),
        (SQL, "LEFT JOIN weather", "LEFT JOIN clouds", SQL, "(sql)", "clouds"),
        (MODEL, "def build():", "def build(:", MODEL, "(python)", "no Python"),
        ("schemas/contracts/weather.yaml", "name: humid", "name: humidity", SQL, "(sql)", "humid"),
        ("schemas/contracts/planes.yaml", "id: planes", "id: plane", "schemas/contracts/planes.yaml", "id", "differs"),
    ],
)
def test_what_does_not_fit_is_named_where_it_stands(
    root: Path, file: str, old: str, new: str, where: str, field: str, message: str
) -> None:
    edit(root / file, old, new)
    found = [p for p in check() if p.file == str(root / where) and p.field == field and message in p.message]

    assert found, check()
    assert found[0].remedy
    if where == file:
        line = (root / where).read_text().splitlines()[found[0].line - 1]
        assert new in line or field in ("dataset.sql", "train.alternatives")


def test_the_users_files_are_read_and_never_run(root: Path) -> None:
    (root / MODEL).write_text("raise SystemExit('was run')\ndef build(): ...\ndef build_by_flight_number(): ...\n")
    assert check() == []


def test_one_broken_file_does_not_hide_the_mistakes_of_another(root: Path) -> None:
    edit(root / "schemas/contracts/planes.yaml", "kind: DataContract", "kind: [")
    edit(root / "schemas/contracts/weather.yaml", "logicalType: number", "logicalTyp: number")
    files = {Path(problem.file).name for problem in check()}

    assert files >= {"planes.yaml", "weather.yaml"}


def test_a_project_without_deliveries_is_told_so(root: Path) -> None:
    shutil.rmtree(root / "schemas")
    assert [type(problem) for problem in check()] == [Problem]
