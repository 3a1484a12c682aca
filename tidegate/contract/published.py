"""The published versions of contracts: copies beside them that say what others may rely on.

`schemas/contracts/published/<name>/<version>.yaml`. They travel with the contracts, so that a deployment without a
version history still knows what was promised.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import yaml

from tidegate.contract.breaking import changes
from tidegate.contract.odcs import read_contract
from tidegate.errors import SpecError
from tidegate.yamlfile import Problem, SpecProblems, YamlFile

if TYPE_CHECKING:
    from pathlib import Path

_VERSION = re.compile(r"^(\d+)\.(\d+)\.(\d+)$")


def parsed(version: str) -> tuple[int, int, int]:
    """Return the three numbers of a version.

    Raises:
        ValueError: it is no `major.minor.patch`.
    """
    found = _VERSION.match(version)
    if found is None:
        raise ValueError(f"{version!r} is no version of the form major.minor.patch")
    return int(found[1]), int(found[2]), int(found[3])


def newest(path: Path) -> Path | None:
    """Return the newest published version of a contract file, or None."""
    folder = path.parent / "published" / path.stem
    versions = [each for each in folder.glob("*.yaml") if _VERSION.match(each.stem)]
    return max(versions, key=lambda each: parsed(each.stem), default=None)


def problems(path: Path) -> list[Problem]:
    """Return what is wrong with a contract's version, given what is published of it.

    A change that breaks readers or writers needs a new major version, and any other one a new version.

    Raises:
        SpecProblems: the file itself has mistakes.
        SetupError: datacontract-cli is needed and missing.
    """
    file = YamlFile.read(path)
    last = newest(path)
    try:
        version = parsed(str(file.data.get("version")))
    except ValueError as error:
        return [file.problem(["version"], file.data.get("version"), str(error), "write one, such as 1.0.0")]
    if last is None:
        return []
    same = yaml.safe_load(last.read_text(encoding="utf-8")) == file.data
    before = parsed(last.stem)
    if version < before:
        return [
            file.problem(["version"], file.data["version"], f"{last.stem} is published already", "write a newer one")
        ]
    if same or (version[0] > before[0]):
        return []
    broken = [
        file.problem(
            _field(file, change.path),
            change.path,
            f"breaks {change.breaks} of {last.stem}: {change.message}",
            f"take the change back, or write version {before[0] + 1}.0.0",
        )
        for change in changes(last, path)
    ]
    if not broken and version == before:
        message = f"{last.stem} is published with another content"
        remedy = f"write version {before[0]}.{before[1] + 1}.0"
        return [file.problem(["version"], file.data["version"], message, remedy)]
    return broken


def _field(file: YamlFile, path: str) -> list[str | int]:
    """Return where the property of a path like `schema.flights.properties.dest.required` stands, or the version."""
    found = re.match(r"schema\.[^.]+\.properties\.([^.]+)", path)
    names = [item.get("name") for item in file.data["schema"][0]["properties"]]
    if found and found[1] in names:
        return ["schema", 0, "properties", names.index(found[1])]
    return ["schema", 0, "properties"] if found else ["version"]


def publish(path: Path) -> Path:
    """Keep a copy of a contract as its version; publishing the same again changes nothing.

    Raises:
        SpecProblems: the contract has mistakes, or breaks what is published without a new major version.
        SpecError: the copy cannot be written.
    """
    contract = read_contract(path)
    found = problems(path)
    if found:
        raise SpecProblems(found)
    target = path.parent / "published" / path.stem / f"{contract.version}.yaml"
    if not target.exists():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_suffix(".part")
            text = path.read_text(encoding="utf-8").replace("$schema=../", "$schema=../../../", 1)
            part.write_text(text, encoding="utf-8")
            part.replace(target)
        except OSError as error:
            raise SpecError(f"{target} cannot be written: {error}; make the folder writable") from error
    return target
