"""The `tidegate` command."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tidegate.errors import TidegateError

app = typer.Typer(
    name="tidegate",
    help="Deliver TensorFlow models to production, stage by stage, and take them back by themselves.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@contextmanager
def explained() -> Iterator[None]:
    """Turn an error of ours into its message and exit code; anything else is a fault and keeps its trace."""
    try:
        yield
    except TidegateError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {type(error).__name__}", highlight=False, soft_wrap=True)
        print(error, file=sys.stderr)
        raise typer.Exit(error.exit_code) from error


@app.command()
def up(
    new_ports: Annotated[bool, typer.Option(help="Forget the remembered ports and choose anew.")] = False,
) -> None:
    """Start the embedded stack and wait until every service is ready."""
    from tidegate.stack import console, daemon
    from tidegate.stack import up as starting
    from tidegate.stack.config import StackConfig

    out = Console()
    with explained():
        cfg = StackConfig.load()
        if new_ports:
            daemon.stop(cfg)
            cfg = StackConfig.load(new_ports=True)
        with console.UpProgress(out) as progress:
            report = starting.up(cfg, progress)
    out.print(f"ready in {report.wall_s:.1f} s", highlight=False, soft_wrap=True)
    out.print(
        f"Airflow {cfg.url('airflow')}  user {cfg.airflow_login[0]}, password in {cfg.paths.login}",
        highlight=False,
        soft_wrap=True,
    )
    for name in ("mlflow", "prometheus", "alertmanager"):
        out.print(f"{name} {cfg.url(name)}", highlight=False, soft_wrap=True)


@app.command()
def status(
    json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Show what runs: version, state, port, memory and since when."""
    from tidegate.stack import console
    from tidegate.stack import status as seen
    from tidegate.stack.config import StackConfig

    with explained():
        rows = seen.rows(StackConfig.load())
    if json:
        print(jsonlib.dumps(seen.as_json(rows), indent=2))
    else:
        Console().print(console.status_table(rows))


@app.command()
def down() -> None:
    """Stop the embedded stack; its data stays."""
    from tidegate.stack import daemon
    from tidegate.stack.config import StackConfig

    with explained():
        daemon.stop(StackConfig.load())
    Console().print("the stack is down; its data is kept")


@app.command()
def check(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Deliveries or contracts; all of the project's by default.")
    ] = None,
) -> None:
    """Explain every mistake in deliveries and contracts: file, line, field, value, problem, remedy."""
    from rich.table import Table
    from rich.text import Text

    from tidegate import check as checking

    problems = checking.check(files or ())
    out = Console()
    if not problems:
        out.print("ok")
        return
    if not out.is_terminal:  # a log or a pipe: one line each, whole
        print(*problems, sep="\n")
        raise typer.Exit(1)
    table = Table("where", "field", "value", "problem", "remedy", show_lines=True)
    for problem in problems:
        shown = (f"{problem.file}:{problem.line}", problem.field, problem.value, problem.message, problem.remedy)
        table.add_row(*(Text(cell, overflow="fold") for cell in shown))
    out.print(table)
    raise typer.Exit(1)


@app.command()
def demo(
    rate: Annotated[float, typer.Option(help="Requests a second of live traffic.")] = 150.0,
) -> None:
    """Run the main job on real data: ingest, train, gate, roll out, promote one model, throw out a bad one."""
    from tidegate.demo.command import demonstrate

    with explained():
        demonstrate(Console(width=None if sys.stdout.isatty() else 120), rate)
