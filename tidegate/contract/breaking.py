"""What a new version of a contract breaks, and for whom: datacontract-cli's own detection, in its environment.

`python -m tidegate.contract.breaking OLD NEW` (by .envs/contract's Python) prints a JSON list; `changes` asks for it
from the control plane. To it a custom property is a note; what ours mean for the rows is compared here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tidegate.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIDES: dict[str, Literal["readers", "writers"]] = {"consumer": "readers", "producer": "writers"}
_OURS = ("lexicalForm", "cast", "missing", "eventTime")
_TIME_OUT = 120.0


@dataclass(frozen=True)
class Change:
    """One breaking change: whom it breaks, where in the contract, and in words."""

    breaks: Literal["readers", "writers"]
    path: str
    message: str


def changes(old: Path, new: Path) -> list[Change]:
    """Return what breaks readers or writers between two contract files.

    Raises:
        SetupError: datacontract-cli's environment is missing, or it failed.
    """
    python = _python()
    try:
        done = subprocess.run(
            [str(python), "-m", "tidegate.contract.breaking", str(old), str(new)],
            capture_output=True, text=True, check=False, timeout=_TIME_OUT,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise SetupError(
            f"datacontract-cli gave no answer on {new} within {_TIME_OUT:g} s; run the check again"
        ) from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
        raise SetupError(
            f"datacontract-cli cannot compare {old} with {new}: {last}; make its environment anew: make envs"
        )
    return [Change(**each) for each in json.loads(done.stdout.splitlines()[-1])]


def _python() -> Path:
    from pathlib import Path

    from tidegate.delivery import project_root

    python = Path(os.environ.get("TIDEGATE_DATACONTRACT", project_root() / ".envs" / "contract")) / "bin" / "python"
    if not python.exists():
        raise SetupError(
            f"{python} is not there: contracts are compared by datacontract-cli, which has an environment of its own; "
            "make it with: make envs"
        )
    return python


def detected(old: str, new: str) -> Iterator[Change]:
    """Yield the breaking changes; runs where datacontract-cli is installed."""
    from datacontract.data_contract import DataContract
    from datacontract.model.breaking import BreakingChangeLevel, Perspective

    for perspective, breaks in SIDES.items():
        one, other = (DataContract(data_contract_file=path, inline_references=False) for path in (old, new))
        for entry in one.breaking(other, perspective=Perspective(perspective)).entries:
            if entry.level == BreakingChangeLevel.ERROR:
                was = f" (was {entry.old_value}, is {entry.new_value})" if entry.old_value or entry.new_value else ""
                yield Change(breaks, entry.path, entry.message + was)
    yield from _custom(_loaded(old), _loaded(new))


def _loaded(path: str) -> dict[str, Any]:
    import yaml

    with open(path, encoding="utf-8") as file:
        data: dict[str, Any] = yaml.safe_load(file)
    return data


def _custom(old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    """Compare our own properties: another lexical form takes and refuses other texts, so it may break writers."""
    table = new["schema"][0]["name"]
    before, after = _properties(old), _properties(new)
    for name in before.keys() & after.keys():
        for each in _OURS:
            was, now = before[name].get(each), after[name].get(each)
            if was != now:
                path = f"schema.{table}.properties.{name}.customProperties.{each}"
                yield Change("writers", path, f"Changed {each} of {name} (was {was!r}, is {now!r})")


def _properties(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    properties = data["schema"][0]["properties"]
    return {p["name"]: {c["property"]: c["value"] for c in p.get("customProperties", [])} for p in properties}


if __name__ == "__main__":
    print(json.dumps([vars(change) for change in detected(*sys.argv[1:3])]))
