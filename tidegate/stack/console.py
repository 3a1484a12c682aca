"""Shows people how the stack comes up and what runs."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from rich.live import Live
from rich.table import Table

from tidegate.stack import status

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console

_MARKS = {"ready": "[green]ready[/]", "failed": "[red]failed[/]", "starting": "[yellow]starting[/]"}


class UpProgress:
    """A live table of services on a terminal; a line per ready service elsewhere."""

    def __init__(self, console: Console):
        self._console = console
        self._since: dict[str, tuple[str, float, float | None]] = {}  # phase, begun, ended
        self._lock = threading.Lock()
        self._live = Live(get_renderable=self._table, console=console, refresh_per_second=4, transient=False)

    def __enter__(self) -> UpProgress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def __call__(self, name: str, phase: str) -> None:
        """Take note that a service has entered a phase."""
        now = time.monotonic()
        with self._lock:
            before = self._since.get(name)
            begun = now if before is None or phase == "starting" else before[1]
            over = phase in {"ready", "failed", "given up"}
            self._since[name] = (phase, begun, now if over else None)
        if over and not self._console.is_terminal:
            self._console.print(f"{name:24} {phase:8} {now - begun:6.1f} s", highlight=False)

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for title in ("service", "state"):
            table.add_column(title)
        table.add_column("seconds", justify="right")
        now = time.monotonic()
        with self._lock:
            for name, (phase, begun, ended) in self._since.items():
                table.add_row(name, _MARKS.get(phase, f"[dim]{phase}[/]"), f"{(ended or now) - begun:.1f}")
        return table


def status_table(found: list[status.Row]) -> Table:
    """The rows of `tidegate status` with the sum of memory below."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_footer=True)
    total = sum(row.rss_mb for row in found)
    table.add_column("service", footer="all")
    table.add_column("version")
    table.add_column("state")
    table.add_column("port", justify="right")
    table.add_column("memory", justify="right", footer=f"{total:,.0f} MB")
    table.add_column("up since", justify="right")
    for row in found:
        colour = {"ready": "green", "stopped": "dim", "starting": "yellow"}.get(row.state, "red")
        memory = f"{row.rss_mb:,.0f} MB" if row.rss_mb else ""
        port = str(row.port or "")
        table.add_row(row.name, row.version, f"[{colour}]{row.state}[/]", port, memory, status.age(row.up_since))
    return table
