"""Waits for what nobody announces: Airflow's API and other services have no way to await a state."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(what: str, found: Callable[[], T | None], seconds: float = 120) -> T:
    """Return what is found once there is something; fail, and say what was awaited, after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.5)
    return value
