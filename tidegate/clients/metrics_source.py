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


@dataclass(frozen=True)
class QualitySeen:
    """What a candidate and its champion said, scrape by scrape; each list ascends in time."""

    predictions: Sequence[Scrape] = ()
    """Per version: predictions as requests, their histogram as `within`."""
    labels: Sequence[Scrape] = ()
    """Per version: labelled answers as requests, wrong ones as errors."""
    disagreement: Sequence[Scrape] = ()
    """The candidate's alone: inputs that the champion answered too as requests, disagreements as errors."""


class Metrics(Protocol):
    """Gives the counters of each version, scrape by scrape."""

    def scrapes(self, names: Sequence[str], seconds: float) -> Seen:
        """Return every scrape of the last `seconds` with the counters of these versions.

        Raises:
            Unavailable: the source does not answer, or answers with an error.
        """

    def quality(self, candidate: str, champion: str, seconds: float) -> QualitySeen:
        """Return what both versions said in the last `seconds`.

        Raises:
            Unavailable: see `scrapes`.
        """


class FakeMetrics:
    """Metrics that gives out prepared answers in turn, the last one for ever; an exception in the list is raised.

    `said` is what `quality` answers.
    """

    def __init__(self, answers: Sequence[Seen | Exception], said: QualitySeen | None = None):
        self._answers = list(answers)
        self.said = said or QualitySeen()
        self.asked: list[tuple[tuple[str, ...], float]] = []

    def scrapes(self, names: Sequence[str], seconds: float) -> Seen:
        """See Metrics.scrapes."""
        self.asked.append((tuple(names), seconds))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def quality(self, candidate: str, champion: str, seconds: float) -> QualitySeen:
        """See Metrics.quality."""
        return self.said
