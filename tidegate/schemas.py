"""Exports JSON Schemas for editors from the models that read the files: `python -m tidegate.schemas`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from open_data_contract_standard.model import OpenDataContractStandard

from tidegate.contract import columns, kinds, whole
from tidegate.delivery import json_schema, project_root

if TYPE_CHECKING:
    from pathlib import Path


def exported() -> dict[str, str]:
    """Return file name -> text of every exported schema."""
    found = {"delivery.schema.json": json_schema(), "contract.schema.json": contract_schema()}
    return {name: json.dumps(schema, indent=2, ensure_ascii=False) + "\n" for name, schema in found.items()}


def contract_schema() -> dict[str, Any]:
    """Return the standard's own JSON schema, narrowed to what we enforce: our custom properties, our types."""
    schema: dict[str, Any] = json.loads(OpenDataContractStandard.json_schema())  # type: ignore[no-untyped-call]
    parts = schema["$defs"]
    logical = ["integer", "number", *kinds.LOGICAL]
    narrowed = {
        "logicalType": {"enum": logical},
        "physicalType": {"examples": list(kinds.PHYSICAL)},
        "customProperties": _custom(columns.CUSTOM),
    }
    parts["SchemaBaseProperty"]["allOf"].append({"properties": narrowed})
    parts["SchemaObject"]["allOf"].append({"properties": {"customProperties": _custom(whole.CUSTOM)}})
    return schema


def _custom(known: dict[str, str]) -> dict[str, Any]:
    names = [{"const": name, "description": meaning} for name, meaning in known.items()]
    return {"items": {"properties": {"property": {"oneOf": names}}}}


def write(folder: Path) -> list[Path]:
    """Write the schemas into a folder; return their paths."""
    written = []
    for name, text in exported().items():
        (folder / name).write_text(text, encoding="utf-8")
        written.append(folder / name)
    return written


if __name__ == "__main__":
    for path in write(project_root() / "schemas"):
        print(path)
