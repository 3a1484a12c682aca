"""The interface to live figures per version as measured at the proxy, with a fake that answers from a list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tidegate.handoff import Counts


class Metrics(Protocol):
    """Counts what each version did in an interval."""

    def counts(self, names: Sequence[str], since: float, now: float) -> dict[str, Counts | None]:
        """Return requests, errors and latencies of each version in [since, now] (Unix seconds).

        None stands for a version about which nothing is known: never seen, no longer scraped, or without a sample at
        `since`. `Counts.sampled_at` says how fresh the figures are.

        Raises:
            Unavailable: the source does not answer, or answers with an error.
        """


class FakeMetrics:
    """Metrics that gives out prepared answers in turn, the last one for ever; an exception in the list is raised."""

    def __init__(self, answers: Sequence[Mapping[str, Counts | None] | Exception]):
        self._answers = list(answers)
        self.asked: list[tuple[tuple[str, ...], float, float]] = []

    def counts(self, names: Sequence[str], since: float, now: float) -> dict[str, Counts | None]:
        """See Metrics.counts."""
        self.asked.append((tuple(names), since, now))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return {name: answer.get(name) for name in names}
