"""`tidegate contract`: infer, compile and publish contracts."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tidegate.explained import explained

app = typer.Typer(help="Write, compile and publish the contracts of sources.", no_args_is_help=True)
Named = Annotated[str, typer.Argument(help="A contract's file, or the name of one in schemas/contracts.")]


@app.command()
def publish(contract: Named) -> None:
    """Keep this version of a contract as a promise; a breaking change needs a new major version."""
    from tidegate.contract import published

    with explained():
        print(published.publish(located(contract)))


@app.command("compile")
def compile_one(
    contract: Named, engine: Annotated[str, typer.Argument(help="json_schema, tfdv, great_expectations or tf_io.")]
) -> None:
    """Print a contract in another engine's form; what that cannot express is listed on stderr."""
    from tidegate.contract.odcs import read_contract
    from tidegate.contract.targets import ENGINES, compile_for

    if engine not in ENGINES:
        raise typer.BadParameter(f"there is no engine {engine!r}; there are {', '.join(ENGINES)}")
    with explained():
        compiled = compile_for(engine, read_contract(located(contract)))
    artefact: Any = compiled.artefact
    print(jsonlib.dumps(artefact, indent=2, ensure_ascii=False) if isinstance(artefact, dict) else artefact, end="\n")
    err = Console(stderr=True)
    for missing in compiled.missing:
        err.print(f"not in it: {missing.reason} ({missing.why})", highlight=False, soft_wrap=True)


def located(contract: str) -> Path:
    """Return the path of a contract given by its file or its name."""
    from tidegate.contract.odcs import contracts_folder

    path = Path(contract)
    return path if path.suffix or path.exists() else contracts_folder() / f"{contract}.yaml"
