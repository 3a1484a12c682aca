"""Live traffic for the demonstration: real rows through the proxy, at a steady rate, until told to stop."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from tidegate.gate import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidegate.demo.recorder import Recorder


class LiveTraffic:
    """Sends one row a request to the proxy from a thread of its own; starts over when the rows are used up."""

    def __init__(self, url: str, bodies: Sequence[bytes], rate: float, recorder: Recorder):
        self._url = url
        self._bodies = bodies
        self._rate = rate
        self._recorder = recorder
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="live-traffic", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()
        self._started.wait(10)

    def stop(self) -> None:
        """Send nothing more, await the answers that are due, and raise what broke the sender, if anything did."""
        if self._loop and self._stop and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(15)
        if self._failure:
            raise self._failure

    def _run(self) -> None:
        try:
            asyncio.run(self._drive())
        except Exception as error:  # handed to the caller of stop(), whose thread can act on it
            self._failure = error

    async def _drive(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._started.set()
        await load.drive(self._bodies, self._url, load.fixed(self._rate), self._recorder.add, self._stop)
