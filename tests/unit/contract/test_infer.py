# ruff: noqa: E501 - cases are one line each
"""A first contract from what was seen: it reads, it passes what it was made from, and its comments say why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tidegate.cli import app
from tidegate.contract import Contract
from tidegate.contract.infer import contract_text
from tidegate.contract.odcs import read_contract
from tidegate.validate.command import check_files


def inferred(folder: Path, source: Path, *more: str) -> tuple[Contract, str]:
    done = CliRunner().invoke(app, ["contract", "infer", str(source), "--name", "things", *more])
    assert done.exit_code == 0, done.output
    (folder / "things.yaml").write_text(done.stdout)
    return read_contract(folder / "things.yaml"), done.stdout


def test_csv_texts_are_recognised_by_their_forms_with_how_often(tmp_path: Path) -> None:
    source = tmp_path / "s.csv"
    rows = [f"2026-01-{1 + n % 28:02d}T00:00:00Z,{n},0{n},{n / 4},{'ab'[n % 2]},2026-01-01,true" for n in range(99)]
    source.write_text("at,n,code,x,kind,day,ok\n" + "\n".join([*rows, "noon,7,007,1,a,2026-01-01,"]) + "\n")
    contract, text = inferred(tmp_path, source)
    kinds = {column.name: (column.raw, column.clean) for column in contract.columns}

    assert kinds == {
        "at": ("string", "timestamp"), "n": ("string", "int64"), "code": ("string", "string"), "x": ("string", "float64"),
        "kind": ("string", "string"), "day": ("string", "date"), "ok": ("string", "bool"),
    }  # fmt: skip
    assert contract.columns[4].enum == ("a", "b")
    assert [column.name for column in contract.columns if not column.required] == ["ok"]
    assert "99 of 100 texts are instants in UTC" in text
    assert "such as 'noon'" in text
    assert "1 times NULL" in text
    report = check_files(contract, [source], None, None, 0.0)
    assert (report["clean"], [each["reason"] for each in report["reasons"]]) == (99, ["at:lexical_form"])


def test_parquet_types_ranges_and_uniqueness_are_seen(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": pa.array(range(50), pa.uint16()),
            "x": pa.array([1.0, float("nan"), *[312.5] * 48], pa.float32()),
            "price": pa.array([1] * 50, pa.int64()).cast(pa.decimal128(21, 2)),
            "at": pa.array([0] * 50, pa.timestamp("us")),
            "place": pa.array([{"lat": 1.5, "tags": ["a"]}] * 50),
            "blob": pa.array([b"x"] * 50),
        }
    )
    source = tmp_path / "s.parquet"
    pq.write_table(table, source)
    contract, text = inferred(tmp_path, source)

    assert contract.columns[0].maximum == 49
    assert "a primaryKey?" in text.splitlines()[11]
    assert "1 times NaN or infinite" in text
    assert check_files(contract, [source], None, None, 0.0)["clean"] == 49


def test_json_lines_are_inferred_with_what_is_nested(tmp_path: Path) -> None:
    source = tmp_path / "s.jsonl"
    messages = [{"id": n, "o": {"a": [1, 2], "b": "x"}, "t": "2026-01-01T00:00:00Z"} for n in range(30)]
    source.write_text("\n".join(json.dumps(each) for each in messages))
    contract, _ = inferred(tmp_path, source)

    assert check_files(contract, [source], None, None, 0.0)["clean"] == 30
    assert contract.columns[2].clean == "timestamp"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["nowhere.csv"], 65), (["x.xml"], 65), (["postgres://u@h/d"], 2), (["kafka://127.0.0.1:1/t"], 75)],
)
def test_a_source_that_cannot_be_read_is_named(arguments: list[str], code: int) -> None:
    assert CliRunner().invoke(app, ["contract", "infer", *arguments]).exit_code == code


VALUES: list[Any] = [
    st.integers(-(2**63), 2**63 - 1), st.floats(), st.booleans(), st.text(max_size=8), st.dates(), st.binary(max_size=4),
    st.sampled_from(["2026-01-01", "1.5", "-3", "true", "0", "yes", "null", "~", "'", '"', "#x: y"]),
]  # fmt: skip


@given(st.data())
def test_whatever_was_seen_the_contract_reads_and_lets_all_but_odd_rows_pass(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("infer")
    names = data.draw(
        st.lists(
            st.text(min_size=1, max_size=5).filter(lambda t: not t.startswith("_")), min_size=1, max_size=3, unique=True
        )
    )
    size = data.draw(st.integers(1, 30))
    columns = [
        pa.array(data.draw(st.lists(st.none() | value, min_size=size, max_size=size)))
        for value in (data.draw(st.sampled_from(VALUES)) for _ in names)
    ]
    table = pa.table(columns, names=names)
    text = contract_text("things", table, "memory")
    (folder / "things.yaml").write_text(text, encoding="utf-8")
    contract = read_contract(folder / "things.yaml")
    assert contract.names == tuple(names)


def test_the_smallest_number_there_is_has_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "things.yaml"
    path.write_text(contract_text("things", pa.table({"x": [5e-324, 1.0]}), "memory"), encoding="utf-8")
    (column,) = read_contract(path).columns
    assert (column.minimum, column.maximum) == (5e-324, 1.0)
