"""Reads a contract from an Open Data Contract Standard v3.1 file and reports every mistake with its line.

Four readers in a row, each stricter about something else: YAML with line numbers, the standard's own JSON schema, its
pydantic model, and then our rules: what we cannot enforce is refused, because a rule that nobody checks is a lie.
See https://bitol-io.github.io/open-data-contract-standard/v3.1.0/.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
from open_data_contract_standard.model import OpenDataContractStandard, SchemaProperty
from pydantic import ValidationError

from tidegate.contract import contracts_folder
from tidegate.contract.columns import ColumnReader
from tidegate.contract.model import Contract
from tidegate.contract.whole import WholeReader
from tidegate.yamlfile import FieldPath, Problem, SpecProblems, YamlFile

if TYPE_CHECKING:
    from collections.abc import Iterator

_REMEDIES = {
    "required": "add the field",
    "enum": "write one of {value}",
    "type": "write a value of type {value}",
    "additionalProperties": "remove it, or mend its spelling; the standard has no such field here",
    "unevaluatedProperties": "remove it, or mend its spelling; the standard has no such field here",
    "pattern": "write a value that matches {value}",
    "const": "write {value}",
}
_EXTRA = {"unevaluatedProperties", "additionalProperties"}


def located(contract: str) -> Path:
    """Return the path of a contract that a user gave by its file or by its name."""
    path = Path(contract)
    return path if path.suffix or path.exists() else contracts_folder() / f"{contract}.yaml"


def read_contract(path: Path) -> Contract:
    """Read one contract file.

    Raises:
        SpecProblems: the file has mistakes; each names file, line, field, value and remedy.
    """
    file = YamlFile.read(path)
    problems = _standard_problems(file)
    if not problems:
        problems = _model_problems(file)
    if problems:
        raise SpecProblems(problems)
    return _compile(file, path)


def _standard_problems(file: YamlFile) -> list[Problem]:
    misshapen = {problem: at for at, problem in _shape_problems(file)}
    errors = [e for e in _validator().iter_errors(file.data) if tuple(e.absolute_path)[:4] not in misshapen.values()]
    own = [error for error in errors if error.validator != "unevaluatedProperties"] or errors  # it follows from others
    found = {problem: None for error in own for problem in _standard_problem(file, error)}
    return [*misshapen, *found]


def _shape_problems(file: YamlFile) -> Iterator[tuple[FieldPath, Problem]]:
    """Find misspelt and missing fields of columns first: the standard's schema takes a column without a logicalType
    for one of every type at once, and buries the mistake under a dozen others."""
    objects = file.data.get("schema")
    first = objects[0] if isinstance(objects, list) and objects and isinstance(objects[0], dict) else {}
    columns = first.get("properties")
    for position, column in enumerate(columns if isinstance(columns, list) else []):
        at: FieldPath = ("schema", 0, "properties", position)
        if not isinstance(column, dict):
            continue
        for name in column.keys() - SchemaProperty.model_fields.keys():
            close = difflib.get_close_matches(str(name), SchemaProperty.model_fields, 1)
            remedy = f"write {close[0]}" if close else "remove it; the standard has no such field here"
            yield at, _named(file, (*at, name), column[name], "no such field", remedy)
        for name in ("name", "logicalType", "physicalType"):
            if name not in column:
                yield at, _named(file, (*at, name), "nothing", "this field is required", "add it")


def _standard_problem(file: YamlFile, error: jsonschema.ValidationError) -> list[Problem]:
    deepest = jsonschema.exceptions.best_match([error]) or error
    field: FieldPath = tuple(deepest.absolute_path)
    remedy = _REMEDIES.get(str(deepest.validator), "write it as the standard has it: {value}")
    if deepest.validator in _EXTRA:
        holder: Any = deepest.instance
        extra = [name for name in re.findall(r"'([^']*)'", deepest.message) if name in holder]
        return [_named(file, (*field, name), holder[name], "no such field", remedy) for name in extra]
    allowed = json.dumps(deepest.validator_value, default=str)
    remedy = remedy.format(value=allowed if len(allowed) <= 160 else allowed[:157] + "...")
    message = deepest.message if len(deepest.message) <= 160 else deepest.message[:157] + "..."
    return [_named(file, field, deepest.instance, message, remedy)]


def _named(file: YamlFile, field: FieldPath, value: object, message: str, remedy: str) -> Problem:
    """Describe a mistake with its column's name in place of the column's number, where it has one."""
    problem = file.problem(field, value, message, remedy)
    if len(field) < 4 or field[:3] != ("schema", 0, "properties"):
        return problem
    column = file.data["schema"][0]["properties"][field[3]]
    name = column.get("name") if isinstance(column, dict) else None
    return replace(problem, field=".".join(map(str, (name, *field[4:])))) if name else problem


def _model_problems(file: YamlFile) -> list[Problem]:
    try:
        OpenDataContractStandard.model_validate(file.data)
    except ValidationError as error:
        return file.problems(error)
    return []


@functools.cache
def _validator() -> Any:
    schema = json.loads(OpenDataContractStandard.json_schema())  # type: ignore[no-untyped-call]  # it ships untyped
    return jsonschema.validators.validator_for(schema)(schema)


def _compile(file: YamlFile, path: Path) -> Contract:
    problems: list[Problem] = []
    if file.data["id"] != path.stem:
        problems.append(file.problem(["id"], file.data["id"], "the id differs from the file's", f"write {path.stem}"))
    objects = file.data.get("schema") or []
    if len(objects) != 1 or not objects[0].get("properties"):
        shown = f"{len(objects)} schema objects"
        raise SpecProblems(
            [*problems, file.problem(["schema"], shown, "a contract describes one source", "keep one, with properties")]
        )
    properties = objects[0]["properties"]
    readers = [ColumnReader(file, ("schema", 0, "properties", n), item) for n, item in enumerate(properties)]
    columns = tuple(reader.read() for reader in readers)
    for reader in readers:
        problems += reader.problems
    problems += _between_columns(file, properties)
    whole = WholeReader(file, columns)
    row_rules, slice_rules = whole.row_rules(), whole.slice_rules()
    problems += whole.problems
    contract = Contract(
        name=path.stem,
        version=str(file.data["version"]),
        columns=columns,
        path=str(path),
        digest=hashlib.sha256(path.read_bytes()).hexdigest(),
        row_rules=row_rules,
        slice_rules=slice_rules,
    )
    if not problems:
        problems += whole.tried(contract)
    if problems:
        raise SpecProblems(problems)
    return contract


def _between_columns(file: YamlFile, properties: list[dict[str, Any]]) -> list[Problem]:
    problems = []
    seen: dict[str, int] = {}
    clocks: list[int] = []
    for position, item in enumerate(properties):
        name = item["name"]
        if name in seen:
            at: FieldPath = ("schema", 0, "properties", position, "name")
            problems.append(file.problem(at, name, "this column stands twice", "keep one of them"))
        seen[name] = position
        custom = {entry["property"]: entry["value"] for entry in item.get("customProperties", [])}
        if custom.get("eventTime") is True:
            clocks.append(position)
    for position in clocks[1:]:
        at = ("schema", 0, "properties", position, "customProperties")
        problems.append(file.problem(at, "eventTime", "two columns are the event time", "keep one"))
    return problems
