"""A YAML file remembers its lines, so that every mistake can be pointed at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.yamlfile import Problem, SpecProblems, YamlFile, shown


def write(folder: Path, text: str) -> Path:
    path = folder / "file.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def only(path: Path) -> Problem:
    with pytest.raises(SpecProblems) as caught:
        YamlFile.read(path)
    (problem,) = caught.value.problems
    return problem


def test_each_field_knows_its_line_and_an_absent_one_its_parents(tmp_path: Path) -> None:
    file = YamlFile.read(write(tmp_path, "a: 1\nb:\n  - c: 2\n  - d: 3\n"))

    assert file.line(["a"]) == 1
    assert file.line(["b", 1, "d"]) == 4
    assert file.line(["b", 1, "missing"]) == 4
    assert file.line(["nowhere"]) == 1


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", 3, "not YAML"),
        ("a: 1\n\tb: 2\n", 2, "not YAML"),
        ("- a\n- b\n", 1, "mapping"),
        ("", 1, "mapping"),
        ("a: 1\nb: 2\na: 3\n", 3, "twice, first at line 1"),
        ("a:\n  b: 1\n  b: 2\n", 3, "twice, first at line 2"),
    ],
)
def test_what_is_no_mapping_of_fields_is_pointed_at(tmp_path: Path, text: str, line: int, message: str) -> None:
    problem = only(write(tmp_path, text))

    assert problem.line == line
    assert message in problem.message
    assert problem.remedy


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    assert "No such file" in only(tmp_path / "nowhere.yaml").message
    (tmp_path / "file.yaml").write_bytes(b"\xff\xfe\x00")
    assert only(tmp_path / "file.yaml").remedy == "put a readable UTF-8 file there"


def test_problems_are_shown_in_the_order_of_their_lines_with_the_remedy() -> None:
    late = Problem("f.yaml", 9, "b", "2", "is wrong", "mend it")
    early = Problem("f.yaml", 2, "a", "1", "is odd", "even it")

    assert str(SpecProblems([late, early])).splitlines() == [
        "f.yaml:2: a: is odd (found 1). Remedy: even it",
        "f.yaml:9: b: is wrong (found 2). Remedy: mend it",
    ]


def test_a_long_value_is_cut_to_one_line() -> None:
    assert len(shown("x" * 500)) == 80
    assert "\n" not in shown("a\nb")
