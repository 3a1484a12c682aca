"""The interface to live figures per version as measured at the proxy, with a fake that answers from a list."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidegate.judge.series import Scrape


@dataclass(frozen=True)
class Seen:
    """What a source of figures has seen, up to its own present time."""

    now: float
    """Unix seconds by the source's clock, which is also that of the scrapes."""
    scrapes: Sequence[Scrape] = field(default_factory=tuple)
    """Ascending in time."""


class Metrics(Protocol):
    """Gives the counters of each version, scrape by scrape."""

    def scrapes(self, names: Sequence[str], seconds: float) -> Seen:
        """Return every scrape of the last `seconds` with the counters of these versions.

        Raises:
            Unavailable: the source does not answer, or answers with an error.
        """


class FakeMetrics:
    """Metrics that gives out prepared answers in turn, the last one for ever; an exception in the list is raised."""

    def __init__(self, answers: Sequence[Seen | Exception]):
        self._answers = list(answers)
        self.asked: list[tuple[tuple[str, ...], float]] = []

    def scrapes(self, names: Sequence[str], seconds: float) -> Seen:
        """See Metrics.scrapes."""
        self.asked.append((tuple(names), seconds))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer
