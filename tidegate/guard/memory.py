"""The guard's memory on disk, and the clock by which it is kept."""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tidegate.guard.core import Knowledge, Trial, Word, after_restart, at_stake

_log = logging.getLogger("tidegate.guard")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_clock() -> float:
    """Return the seconds since the machine's boot, those in which it was suspended included.

    Source: clock_gettime(2), CLOCK_BOOTTIME.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Return the id of this boot of the machine: random(4), /proc/sys/kernel/random/boot_id."""
    return _BOOT_ID.read_text(encoding="ascii").strip()


class Memory:
    """One small JSON file, replaced as a whole, only when what is at stake has changed.

    Args:
        path: the file; its folder is made if need be.
        boot: this boot's id.
    """

    def __init__(self, path: Path, boot: str):
        self._path = path
        self._boot = boot
        self._kept = Knowledge()
        self._fails = False

    def load(self, now: float) -> Knowledge:
        """Return what still holds of what was kept; nothing if there is no file, or a broken one."""
        try:
            stored = json.loads(self._path.read_text(encoding="utf-8"))
            known = _knowledge(stored)
            same_boot = stored["boot"] == self._boot
        except FileNotFoundError:
            return Knowledge()
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            _log.warning("%s cannot be read (%r): the patience begins now", self._path, error)
            return Knowledge()
        return after_restart(known, now, same_boot)

    def save(self, known: Knowledge) -> None:
        """Keep what is at stake; a disk that refuses is logged once, and the guard goes on."""
        stake = at_stake(known)
        if stake == self._kept:
            return
        try:
            self._replace(stake, durable=stake.trials != self._kept.trials)
        except OSError as error:
            if not self._fails:
                _log.error("%s cannot be written (%s): a restart would begin the patience anew", self._path, error)
            self._fails = True
            return
        self._fails = False
        self._kept = stake

    def _replace(self, stake: Knowledge, durable: bool) -> None:
        """Write aside and rename. Leases do not outlive a boot: only a change of trials has to survive a power cut."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        aside = self._path.with_name(f".{self._path.name}.{os.getpid()}.new")
        with aside.open("w", encoding="utf-8") as file:
            json.dump({"boot": self._boot, **asdict(stake)}, file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        aside.replace(self._path)


def _knowledge(stored: dict[str, Any]) -> Knowledge:
    return Knowledge(
        {name: Word(**word) for name, word in stored["words"].items()},
        {name: Trial(**trial) for name, trial in stored["trials"].items()},
    )
