"""What runs: a row per service and per serving version."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import psutil

from tidegate.stack import daemon, services, up

if TYPE_CHECKING:
    from tidegate.stack.config import StackConfig


@dataclass(frozen=True)
class Row:
    """One supervised program."""

    name: str
    version: str
    """The service's version; empty where it is unknown (before the first `up`)."""
    state: str
    """ready, starting or the supervisor's word in small letters; stopped while the stack is down."""
    port: int | None
    pid: int | None
    rss_mb: float
    """Resident memory of the process and its children, in MB; shared pages count for each (0 if stopped)."""
    up_since: float | None
    """Unix time of the start."""


def rows(cfg: StackConfig) -> list[Row]:
    """The state of every service, in the order of the stack, then of the serving versions."""
    control = daemon.supervision(cfg)
    states = control.states() if control.answers() else {}
    report = up.remembered(cfg)
    versions = {one.name: one.version for one in report.services} if report else {}
    found = []
    for service in services.every(cfg):
        if service.program is None:
            continue
        state = states.get(service.name)
        word = state.state.lower() if state else "stopped"
        if state and state.state == "RUNNING":
            word = "ready" if service.ready(0) else "starting"
        port = cfg.ports[service.ports[0]] if service.ports else None
        pid = state.pid if state and state.pid else None
        since = float(state.started) if state and pid else None
        found.append(Row(service.name, versions.get(service.name, ""), word, port, pid, _rss_mb(pid), since))
    known = {row.name for row in found}
    for name, state in sorted(states.items()):
        if name not in known:
            pid, since = (state.pid, float(state.started)) if state.pid else (None, None)
            word = "ready" if state.state == "RUNNING" else state.state.lower()
            found.append(Row(name, name.rsplit("-", 1)[-1], word, None, pid, _rss_mb(pid), since))
    return found


def as_json(found: list[Row]) -> dict[str, Any]:
    """The rows for machines: `services`, whether all are `ready`, and the memory in all, in MB."""
    return {
        "ready": all(row.state == "ready" for row in found),
        "rss_mb": round(sum(row.rss_mb for row in found), 1),
        "services": [asdict(row) for row in found],
    }


def age(since: float | None) -> str:
    """How long ago, for people: 42 s, 3 min, 5 h, 2 d."""
    if since is None:
        return ""
    seconds = max(0.0, time.time() - since)
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def _rss_mb(pid: int | None) -> float:
    if pid is None:
        return 0.0
    try:
        main = psutil.Process(pid)
        family = [main, *main.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    total = 0
    for process in family:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return round(total / 1e6, 1)
