"""What a caller saw of live traffic: every answer, by second and version."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tidegate.gate.load import Answer


@dataclass(frozen=True)
class Second:
    """One version's answers of one second."""

    at: int
    requests: int
    failed: int
    p99_ms: float


@dataclass
class Recorder:
    """Keeps answers as they come, from the thread that drives the load."""

    answers: list[Answer] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, answer: Answer) -> None:
        """Keep one answer."""
        with self._lock:
            self.answers.append(answer)

    def between(self, start: float, end: float) -> list[Answer]:
        """Return the answers whose requests were due in [start, end), Unix seconds."""
        with self._lock:
            return [answer for answer in self.answers if start <= answer.scheduled_at < end]

    def versions(self) -> list[str]:
        """Return the versions that answered, in the order of their first answer."""
        with self._lock:
            return list(dict.fromkeys(answer.version for answer in self.answers if answer.version))

    def seconds(self, version: str) -> list[Second]:
        """Return a version's answers second by second."""
        by_second: dict[int, list[Answer]] = defaultdict(list)
        with self._lock:
            for answer in self.answers:
                if answer.version == version:
                    by_second[int(answer.scheduled_at)].append(answer)
        return [_second(at, found) for at, found in sorted(by_second.items())]


def _second(at: int, answers: list[Answer]) -> Second:
    latencies = np.array([answer.latency_s for answer in answers]) * 1000
    failed = sum(is_failed(answer) for answer in answers)
    return Second(at=at, requests=len(answers), failed=failed, p99_ms=float(np.percentile(latencies, 99)))


def is_failed(answer: Answer) -> bool:
    """Whether the caller got no useful answer."""
    return answer.status != 200


def by_switching(answer: Answer) -> bool:
    """Whether a request failed on the way and not in a model: no version's own server answered it."""
    return is_failed(answer) and not answer.upstream
