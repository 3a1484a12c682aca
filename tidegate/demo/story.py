"""Tells people what happens as it happens: on a terminal with a spinner, elsewhere line by line."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.table import Table

STYLES = {"success": "green", "failed": "bold red", "upstream_failed": "red", "skipped": "dim", "deferred": "cyan"}


class Story:
    """The narrator of a demonstration."""

    def __init__(self, console: Console):
        self.console = console
        self._begun = time.monotonic()
        self._status = Status("", console=console)
        self._spinning = console.is_terminal

    def __enter__(self) -> Story:
        if self._spinning:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def step(self, what: str) -> None:
        """Begin a chapter."""
        self.console.print(f"\n[bold]{self._clock()}  {what}[/]", highlight=False, soft_wrap=True)
        self.waiting("")

    def say(self, what: str) -> None:
        """Add a line."""
        self.console.print(f"       {what}", highlight=False, soft_wrap=True)

    def waiting(self, what: str) -> None:
        """Show what is waited for, where a spinner can be shown."""
        self._status.update(f"{self._clock()} {what}")

    def task(self, dag_id: str, task: str, state: str) -> None:
        """Show a task's new state; what is merely on its way is left to the spinner."""
        if state in STYLES:
            self.say(f"{dag_id:<18} {task:<18} [{STYLES[state]}]{state}[/]")
        else:
            self.waiting(f"{dag_id} {task} {state}")

    def ingested(self, slices: list[dict[str, Any]]) -> None:
        """Show every slice: read = clean + quarantined, and why."""
        table = Table(box=None, padding=(0, 2, 0, 0))
        for title in ("source", "window"):
            table.add_column(title)
        for title in ("read", "clean", "quarantined"):
            table.add_column(title, justify="right")
        table.add_column("reasons")
        for item in slices:
            reasons = "; ".join(f"{reason}: {count}" for reason, count in item["reasons"].items())
            numbers = [f"{item[name]:,}" for name in ("read", "clean", "quarantined")]
            table.add_row(item["source"], item["window"][:8], *numbers, reasons)
        self.console.print(table)

    def trained(self, item: dict[str, Any]) -> None:
        """Show by how much a model beats the base rate."""
        self.say(f"{item['version']}: {item['workers']} workers, {item['steps']} steps, {item['seconds']:.0f} s")
        self.say(f"AUC {item['auc']:.4f}, base rate {item['base_auc']:.4f}")
        self.say(f"log loss {item['log_loss']:.4f}, base rate {item['base_log_loss']:.4f}")

    def gated(self, gate: dict[str, Any]) -> None:
        """Show the gate's checks."""
        self.say(f"gate: {gate['requests']} requests to its own server, p50 {gate['figures']['p50_ms']:.1f} ms")
        for check in gate["checks"]:
            sign = "<=" if check["better"] == "lower" else ">="
            word = "[green]ok[/]" if check["ok"] else "[red]MISSED[/]"
            self.say(
                f"gate {check['name']:<18} {check['value']:.4g} {sign} {check['limit']:.4g} {check['unit']} {word}"
            )

    def delivered(self, item: dict[str, Any]) -> None:
        """Show how a delivery ended and what callers saw of it."""
        style = "green" if item["outcome"] == "promoted" else "bold red"
        self.say(f"[{style}]{item['version']} {item['outcome'].replace('_', ' ')}[/]: {item['reason']}")
        self.say(
            f"{item['requests']} requests, {item['failed']} failed, {item['failed_by_switching']} of them by switching"
        )
        if item["first_bad_at"] and item["zero_at"]:
            self.say(f"first bad answer to 0%: {item['zero_at'] - item['first_bad_at']:.1f} s")

    def _clock(self) -> str:
        seconds = int(time.monotonic() - self._begun)
        return f"{seconds // 60:02d}:{seconds % 60:02d}"
