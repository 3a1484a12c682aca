"""Exports JSON Schemas for editors from the models that read the files: `python -m tidegate.schemas`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tidegate.delivery import json_schema, project_root

if TYPE_CHECKING:
    from pathlib import Path


def exported() -> dict[str, str]:
    """Return file name -> text of every exported schema."""
    return {"delivery.schema.json": json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"}


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
