"""The JSON Schemas that editors use: current, named by every file, and true to what the readers take."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from tidegate.delivery import project_root
from tidegate.schemas import contract_schema, exported

SCHEMAS = project_root() / "schemas"
SHIPPED = sorted((SCHEMAS / "contracts").rglob("*.yaml")) + sorted((SCHEMAS / "deliveries").glob("*.yaml"))


@pytest.mark.parametrize("name", sorted(exported()))
def test_the_exported_schema_is_current(name: str) -> None:
    assert (SCHEMAS / name).read_text(encoding="utf-8") == exported()[name], "run: python -m tidegate.schemas"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(SCHEMAS)))
def test_every_shipped_file_names_its_schema_in_the_first_line_and_fits_it(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    schema = json.loads((path.parent / first.partition("$schema=")[2]).resolve().read_text(encoding="utf-8"))
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert list(validator.iter_errors(yaml.safe_load(path.read_text(encoding="utf-8")))) == []


def test_an_unknown_custom_property_is_marked_by_the_editor() -> None:
    path = SCHEMAS / "contracts" / "weather.yaml"
    data = yaml.safe_load(path.read_text(encoding="utf-8").replace("eventTime", "evenTime"))
    validator = jsonschema.validators.validator_for(contract_schema())(contract_schema())
    assert not validator.is_valid(data)
