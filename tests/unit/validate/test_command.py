"""`tidegate validate`: files against a contract, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tidegate.cli import app

CONTRACT = r"""
apiVersion: v3.1.0
kind: DataContract
id: things
version: 1.2.0
status: active
slaProperties:
  - {property: freshness, value: 2, unit: d, element: things.at}
schema:
  - name: things
    customProperties:
      - {property: quarantineAtMost, value: {share: 80%}}
    quality:
      - {metric: rowCount, mustBeGreaterOrEqualTo: 1}
      - {type: sql, name: ordered, query: "SELECT COUNT(*) FROM ${object} WHERE lo > hi", mustBe: 0}
    properties:
      - name: at
        logicalType: integer
        logicalTypeOptions: {format: i64}
        physicalType: string
        required: true
        customProperties:
          - {property: lexicalForm, value: '\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ'}
          - {property: cast, value: epochSeconds}
          - {property: eventTime, value: true}
      - {name: id, logicalType: integer, physicalType: int, required: true, primaryKey: true}
      - {name: lo, logicalType: number, physicalType: double}
      - name: hi
        logicalType: number
        physicalType: double
        logicalTypeOptions: {maximum: 100}
        customProperties: [{property: severity, value: {maximum: warn}}]
"""
GOOD = "2026-11-24T00:00:00Z,{},1,2\n"
AS_OF = ["--as-of", "2026-11-25T00:00:00"]


@pytest.fixture
def contract(tmp_path: Path) -> Path:
    path = tmp_path / "things.yaml"
    path.write_text(CONTRACT)
    return path


def run(contract: Path, data: str, *more: str) -> tuple[int, dict[str, object]]:
    path = contract.parent / "in.csv"
    path.write_text("at,id,lo,hi\n" + data)
    done = CliRunner().invoke(app, ["validate", str(contract), str(path), "--json", *AS_OF, *more])
    return done.exit_code, json.loads(done.stdout)


def test_all_clean_is_zero_and_the_rows_are_written_cast(contract: Path) -> None:
    out = contract.parent / "clean.parquet"
    code, report = run(contract, GOOD.format(1) + GOOD.format(2), "--clean", str(out))

    assert (code, report["verdict"], report["rows"]) == (0, "clean", 2)
    assert pq.read_table(out).to_pylist()[0] == {"at": 1795478400, "id": 1, "lo": 1.0, "hi": 2.0}


def test_a_string_timestamp_of_another_form_is_quarantined_with_its_reason_and_place(contract: Path) -> None:
    bad = contract.parent / "bad.jsonl"
    data = GOOD.format(1) + "24.11.2026 00:00,2,1,2\n" + GOOD.format(1) + "2026-11-24T00:00:00Z,4,3,2\n"
    code, report = run(contract, data, "--quarantine", str(bad))
    rows = [json.loads(line) for line in bad.read_text().splitlines()]

    assert (code, report["clean"], report["quarantined"]) == (1, 1, 3)
    assert [(row["position"], row["reason"]) for row in rows] == [
        ("in.csv:3", "at:lexical_form"),
        ("in.csv:4", "id:duplicate"),
        ("in.csv:5", "row:ordered"),
    ]
    assert {"reason": "at:lexical_form", "severity": "quarantine", "rows": 1, "position": "in.csv:3",
            "value": "24.11.2026 00:00"} in report["reasons"]  # fmt: skip


def test_a_rule_that_only_warns_lets_the_row_pass_and_is_counted(contract: Path) -> None:
    code, report = run(contract, "2026-11-24T00:00:00Z,1,1,200\n")

    assert (code, report["clean"]) == (0, 1)
    assert report["reasons"] == [
        {"reason": "hi:maximum", "severity": "warn", "rows": 1, "position": "in.csv:2", "value": "200.0"}
    ]


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        ("", "row_count"),
        ("x,1,1,2\ny,2,1,2\nz,3,1,2\n", "quarantined"),
        ("2026-11-22T00:00:00Z,1,1,2\n", "freshness"),
    ],
)
def test_a_slice_that_breaks_a_bound_is_refused_and_its_clean_rows_are_not_written(
    contract: Path, data: str, rule: str
) -> None:
    clean, bad = contract.parent / "clean.csv", contract.parent / "bad.parquet"
    code, report = run(contract, data, "--clean", str(clean), "--quarantine", str(bad))

    assert (code, report["verdict"]) == (2, "refused")
    assert rule in [each["rule"] for each in report["slice"]]  # type: ignore[attr-defined]
    assert not clean.exists()
    assert bad.exists()
    assert not list(contract.parent.glob(".*.part"))


def test_a_slice_with_too_much_in_quarantine_is_refused_with_the_top_reasons_and_an_example_each(
    contract: Path,
) -> None:
    _, report = run(contract, "x\x1b[31m,1,1,2\ny,2,1,2\n2026-11-24T00:00:00Z,3,2,1\n")
    (said,) = [each["message"] for each in report["slice"] if each["rule"] == "quarantined"]  # type: ignore[attr-defined]

    assert said == (
        "100.00% of the rows in quarantine, at most 80.00% are allowed (2 rows for at:lexical_form, such as in.csv:2: "
        "x\\x1b[31m; 1 rows for row:ordered, such as in.csv:4: lo=2.0, hi=1.0)"
    )


def test_several_files_are_one_slice(contract: Path) -> None:
    (contract.parent / "more.jsonl").write_text('{"at": "2026-11-24T00:00:00Z", "id": 1}\n')
    code, report = run(contract, GOOD.format(1), str(contract.parent / "more.jsonl"))

    assert (code, report["rows"], report["quarantined"]) == (1, 2, 1)


def test_a_table_says_why_where_and_how_many(contract: Path) -> None:
    path = contract.parent / "in.csv"
    path.write_text("at,id,lo,hi\n" + GOOD.format(1) + "noon,2,1,2\n")
    done = CliRunner().invoke(app, ["validate", str(contract), str(path), *AS_OF])

    assert done.exit_code == 1
    for shown in ("at:lexical_form", "in.csv:3", "noon", "2 rows, 1 clean, 1 quarantined"):
        assert shown in done.stdout


def test_a_wrong_command_line_is_64_and_a_bad_file_65_never_1_or_2(contract: Path) -> None:
    empty = contract.parent / "empty.csv"
    empty.touch()
    invoke = CliRunner().invoke

    assert invoke(app, ["validate", str(contract)]).exit_code == 64
    assert invoke(app, ["validate", str(contract), "nowhere.csv"]).exit_code == 64
    assert invoke(app, ["validate", str(contract), str(empty), "--colour"]).exit_code == 64
    assert invoke(app, ["validate", str(contract), str(empty)]).exit_code == 65
    contract.write_text(CONTRACT.replace("logicalType: number", "logicalType: nummer"))
    assert invoke(app, ["validate", str(contract), str(empty)]).exit_code == 65


def test_an_error_half_way_leaves_no_file_behind(contract: Path) -> None:
    good = contract.parent / "good.jsonl"
    good.write_text('{"at": "2026-11-24T00:00:00Z", "id": 1}\n')
    broken = contract.parent / "broken.parquet"
    broken.write_bytes(b"PAR1")
    out = contract.parent / "clean.parquet"
    done = CliRunner().invoke(app, ["validate", str(contract), str(good), str(broken), "--clean", str(out)])

    assert done.exit_code == 65
    assert "broken.parquet" in done.stderr
    assert sorted(path.name for path in contract.parent.iterdir()) == ["broken.parquet", "good.jsonl", "things.yaml"]


def test_memory_stays_bounded_whatever_the_size(contract: Path) -> None:
    """Four million rows whose raw columns alone take 300 MB, with a key of their own, stay under 512 MiB in all."""
    path = contract.parent / "many.parquet"
    part = 1 << 18
    instant = pa.array(["2026-11-24T00:00:00Z"] * part)
    schema = pa.schema([("at", pa.string()), ("id", pa.int32()), ("lo", pa.float64()), ("hi", pa.float64())])
    with pq.ParquetWriter(path, schema) as out:
        for number in range(16):
            ids = pa.array(range(number * part, (number + 1) * part), pa.int32())
            ones = pa.array([float(number)] * part)
            out.write_table(pa.table([instant, ids, ones, ones], schema=schema))
    clean = contract.parent / "clean.parquet"
    code = (
        "import atexit, sys; from tests.peak import peak_mib; from tidegate.cli import app\n"
        "atexit.register(lambda: print(peak_mib(), file=sys.stderr)); app(sys.argv[1:])"
    )
    arguments = ["validate", str(contract), str(path), "--json", *AS_OF, "--clean", str(clean)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["clean"] == 16 * part
    assert int(done.stderr.splitlines()[-1]) < 512
