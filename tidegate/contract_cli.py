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
    from tidegate.contract.odcs import located

    with explained():
        print(published.publish(located(contract)))


@app.command("compile")
def compile_one(
    contract: Named, engine: Annotated[str, typer.Argument(help="json_schema, tfdv, great_expectations or tf_io.")]
) -> None:
    """Print a contract in another engine's form; what that cannot express is listed on stderr."""
    from tidegate.contract.odcs import located, read_contract
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


@app.command()
def infer(
    source: Annotated[str, typer.Argument(help="A file, postgres://user@host/database, or kafka://host:port/topic.")],
    table: Annotated[str | None, typer.Option(help="The table, where the source is Postgres: schema.table.")] = None,
    name: Annotated[str | None, typer.Option(help="The contract's name (default: the source's).")] = None,
    rows: Annotated[int, typer.Option(help="Look at no more rows than these.", min=1, max=1_000_000)] = 100_000,
) -> None:
    """Print a first contract of a file, a table or a topic, with comments on what was seen and how often."""
    from tidegate.contract.infer import contract_text

    with explained():
        found, called = _sampled(source, table, rows)
        shown = source if "@" not in source else f"{source.partition(':')[0]}://...@{source.rpartition('@')[2]}"
        print(contract_text(name or called, found, f"{shown} {table or ''}".strip()), end="")


def _sampled(source: str, table: str | None, rows: int) -> tuple[Any, str]:
    import re
    from urllib.parse import urlsplit

    from tidegate.files.sample import from_messages, sample

    kind = source.partition("://")[0]
    if kind in ("postgres", "postgresql"):
        if not table:
            raise typer.BadParameter("name the table: --table schema.table")
        from tidegate.ingest.sampling import postgres

        found, called = postgres(source, table, rows), table.rpartition(".")[2]
    elif kind == "kafka":
        from tidegate.ingest.sampling import kafka

        parts = urlsplit(source)
        called = parts.path.strip("/")
        found = from_messages(kafka(parts.netloc, called, rows), rows)
    else:
        found, called = sample(Path(source), rows), Path(source).name.partition(".")[0]
    return found, re.sub(r"\W+", "_", called).strip("_").lower() or "source"
