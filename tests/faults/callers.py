"""Callers who never stop: an open loop at a steady rate over all cases, every answer kept."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from tidegate.demo.recorder import Recorder, by_switching, is_failed
from tidegate.gate import load
from tidegate.gate.load import Answer

RATE = 80.0
PATIENCE_S = 13.0
"""Longer than Envoy's own limit of 10 s, so that a server that hangs is seen as the proxy's 504."""

PROXY_LIMIT_S, TIMED_OUT = 10.0, 504
"""After so long the proxy gives a request up, also one whose answer came while the proxy itself was frozen."""


class Callers:
    """Sends real rows to the proxy from a thread of its own, from `start` to `stop`."""

    def __init__(self, url: str, bodies: Sequence[bytes], rate: float = RATE):
        self.recorder = Recorder()
        self._url, self._bodies, self._rate = url, bodies, rate
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="callers", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Send nothing more and await the answers that are due."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    @property
    def alive(self) -> bool:
        """Whether they still send."""
        return self._thread.is_alive()

    def between(self, start: float, end: float) -> list[Answer]:
        """Return the answers to requests that were due in [start, end), Unix seconds."""
        return self.recorder.between(start, end)

    def _run(self) -> None:
        self._loop.run_until_complete(
            load.drive(
                self._bodies,
                self._url,
                load.fixed(self._rate),
                self.recorder.add,
                self._stop,
                in_flight=4096,
                timeout_s=PATIENCE_S,
            )
        )


@dataclass(frozen=True)
class Outage:
    """A time in which a part was dead by the fault itself: what it alone failed is no failure of switching."""

    start: float
    end: float
    version: str | None = None
    """The version whose server was dead; None for the proxy, which then gives no answer at all."""

    def explains(self, answer: Answer) -> bool:
        """Whether a failed answer is the plain consequence of the part being dead."""
        ended = answer.scheduled_at + answer.latency_s
        if answer.scheduled_at > self.end or ended < self.start:
            return False
        if self.version is not None:
            return answer.version == self.version
        stood_still = answer.status == TIMED_OUT and answer.latency_s >= PROXY_LIMIT_S  # it froze on its way
        return answer.status == load.NO_ANSWER or stood_still


@dataclass
class Tally:
    """What callers saw in one case."""

    requests: int = 0
    failed_in_model: int = 0
    """Failed answers that a version's own server gave."""
    failed_by_fault: int = 0
    """Nobody's answer, while the part that was struck was dead: it would have been so without any rollout."""
    failed_by_switching: int = 0
    """Nobody's answer, and no dead part explains it."""
    last_failure_at: float = 0.0
    examples: list[str] = field(default_factory=list)


def tally(answers: Sequence[Answer], outages: Sequence[Outage]) -> Tally:
    """Count what callers saw, by whose failure it was."""
    found = Tally(requests=len(answers))
    for answer in answers:
        if not is_failed(answer):
            continue
        found.last_failure_at = max(found.last_failure_at, answer.scheduled_at + answer.latency_s)
        if not by_switching(answer):
            found.failed_in_model += 1
        elif any(outage.explains(answer) for outage in outages):
            found.failed_by_fault += 1
        else:
            found.failed_by_switching += 1
            if len(found.examples) < 5:
                who = f"status {answer.status} of {answer.version}"
                found.examples.append(f"{answer.scheduled_at:.2f}: {who} after {answer.latency_s:.2f} s")
    return found
