# ruff: noqa: E501 - programs and cases are one line each
"""The masks are the one meaning of a rule: wherever another engine expresses it, both find the same rows or slices."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from tidegate.contract import Column, Contract
from tidegate.contract.arrow import raw_schema, slice_schema
from tidegate.contract.decode import decode_json
from tidegate.contract.masks import judge
from tidegate.contract.odcs import read_contract
from tidegate.contract.targets import ENGINES, Compiled, compile_for
from tidegate.contract.targets.listing import page
from tidegate.contract.targets.patterns import portable
from tidegate.contract.targets.tfdv import examples
from tidegate.delivery import project_root

PATTERNS = ["^[ab]+$", r"^\d{1,2}$", "b", r"^\w\S?$", "^(a|bc)$", r"[^\d]$"]
TEXTS = st.text(alphabet="abc1 2ä_\n", max_size=3)
INTS = st.integers(-4, 9)
FLOATS = st.floats(-3, 3, width=32) | st.sampled_from([0.5, 1.5])
SLOW = settings(suppress_health_check=list(HealthCheck), max_examples=max(150, settings().max_examples))


def _sets(*rules: str) -> list[tuple[str, ...]]:
    """No rule, each alone (twice as often), and each pair."""
    return [(), *((rule,) for rule in rules * 2), *itertools.combinations(rules, 2)]


_NUMBERS = ("required", "minimum", "maximum")
_SETS = {
    "string": _sets("required", "pattern", "enum", "min_length", "max_length"),
    "float64": _sets(*_NUMBERS),
    **dict.fromkeys(("int32", "int64"), _sets(*_NUMBERS, "exclusive_minimum", "exclusive_maximum")),
}


@st.composite
def columns(draw: Callable[..., Any], name: str) -> tuple[Column, Any]:
    """A column with a rule or two that every engine knows, and values that lie about their edges."""
    kind = draw(st.sampled_from(["string", "string", "int32", "int64", "float64"]))
    if kind == "string":
        rules = draw(st.sampled_from(_SETS["string"]))
        stated = {
            "required": True,
            "pattern": draw(st.sampled_from(PATTERNS)),
            "enum": tuple(draw(st.lists(TEXTS, min_size=1, max_size=3, unique=True))),
            "min_length": draw(st.integers(1, 3)),
            "max_length": draw(st.integers(0, 2)),
        }
        values = st.none() | TEXTS | st.sampled_from(["a", "1", "ab", "ab\n", "1\n", *stated["enum"]])
    else:
        exact = ["exclusive_minimum", "exclusive_maximum"] if kind != "float64" else []
        rules = draw(st.sampled_from(_SETS[kind]))
        edge = draw(INTS if kind != "float64" else FLOATS)
        stated = {"required": True, **dict.fromkeys(["minimum", "maximum", *exact], edge)}
        values = st.sampled_from([None, edge - 1, edge, edge + 1])
    return Column(name, kind, kind, **{rule: stated[rule] for rule in rules}), values


@st.composite
def slices(draw: Callable[..., Any]) -> tuple[Contract, list[dict[str, Any]]]:
    """A contract and raw rows for it, some of which break it."""
    drawn = [draw(columns(name)) for name in "xy"[: draw(st.integers(1, 2))]]
    contract = Contract("t", "1", tuple(column for column, _ in drawn), "t.yaml", "0" * 64)
    row = st.fixed_dictionaries({column.name: values for column, values in drawn})
    return contract, draw(st.lists(row, min_size=1, max_size=4))


def masks(contract: Contract, rows: list[dict[str, Any]]) -> tuple[Any, set[str]]:
    table = pa.Table.from_pylist(rows, schema=raw_schema(contract))
    return table, {finding.reason for finding in judge(table, contract).findings}


def expressed(compiled: Compiled, reasons: set[str]) -> set[str]:
    return reasons - {missing.reason for missing in compiled.missing}


def _ecma(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    """ECMA's `$` is the end of the text; Python's would let a last newline pass."""
    if isinstance(instance, str) and not re.search(re.sub(r"(?<!\\)\$", r"\\Z", pattern), instance):
        yield jsonschema.ValidationError(f"{instance!r} does not match {pattern}")


VALIDATOR: Any = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"pattern": _ecma})
NESTED = (
    Column("at", "string", "int64", required=True, lexical_form=r"\d{4}-\d\d", cast="decimal"),
    Column("n", "string", "string", missing=("NA", "-"), min_length=2),
    Column("r", "string", "string", required=True, missing=("NA",)),
    Column(
        "o",
        "struct",
        "struct",
        fields=(
            Column("a", "uint8", "uint8", required=True, exclusive_maximum=200),
            Column("l", "list", "list", max_items=2, items=Column("i", "string", "string", pattern="^a")),
        ),
    ),
)
WORDS = st.none() | st.sampled_from(["NA", "-", "a", "ab", "2013-01", "2013-01\n", "20130-1", "bc"])
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "at": WORDS,
        "n": WORDS,
        "r": WORDS,
        "o": st.none()
        | st.fixed_dictionaries(
            {}, optional={"a": st.none() | st.integers(-1, 300), "l": st.none() | st.lists(WORDS, max_size=3)}
        ),
    },
)


@given(MESSAGES)
def test_json_schema_takes_exactly_the_messages_that_become_clean_rows(message: dict[str, Any]) -> None:
    contract = Contract("t", "1", NESTED, "t.yaml", "0" * 64)
    compiled = compile_for("json_schema", contract)
    row = decode_json(json.dumps(message).encode(), "p", contract)
    found = judge(pa.Table.from_pylist([row], schema=slice_schema(contract)), contract)
    only_said = {reason for reasons in found.reasons for reason in reasons} - {m.reason for m in compiled.missing}

    assert VALIDATOR(compiled.artefact).is_valid(message) == (not only_said)


@settings(max_examples=max(500, settings().max_examples))
@given(slices())
def test_json_schema_finds_the_rows_that_masks_find(case: tuple[Contract, list[dict[str, Any]]]) -> None:
    contract, rows = case
    compiled = compile_for("json_schema", contract)
    validator = VALIDATOR(compiled.artefact)
    table, _ = masks(contract, rows)
    bad = set(judge(table, contract).bad.tolist())

    assert compiled.missing == ()
    assert {number for number, row in enumerate(rows) if not validator.is_valid(row)} == bad


@pytest.mark.parametrize("pattern", PATTERNS)
@given(text=TEXTS)
def test_a_portable_pattern_means_the_same_texts(pattern: str, text: str) -> None:
    contract = Contract("t", "1", (Column("x", "string", "string", pattern=pattern),), "t.yaml", "0" * 64)
    found = judge(pa.table({"x": [text]}), contract)
    assert bool(re.search(portable(pattern, r"\Z"), text)) == (found.reasons == [])


class Engine:
    """An engine that answers one question at a time, in its own environment."""

    def __init__(self, environment: str, name: str):
        python = project_root() / ".envs" / environment / "bin" / "python"
        if not python.exists():
            pytest.skip(f".envs/{environment} is not there ({name}); make it with: make envs")
        self._process = subprocess.Popen(
            [str(python), str(Path(__file__).with_name("engine.py")), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, **question: Any) -> set[str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        found = json.loads(self._process.stdout.readline())
        assert "error" not in found, found
        return set(found["answer"])

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def engine(environment: str, name: str) -> Iterator[Engine]:
    found = Engine(environment, name)
    yield found
    found.close()


@pytest.fixture(scope="module")
def gx() -> Iterator[Engine]:
    yield from engine("validate", "great_expectations")


@pytest.fixture(scope="module")
def tfdv() -> Iterator[Engine]:
    yield from engine("validate", "tfdv")


@pytest.fixture(scope="module")
def datacontract() -> Iterator[Engine]:
    yield from engine("contract", "datacontract")


NEWLINE = (
    Contract("t", "1", (Column("x", "string", "string", pattern="^[ab]+$"),), "t.yaml", "0" * 64),
    [{"x": "ab\n"}],
)


@SLOW
@example(case=NEWLINE)
@given(case=slices())
def test_great_expectations_fails_exactly_the_rules_that_some_row_breaks(
    gx: Engine, tmp_path_factory: pytest.TempPathFactory, case: tuple[Contract, list[dict[str, Any]]]
) -> None:
    contract, rows = case
    compiled = compile_for("great_expectations", contract)
    assume(compiled.artefact["expectations"])
    table, reasons = masks(contract, rows)
    path = tmp_path_factory.mktemp("gx") / "raw.parquet"
    pq.write_table(table, path, version="1.0")

    assert gx.ask(data=str(path), schema=compiled.artefact) == expressed(compiled, reasons)


@SLOW
@given(case=slices())
def test_tfdv_finds_an_anomaly_exactly_in_the_columns_that_break_a_rule(
    tfdv: Engine, tmp_path_factory: pytest.TempPathFactory, case: tuple[Contract, list[dict[str, Any]]]
) -> None:
    contract, rows = case
    compiled = compile_for("tfdv", contract)
    table, reasons = masks(contract, rows)
    path = tmp_path_factory.mktemp("tfdv") / "examples.parquet"
    pq.write_table(examples(table, contract), path, version="1.0")
    found = tfdv.ask(data=str(path), schema=str(compiled.artefact))

    assert found == {reason.partition(":")[0] for reason in expressed(compiled, reasons)}


THEIRS = {
    "required": "field_required", "minimum": "field_minimum", "maximum": "field_maximum", "pattern": "field_regex",
    "min_length": "field_min_length", "max_length": "field_max_length", "enum": "field_invalid_values",
}  # fmt: skip


def odcs(contract: Contract, data: Path) -> dict[str, Any]:
    """Write a contract of plain columns down as ODCS, with the file as its server."""
    logical = {"string": ("string", "text", {}), "int32": ("integer", "int", {}), "int64": ("integer", "bigint", {"format": "i64"}),
               "float64": ("number", "double", {})}  # fmt: skip
    names = {"minimum": "minimum", "maximum": "maximum", "pattern": "pattern", "min_length": "minLength",
             "max_length": "maxLength"}  # fmt: skip
    properties = []
    for column in contract.columns:
        kind, physical, options = logical[column.raw]
        options = {**options, **{t: getattr(column, o) for o, t in names.items() if getattr(column, o) is not None}}
        item = {"name": column.name, "logicalType": kind, "physicalType": physical, "required": column.required}
        if options:
            item["logicalTypeOptions"] = options
        if column.enum:
            rule = {"metric": "invalidValues", "arguments": {"validValues": list(column.enum)}, "mustBe": 0}
            item["quality"] = [rule]
        properties.append(item)
    return {
        "apiVersion": "v3.1.0", "kind": "DataContract", "id": "t", "version": "1", "status": "active",
        "servers": [{"server": "local", "type": "local", "path": str(data), "format": "parquet"}],
        "schema": [{"name": "t", "properties": properties}],
    }  # fmt: skip


@settings(suppress_health_check=list(HealthCheck), max_examples=max(60, settings().max_examples // 20))
@given(case=slices())
def test_datacontract_test_fails_exactly_the_rules_that_some_row_breaks(
    datacontract: Engine, tmp_path_factory: pytest.TempPathFactory, case: tuple[Contract, list[dict[str, Any]]]
) -> None:
    from dataclasses import replace

    contract, rows = case
    plain = tuple(replace(c, exclusive_minimum=None, exclusive_maximum=None) for c in contract.columns)
    folder = tmp_path_factory.mktemp("dc")
    written = odcs(replace(contract, columns=plain), folder / "raw.parquet")
    (folder / "t.yaml").write_text(yaml.safe_dump(written, allow_unicode=True))
    ours = read_contract(folder / "t.yaml")
    table, reasons = masks(ours, rows)
    pq.write_table(table, folder / "raw.parquet")
    found = datacontract.ask(contract=str(folder / "t.yaml"))

    expected = {f"{THEIRS[rule]} {name}" for name, _, rule in (reason.partition(":") for reason in reasons)}
    assert found == expected


def test_what_an_engine_cannot_express_is_listed_with_its_why() -> None:
    contract = read_contract(project_root() / "schemas" / "contracts" / "weather.yaml")
    for name in ENGINES:
        missing = {each.reason: each.why for each in compile_for(name, contract).missing}
        assert "origin+time_hour:duplicate" in missing or name == "great_expectations"
        assert all(missing.values())


def test_the_docs_table_is_what_the_compilers_say() -> None:
    text = (project_root() / "docs" / "contracts.md").read_text(encoding="utf-8")
    assert page(text) == text, "run: python -m tidegate.contract.targets.listing"


TENSORFLOW = project_root() / ".envs" / "train" / "bin" / "python"
ROUND_TRIP = """
import sys, json, pyarrow.parquet as pq
from pathlib import Path
from tidegate.contract import Column, Contract
from tidegate.contract.targets import tf_io
import tensorflow as tf
path = Path(sys.argv[1])
contract = Contract("t", "1", (Column("s", "string", "string", required=True), Column("n", "int32", "int32"),
                               Column("x", "float64", "float64"), Column("t", "timestamp", "timestamp", required=True)), "t", "0")
table = pq.read_table(path)
spec = tf_io.parsing_spec(tf_io.compile_contract(contract))
parsed = tf.io.parse_example(list(tf_io.serialised(table, contract)), spec)
back = {name: (value.to_list() if hasattr(value, "to_list") else value.numpy().tolist()) for name, value in parsed.items()}
back["s"] = [text.decode() for text in back["s"]]
read = {}
for batch in tf_io.read([path], contract, 2):
    for name, value in batch.items():
        read.setdefault(name, []).extend(value.numpy().tolist())
read["s"] = [text.decode() for text in read["s"]]
print(json.dumps([back, read]))
"""


@pytest.mark.skipif(not TENSORFLOW.exists(), reason="needs .envs/train (TensorFlow): make envs")
def test_tensorflow_reads_back_what_the_contract_let_through(tmp_path: Path) -> None:
    schema = pa.schema([("s", pa.string()), ("n", pa.int32()), ("x", pa.float64()), ("t", pa.timestamp("us", "UTC"))])
    rows = [
        {"s": "ä", "n": 1, "x": None, "t": 0},
        {"s": "", "n": None, "x": 0.5, "t": 5},
        {"s": "c", "n": 3, "x": 1.0, "t": 7},
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "clean.parquet")
    done = subprocess.run(
        [str(TENSORFLOW), "-c", ROUND_TRIP, str(tmp_path / "clean.parquet")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    back, read = json.loads(done.stdout.splitlines()[-1])

    assert back == {"s": ["ä", "", "c"], "n": [[1], [], [3]], "x": [[], [0.5], [1.0]], "t": [0, 5, 7]}
    assert read["n"] == [1, 0, 3]
    assert read["n_present"] == [True, False, True]
    assert read["x_present"] == [False, True, True]
    assert (read["s"], read["t"]) == (["ä", "", "c"], [0, 5, 7])
