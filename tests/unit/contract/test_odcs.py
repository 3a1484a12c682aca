"""A contract file is read, or every mistake in it is named by file, line, field, value and remedy."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pyarrow as pa
import pytest

from tidegate.contract import load_contract
from tidegate.contract.arrow import clean_schema, raw_schema
from tidegate.yamlfile import Problem, SpecProblems

HEAD = """\
apiVersion: v3.1.0
kind: DataContract
id: things
version: 1.0.0
status: active
schema:
  - name: things
    properties:
"""
GOOD = "- {name: a, logicalType: integer, physicalType: integer}"


def write(folder: Path, *columns: str, head: str = HEAD) -> Path:
    path = folder / "things.yaml"
    path.write_text(head + textwrap.indent("\n".join(columns), "      ") + "\n", encoding="utf-8")
    return path


def custom(logical: str, name: str, value: str) -> str:
    entry = f"{{property: {name}, value: {value}}}"
    return f"- {{name: b, logicalType: {logical}, physicalType: text, customProperties: [{entry}]}}"


def problems(folder: Path, *columns: str, head: str = HEAD) -> list[Problem]:
    write(folder, *columns, head=head)
    with pytest.raises(SpecProblems) as caught:
        load_contract("things", folder)
    return list(caught.value.problems)


@pytest.mark.parametrize("name", ["flights", "weather", "planes", "airports"])
def test_the_examples_contracts_are_right(name: str) -> None:
    assert load_contract(name).name == name


def test_the_string_timestamp_becomes_int64_by_a_stated_form() -> None:
    contract = load_contract("weather")

    assert raw_schema(contract).field("time_hour").type == pa.string()
    assert clean_schema(contract).field("time_hour") == pa.field("time_hour", pa.int64(), nullable=False)
    assert contract.key == ("origin", "time_hour")
    assert contract.event_time is not None
    assert contract.event_time.name == "time_hour"


def test_a_mistake_is_named_by_file_line_field_value_and_remedy(tmp_path: Path) -> None:
    found = problems(tmp_path, GOOD, "- {name: b, logicalType: nummer, physicalType: double}")

    assert len(found) == 1
    problem = found[0]
    assert problem.file == str(tmp_path / "things.yaml")
    assert problem.line == 10
    assert problem.field == "b.logicalType"
    assert problem.value == "'nummer'"
    assert "number" in problem.remedy


@pytest.mark.parametrize(
    ("column", "field", "remedy"),
    [
        ("- {name: b, logicalTyp: string, physicalType: text}", "b.logicalTyp", "write logicalType"),
        ("- {name: b, logicalType: string}", "b.physicalType", "add it"),
        ("- {name: b, logicalType: integer, physicalType: text}", "b.lexicalForm", "lexicalForm"),
        ("- {name: b, logicalType: integer, physicalType: bigint}", "b.logicalType", "alike"),
        ("- {name: b, logicalType: string, physicalType: geometry}", "b.physicalType", "text"),
        ("- {name: b, logicalType: string, physicalType: text, partitioned: true}", "b.partitioned", "remove"),
        ("- {name: b, logicalType: string, physicalType: text, primaryKey: true}", "b.required", "required: true"),
        (
            "- {name: b, logicalType: integer, physicalType: int, logicalTypeOptions: {minumum: 1}}",
            "b.logicalTypeOptions.minumum",
            "spelling",
        ),
        (
            "- {name: b, logicalType: integer, physicalType: int, logicalTypeOptions: {multipleOf: 2}}",
            "b.logicalTypeOptions.multipleOf",
            "minimum",
        ),
        (
            "- {name: b, logicalType: integer, physicalType: int, logicalTypeOptions: {format: u128}}",
            "b.logicalTypeOptions.format",
            "i32 or i64",
        ),
        (
            "- {name: b, logicalType: string, physicalType: text, logicalTypeOptions: {pattern: '('}}",
            "b.logicalTypeOptions.pattern",
            "mend",
        ),
        (
            custom("integer", "lexicalForm", "'['"),
            "b.lexicalForm",
            "mend",
        ),
        (
            custom("string", "encodng", "x"),
            "b.encodng",
            "encoding",
        ),
        (
            custom("string", "encoding", "hash"),
            "b.encoding",
            "vocabulary",
        ),
        (
            custom("string", "eventTime", "true"),
            "b.eventTime",
            "timestamp",
        ),
        (
            "- {name: b, logicalType: string, physicalType: text, quality: [{metric: nullValues, mustBe: 0}]}",
            "b.quality",
            "required",
        ),
        (
            "- {name: b, logicalType: timestamp, physicalType: timestamptz, logicalTypeOptions: {minimum: yesterday}}",
            "b.logicalTypeOptions",
            "2013-01-01",
        ),
        ("- {name: a, logicalType: string, physicalType: text}", "schema.0.properties.1.name", "keep one"),
    ],
)
def test_what_cannot_be_enforced_or_read_is_refused(tmp_path: Path, column: str, field: str, remedy: str) -> None:
    found = problems(tmp_path, GOOD, column)

    assert [problem for problem in found if problem.field == field and problem.line == 10 and remedy in problem.remedy]


def test_every_mistake_of_a_file_is_reported_at_once_in_the_order_of_its_lines(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        "- {name: a, logicalType: integer, physicalType: text}",
        GOOD.replace("name: a", "name: b"),
        "- {name: c, logicalType: string, physicalType: geometry}",
    )

    assert [(problem.line, problem.field) for problem in found] == [(9, "a.lexicalForm"), (11, "c.physicalType")]


def test_the_id_must_be_the_files_name(tmp_path: Path) -> None:
    found = problems(tmp_path, GOOD, head=HEAD.replace("id: things", "id: other"))

    assert [(p.line, p.field, p.value, p.remedy) for p in found] == [(3, "id", "'other'", "write things")]


def test_a_missing_field_of_the_standard_is_named(tmp_path: Path) -> None:
    found = problems(tmp_path, GOOD, head=HEAD.replace("version: 1.0.0\n", ""))

    assert any("version" in problem.message for problem in found)


def test_a_contract_without_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "things.yaml").write_text("\n".join(HEAD.splitlines()[:5]), encoding="utf-8")
    with pytest.raises(SpecProblems, match="one source"):
        load_contract("things", tmp_path)
