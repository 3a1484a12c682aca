"""The results as JSON for machines and as a table for people."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from tests.faults.running import Result
from tidegate.stack.config import write_public


def write(path: Path, results: Sequence[Result], about: dict[str, Any]) -> None:
    """Write what is known so far; complete or not at all."""
    tried = [result for result in results if not result.skipped]
    body = {
        **about,
        "tried": len(tried),
        "passed": sum(result.passed for result in tried),
        "requests": sum(result.requests for result in tried),
        "failed_by_switching": sum(result.failed_by_switching for result in tried),
        "median_recovered_s": medians(tried),
        "cases": [result.as_json() for result in tried],
        "skipped": [{"name": result.name, "reason": result.skipped} for result in results if result.skipped],
    }
    write_public(path, json.dumps(body, indent=1, default=str) + "\n")


def medians(results: Sequence[Result]) -> dict[str, float]:
    """Return the median of recovered_s by what was done, seconds."""
    kinds = sorted({result.kind for result in results})
    times = {k: [r.recovered_s for r in results if r.kind == k and r.recovered_s is not None] for k in kinds}
    return {kind: round(statistics.median(found), 1) for kind, found in times.items() if found}


def table(results: Sequence[Result]) -> Table:
    """Return the table that is printed at the end."""
    made = Table(title="faults", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for title in ("case", "outcome"):
        made.add_column(title)
    for title in ("requests", "failed by switching", "by the fault", "recovered s"):
        made.add_column(title, justify="right")
    made.add_column("passed")
    for result in results:
        if result.skipped:
            made.add_row(result.name, "", "", "", "", "", f"[yellow]not tried: {result.skipped}[/]")
            continue
        verdict = "[green]yes[/]" if result.passed else "[bold red]no[/]: " + "; ".join(result.reasons)[:200]
        recovered = "-" if result.recovered_s is None else f"{result.recovered_s:.1f}"
        made.add_row(
            result.name, result.outcome or "-", str(result.requests), str(result.failed_by_switching),
            str(result.failed_by_fault), recovered, verdict,
        )  # fmt: skip
    return made
