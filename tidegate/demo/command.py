"""`tidegate demo`: bring the stack up, tell the story, end with where to look."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from rich.table import Table

from tidegate.demo.run import Demo
from tidegate.demo.story import Story
from tidegate.stack import console as stack_console
from tidegate.stack import daemon
from tidegate.stack import up as starting
from tidegate.stack.config import StackConfig

if TYPE_CHECKING:
    from rich.console import Console

KEEP = "DEMO_KEEP"
"""Set to 0 to end the stack with the demonstration."""


def demonstrate(console: Console, rate: float) -> None:
    """Run the demonstration on this installation's stack and leave the stack up, unless DEMO_KEEP=0."""
    cfg, begun = StackConfig.load(), time.time()
    try:
        console.print("[bold]start the embedded stack[/]", highlight=False)
        with stack_console.UpProgress(console) as progress:
            report = starting.up(cfg, progress)
        console.print(f"the stack is ready after {report.wall_s:.0f} s", highlight=False)
        with Story(console) as story:
            demo = Demo(cfg, story, rate=rate, begun=begun)
            page = demo.run()
        console.print(_summary(demo))
        _where_to_look(console, cfg, str(page))
    finally:
        if os.environ.get(KEEP) == "0":
            daemon.stop(cfg)
            console.print(f"the stack is down ({KEEP}=0); its data is kept", highlight=False)


def _summary(demo: Demo) -> Table:
    table = Table(title="deliveries", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for title in ("version", "outcome"):
        table.add_column(title)
    for title in ("AUC", "requests", "failed in model", "failed by switching", "first bad to 0%"):
        table.add_column(title, justify="right")
    aucs = {item["version"]: item["auc"] for item in demo.training}
    for item in demo.deliveries:
        style = "green" if item["outcome"] == "promoted" else "bold red"
        away = item["zero_at"] - item["first_bad_at"] if item["zero_at"] and item["first_bad_at"] else None
        table.add_row(
            item["version"],
            f"[{style}]{item['outcome'].replace('_', ' ')}[/]",
            f"{aucs[item['version']]:.4f}",
            str(item["requests"]),
            str(item["failed"] - item["failed_by_switching"]),
            str(item["failed_by_switching"]),
            "-" if away is None else f"{away:.1f} s",
        )
    return table


def _where_to_look(console: Console, cfg: StackConfig, page: str) -> None:
    user, _ = cfg.airflow_login
    console.print(f"\nreport      {page}", highlight=False)
    console.print(f"Airflow     {cfg.url('airflow')}  user {user}, password in {cfg.paths.login}", highlight=False)
    for name in ("mlflow", "prometheus", "alertmanager"):
        console.print(f"{name:<11} {cfg.url(name)}", highlight=False)
    console.print(f"predictions {cfg.url('envoy')}/v2/models/flights/infer", highlight=False)
    console.print("`make down` ends the stack; no data is lost", highlight=False)
