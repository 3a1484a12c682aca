"""The wish of whoever runs this process that it ends soon, noted instead of obeyed at once."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_GRACE = 10.0  # seconds, as the local launcher gives; Kubernetes gives 30 unless a pod says otherwise


class StopSign:
    """Whether SIGTERM has come; `grace` is the time in seconds between it and the end of the process."""

    def __init__(self, grace: float):
        self.grace = grace
        self.is_up = False

    def raise_up(self, *_: object) -> None:
        """Note that the process is to end; usable as a signal handler."""
        self.is_up = True


@contextmanager
def stop_sign() -> Iterator[StopSign]:
    """Note SIGTERM from here on, instead of what was done with it; TIDEGATE_GRACE tells the grace in seconds."""
    sign = StopSign(float(os.environ.get("TIDEGATE_GRACE", _GRACE)))
    before = signal.signal(signal.SIGTERM, sign.raise_up)
    try:
        yield sign
    finally:
        signal.signal(signal.SIGTERM, before)
