"""The files of one local gang: what the launcher and the gang's leader tell each other, each written atomically.

workload.json   what to run (launcher)            leader.json    who leads, while it lives and after (leader)
in.json         the handoff (launcher)            out.json       what member 0 hands back
state.json      the end, once (leader)            member-<n>.log all a member printed
member-<n>.end  why a member failed, in its own words (the member)
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tidegate.launch import State, Workload
from tidegate.localfiles import replace_text

if TYPE_CHECKING:
    from pathlib import Path

_TAIL_BYTES = 256 * 1024


@dataclass(frozen=True)
class Process:
    """One process of this machine, told apart from a later one that was given the same pid."""

    pid: int
    born: str

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """Return the process that has this pid now, or None where none lives (a zombie does not live)."""
        try:
            with open(f"/proc/{pid}/stat", "rb") as stat:
                fields = stat.read().rpartition(b")")[2].split()
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as boot:
                boot_id = boot.read().strip()
        except (FileNotFoundError, ProcessLookupError):
            return None
        if fields[0] in (b"Z", b"X"):
            return None
        return cls(pid, f"{boot_id}:{fields[19].decode()}")  # field 22 of proc(5): start time in ticks since boot

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return Process.of(self.pid) == self


class GangFiles:
    """The folder of one gang."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.handoff = folder / "in.json"
        self.out = folder / "out.json"
        self.lock = folder / "lock"
        self.leader_log = folder / "leader.log"

    def log(self, member: int) -> Path:
        """Return the path of a member's log."""
        return self.folder / f"member-{member}.log"

    def end(self, member: int) -> Path:
        """Return the path at which a member leaves the reason of its failure."""
        return self.folder / f"member-{member}.end"

    def write_workload(self, workload: Workload) -> None:
        """Store what to run, and forget what an earlier try left."""
        self.clear()
        replace_text(self.handoff, workload.handoff)
        self.keep_workload(workload)

    def keep_workload(self, workload: Workload) -> None:
        """Store who asked for it last."""
        replace_text(self.folder / "workload.json", json.dumps(asdict(workload)))

    def clear(self) -> None:
        """Remove what an earlier try left, its state first, so that no reader takes the old end for the new one."""
        names = ["state.json", "leader.json", "out.json"]
        for name in [*names, *(path.name for path in self.folder.glob("member-*.*"))]:
            (self.folder / name).unlink(missing_ok=True)

    def workload(self) -> Workload | None:
        """Return what to run, or None where nothing was started."""
        found = read(self.folder / "workload.json")
        return None if found is None else Workload(**found)

    def write_leader(self, leader: Process) -> None:
        """Store who leads the gang."""
        replace_text(self.folder / "leader.json", json.dumps(asdict(leader)))

    def leader(self) -> Process | None:
        """Return who leads, or led, the gang."""
        found = read(self.folder / "leader.json")
        return None if found is None else Process(**found)

    def write_state(self, state: State) -> None:
        """Store the gang's end."""
        replace_text(self.folder / "state.json", json.dumps(asdict(state)))

    def state(self) -> State | None:
        """Return the gang's end, or None while there is none."""
        found = read(self.folder / "state.json")
        return None if found is None else State(**found)

    def tail(self, member: int, lines: int) -> str:
        """Return the last lines that a member printed."""
        return "\n".join(last_lines(self.log(member), lines))


def last_lines(path: Path, lines: int) -> list[str]:
    """Return a text file's last lines, looking at its last 256 KiB at most; none where there is no file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    found = text.splitlines()
    return found[1:][-lines:] if size > _TAIL_BYTES else found[-lines:]


def read(path: Path) -> dict[str, Any] | None:
    """Return a JSON object from a file, or None where there is no file."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found
