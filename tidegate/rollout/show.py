"""Rollouts as people read them: a table of all, and one of them with its stages and its log."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidegate.clients.records import Event, Lease, Rollout

_COLOURS = {"promoted": "green", "rolled_back": "bold red", "reverted": "yellow", None: "cyan"}
_DULL = ("revision", "weights", "champion", "mirrors", "verdict", "late")


def table(rollouts: Sequence[Rollout]) -> Table:
    """Return all rollouts, the newest first."""
    shown = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("id", "delivery", "candidate", "champion", "state", "began (UTC)"):
        shown.add_column(title, overflow="fold")
    shown.add_column("took", justify="right")
    shown.add_column("reason", overflow="fold", ratio=1)
    for rollout in rollouts:
        colour = _COLOURS.get(rollout.outcome, "white")
        shown.add_row(
            rollout.id,
            rollout.delivery,
            rollout.candidate,
            rollout.champion or "-",
            f"[{colour}]{state(rollout)}[/]",
            f"{rollout.started_at:%Y-%m-%d %H:%M:%S}",
            took(rollout),
            Text(rollout.reason),
        )
    return shown


def detail(rollout: Rollout, lease: Lease | None, events: Sequence[Event]) -> Group:
    """Return one rollout: where it stands, its stages with what was answered in each, and its log."""
    colour = _COLOURS.get(rollout.outcome, "white")
    beside = f"beside {rollout.champion}" if rollout.champion else "the first delivery"
    head = Text.assemble(
        (rollout.candidate, "bold"), f" {beside}: ", (state(rollout), colour), f", {took(rollout)}", style="default"
    )
    lines: list[Any] = [head, Text(rollout.id, style="dim")]
    if rollout.reason:
        lines.append(Text(rollout.reason))
    if rollout.outcome is None:
        lines.append(_holder(rollout, lease))
    return Group(*lines, "", _stages(rollout, events), "", _log(events))


def state(rollout: Rollout) -> str:
    """Return where a rollout stands in a few words."""
    if rollout.outcome is not None:
        return rollout.outcome.replace("_", " ")
    paused = f", paused by {rollout.paused_by}" if rollout.paused_by else ""
    return f"{rollout.phase} at {rollout.weight}%{paused}"


def took(rollout: Rollout) -> str:
    """Return how long it ran, or has been running."""
    end = rollout.ended_at or rollout.read_at or datetime.now(UTC)
    seconds = max((end - rollout.started_at).total_seconds(), 0.0)
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _holder(rollout: Rollout, lease: Lease | None) -> Text:
    left = rollout.deadline_s - rollout.age_s
    deadline = f"deadline in {left:.0f} s" if left > 0 else f"deadline passed {-left:.0f} s ago"
    if lease is None or not lease.live:
        return Text(f"nobody holds the lease: the traffic goes back by itself; {deadline}", style="red")
    return Text(
        f"lease of {lease.holder}, fence {lease.fence}, {lease.remaining_s:.0f} s left; {deadline}", style="dim"
    )


def _stages(rollout: Rollout, events: Sequence[Event]) -> Table:
    shown = Table(box=None, padding=(0, 2, 0, 0))
    shown.add_column("stage")
    for title in ("requests", "failed", "p99", "champion's p99", "evidence"):
        shown.add_column(title, justify="right")
    shown.add_column("verdict", overflow="fold", ratio=1)
    mirrors = rollout.mirrors or (0,) * len(rollout.weights)
    names = [f"mirror {m}%" if m else f"{w}%" for w, m in zip(rollout.weights, mirrors, strict=True)]
    keys = [f"mirror_{m}" if m else str(w) for w, m in zip(rollout.weights, mirrors, strict=True)]
    verdicts = {event.actor.removeprefix("judge at "): event.detail.get("verdict") for event in events}
    for place, (name, key) in enumerate(
        zip([*names, "bake"], [*(f"stage {key}" for key in keys), "bake"], strict=True)
    ):
        verdict = verdicts.get(key)
        baking = rollout.phase == "baking"
        here = rollout.outcome is None and (place == rollout.stage if name != "bake" else baking) and not verdict
        shown.add_row(*_stage_row(name, verdict, here and (name == "bake" or not baking)))
    return shown


def _stage_row(name: str, verdict: dict[str, Any] | None, here: bool) -> tuple[str | Text, ...]:
    if verdict is None:
        return (f"[cyan]● {name}[/]" if here else f"[dim]○ {name}[/]", "", "", "", "", "", "watched" if here else "")
    good = verdict["decision"] == "pass"
    mine, theirs = verdict.get("candidate") or {}, verdict.get("champion") or {}
    evidence = verdict.get("figures", {})
    return (
        f"[green]✔ {name}[/]" if good else f"[bold red]✘ {name}[/]",
        f"{mine.get('requests', 0):.0f}",
        f"{mine.get('errors', 0):.0f}",
        _ms(mine.get("p99_ms")),
        _ms(theirs.get("p99_ms")),
        f"{evidence.get('log_evidence', 0.0):.1f} of {evidence.get('log_evidence_limit', 0.0):.1f}" if evidence else "",
        Text(verdict["reason"], style="default" if good else "red"),
    )


def _log(events: Sequence[Event]) -> Table:
    shown = Table(box=None, padding=(0, 2, 0, 0))
    shown.add_column("at (UTC)")
    shown.add_column("what")
    shown.add_column("fence", justify="right")
    shown.add_column("traffic")
    shown.add_column("by, and why", overflow="fold", ratio=1)
    for event in events:
        weights = event.detail.get("weights") or {}
        traffic = ", ".join(f"{name} {share}%" for name, share in weights.items() if share)
        more = ", ".join(f"{name} {value}" for name, value in event.detail.items() if name not in _DULL)
        why = Text(f"{event.actor}: {more}" if more else event.actor)
        shown.add_row(f"{event.at:%H:%M:%S.%f}"[:-3], event.kind, str(event.fence or ""), traffic, why)
    return shown


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} ms"
