"""How much memory a process has held at most: its own figure, not that of the process that started it."""

from __future__ import annotations

from pathlib import Path


def peak_mib() -> int:
    """Return this process's largest resident set so far, MiB.

    `getrusage` would tell the parent's instead where that is larger: its figure is kept over fork and exec.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024
