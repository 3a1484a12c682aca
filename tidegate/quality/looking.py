"""Looks at all that serves: which versions there are, what they answered since, what their deliveries ask for."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from tidegate.delivery import KafkaTopic, read_delivery
from tidegate.errors import SpecError
from tidegate.quality.counting import Counting
from tidegate.quality.tail import Tail

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tidegate.delivery import QualitySpec

_log = logging.getLogger("tidegate.quality")
_ABOVE = 0.1  # of a delivery that does not say


class Quality:
    """The counters of all deliveries; looks, labels and scrapes come from threads of their own.

    Args:
        serving: folder of the deployed versions, one folder each.
        deliveries: folder of the deliveries' files, read again when they change.
        clock: Unix seconds.
    """

    def __init__(self, serving: Path, deliveries: Path, clock: Callable[[], float]):
        self._serving, self._clock = serving, clock
        self._specs = _Specs(deliveries)
        self._tails: dict[str, Tail] = {}
        self._is_first = True
        self.lock = threading.Lock()
        """Held while counters change or are read, so that a scrape is of one instant."""
        self.counting: dict[str, Counting] = {}
        """By delivery."""
        self.bad_samples = 0
        self.bad_labels: dict[str, int] = {}
        """By delivery."""
        self.looked_at = 0.0
        """Unix time of the last completed look."""

    def look(self) -> None:
        """Count what has been answered since the last look."""
        present = {path.parent.name for path in self._serving.glob("[!.]*/endpoint.json")}
        with self.lock:
            for name in sorted(self._tails.keys() - present):
                self._tails.pop(name).close()
                self._of(name).end(name)
            for name in sorted(present):
                self._follow(name)
            self._is_first = False
            self.looked_at = self._clock()

    def topics(self) -> dict[str, KafkaTopic]:
        """Return the topic of labels of each delivery that has one."""
        found = {path.stem: self._specs.of(path.stem) for path in self._specs.folder.glob("*.yaml")}
        return {name: spec.labels.kafka for name, spec in found.items() if spec is not None and spec.labels is not None}

    def label(self, delivery: str, found: tuple[str, int] | None) -> None:
        """Take a label (request id, 0 or 1) of a delivery; None is a message that was none."""
        with self.lock:
            if found is None:
                self.bad_labels[delivery] = self.bad_labels.get(delivery, 0) + 1
            else:
                self._counting(delivery).labelled(*found)

    def _follow(self, name: str) -> None:
        counting = self._of(name)
        if name not in self._tails:
            tail = self._tails[name] = Tail(self._serving / name)
            counting.begin(name)
            if self._is_first:
                for served in tail.past():
                    counting.remember(name, served)
        tail = self._tails[name]
        before = tail.bad
        for served in tail.new():
            counting.saw(name, served)
        self.bad_samples += tail.bad - before

    def _of(self, version: str) -> Counting:
        return self._counting(version.rpartition("-v")[0])

    def _counting(self, delivery: str) -> Counting:
        spec = self._specs.of(delivery)
        above = spec.disagreement.above if spec is not None and spec.disagreement is not None else _ABOVE
        found = self.counting.setdefault(delivery, Counting(above))
        found.above = above
        return found


class _Specs:
    """The quality sections of deliveries; a file with a mistake leaves the last good one in force."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._read: dict[str, tuple[int, QualitySpec | None]] = {}

    def of(self, delivery: str) -> QualitySpec | None:
        path = self.folder / f"{delivery}.yaml"
        known = self._read.get(delivery)
        with suppress(FileNotFoundError):
            changed_at = path.stat().st_mtime_ns
            if known is None or known[0] != changed_at:
                spec = known[1] if known is not None else None
                try:
                    spec = read_delivery(path).rollout.quality
                except SpecError as error:
                    _log.warning("%s: goes on with what it said before: %s", path, error)
                self._read[delivery] = (changed_at, spec)
                return spec
        return known[1] if known is not None else None
