"""The `tidegate` command."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from tidegate import contract_cli, quarantine_cli, rollout_cli
from tidegate.explained import explained
from tidegate.validate import command as validating

app = typer.Typer(
    name="tidegate",
    help="Deliver TensorFlow models to production, stage by stage, and take them back by themselves.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


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

    with explained():
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
def alerts(
    write: Annotated[Path | None, typer.Option(help="Write a rule file per delivery into this folder.")] = None,
) -> None:
    """Show the Prometheus rules of all deliveries, made from their limits, or write them for your own Prometheus."""
    from tidegate import alerts as rules
    from tidegate.delivery import deliveries_folder, read_delivery

    with explained():
        found = [read_delivery(path) for path in sorted(deliveries_folder().glob("*.yaml"))]
        if write is None:
            print(*(rules.text(delivery) for delivery in found), sep="\n")
            return
        for path in rules.write(write, found):
            print(path)


@app.command()
def render(
    delivery: Annotated[str, typer.Argument(help="A delivery whose train.launcher is kubernetes.")],
    stage: Annotated[Literal["train"], typer.Argument(help="The stage that runs in pods.")] = "train",
) -> None:
    """Print a stage's Kubernetes objects as YAML: to read, to compare, or for kubectl apply --dry-run=server -f -."""
    from tidegate.launch import render as rendering

    with explained():
        text = rendering.text(delivery, stage)
    print(text, end="")


@app.command()
def demo(
    rate: Annotated[float, typer.Option(help="Requests a second of live traffic.")] = 150.0,
) -> None:
    """Run the main job on real data: ingest, train, gate, roll out, promote one model, throw out a bad one."""
    from tidegate.demo.command import demonstrate

    with explained():
        demonstrate(Console(width=None if sys.stdout.isatty() else 120), rate)


app.add_typer(contract_cli.app, name="contract")
app.add_typer(quarantine_cli.app, name="quarantine")
app.command(cls=validating.Command)(validating.validate)
rollout_cli.add_to(app)
