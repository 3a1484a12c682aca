"""What must be alike on every member, and the table of what is not."""

from __future__ import annotations

import pytest

from tests.unit.train.test_tracking import TASK
from tidegate.errors import SpecError
from tidegate.train.environment import differences, facts_here

ALIKE = {"python": "3.11.2", "package numpy": "2.4.6"}


def test_members_that_agree_give_no_table():
    assert differences([ALIKE, dict(ALIKE), dict(ALIKE)]) is None


def test_the_table_names_only_what_differs_and_marks_who_is_not_as_most_are():
    table = differences([ALIKE, {**ALIKE, "package numpy": "2.3.0"}, ALIKE, ALIKE])
    assert table is not None
    assert table.splitlines() == [
        "fact           members 0, 2-3  member 1",
        "package numpy  2.4.6           2.3.0 <",
    ]


def test_a_table_of_many_members_is_as_wide_as_they_are_unlike():
    table = differences([{**ALIKE, "python": "3.11.2" if rank < 60 else "3.11.9"} for rank in range(64)])
    assert table is not None
    assert table.splitlines()[0].split("  ")[0] == "fact"
    assert "members 0-59  members 60-63" in table


def test_of_two_members_neither_is_marked_and_what_one_lacks_is_shown():
    table = differences([ALIKE, {"python": "3.11.2"}])
    assert table is not None
    assert table.splitlines()[1].split() == ["package", "numpy", "2.4.6", "-"]


def test_a_table_of_another_image_is_cut():
    members = [{f"package p{number}": version for number in range(50)} for version in ("1", "2")]
    lines = (differences(members) or "").splitlines()
    assert len(lines) == 22
    assert lines[-1] == "and 30 more"


def test_facts_tell_the_lock_the_code_the_packages_and_the_data(tmp_path, monkeypatch):
    lock, code = tmp_path / "lock.txt", tmp_path / "model.py"
    lock.write_text("numpy==2.4.6")
    code.write_text("def build(features): ...")
    task = TASK.model_copy(update={"lock": str(lock), "model_file": str(code)})
    before = facts_here(task, "d" * 64)
    assert before["data"] == "d" * 12
    assert "package numpy" in before
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/tmp")
    lock.write_text("numpy==2.3.0")
    code.write_text("def build(features): return None")
    after = facts_here(task, "e" * 64)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"lock", "model code", "data", "XLA_FLAGS"}


def test_a_lock_that_is_not_there_is_named(tmp_path):
    task = TASK.model_copy(update={"lock": str(tmp_path / "none.txt")})
    with pytest.raises(SpecError, match=r"none\.txt cannot be read"):
        facts_here(task, "d")
