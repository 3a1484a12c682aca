"""The guard's look, once a second: what it knows, applied to the traffic by compare-and-set."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Protocol

from tidegate.clients.traffic import Split, Traffic
from tidegate.errors import Conflict, TidegateError
from tidegate.guard import core
from tidegate.guard.core import Knowledge, Rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tidegate.clients.records import Lease

_log = logging.getLogger("tidegate.guard")
_TRIES = 20  # of a compare-and-set: each try means that another writer got through
_PAUSE_S = 3.0
_LOOK_S = 4.0  # longer than the ledger's own time-out


class GuardedTraffic(Traffic, Protocol):
    """Traffic that knows which deliveries it has."""

    def deliveries(self) -> list[str]:
        """Return the names of deliveries with a split."""


class Keeper(Protocol):
    """Keeps knowledge over restarts; see memory.Memory."""

    def load(self, now: float) -> Knowledge:
        """Return what still holds of what was kept."""

    def save(self, known: Knowledge) -> None:
        """Keep what is at stake."""


class Guard:
    """Looks at traffic and leases in turn; a step never blocks on the ledger, whose answers come by other threads.

    Args:
        traffic: reads and moves the traffic.
        memory: keeps what is known.
        rules: how long to wait.
        clock: seconds that run on over restarts (memory.boot_clock).
        wall: Unix seconds, for the figures.
        record: records an abort as (delivery, split, reason); must not block.
    """

    def __init__(
        self,
        traffic: GuardedTraffic,
        memory: Keeper,
        rules: Rules,
        clock: Callable[[], float],
        wall: Callable[[], float],
        record: Callable[[str, Split, str], None],
    ):
        self._traffic, self._memory, self._rules, self._record = traffic, memory, rules, record
        self._clock, self._wall = clock, wall
        self._lock = threading.Lock()  # of _known
        now = clock()
        self._known = memory.load(now)
        self._stepped_at = self._awake_since = now
        self._asked_at = -1.0
        self.aborts: dict[str, int] = {}
        """Times that all traffic was given to the champion, by delivery."""
        self.disbelieved: dict[str, int] = {}
        """Answers about a delivery's lease that were not believed."""
        self.quarantined: Mapping[tuple[str, str, str], int] = {}
        """Rows by (delivery, source, reason)."""
        self.looked_at = 0.0
        """Unix seconds of the last look that was completed; 0 before the first."""
        self.answered_at = 0.0
        """Unix seconds of the ledger's last answer; 0 before the first."""

    def heard(self, asked_at: float, leases: Iterable[Lease]) -> None:
        """Take in all leases, as the ledger answered when it was asked at `asked_at` of the clock."""
        with self._lock:
            self._known, doubts = core.heard(self._known, leases, asked_at, self._rules)
        for delivery, doubt in doubts.items():
            self.disbelieved[delivery] = self.disbelieved.get(delivery, 0) + 1
            _log.warning("what the ledger says about the lease of %s is not believed: %s", delivery, doubt)
        self.answered_at = self._wall()
        self._asked_at = asked_at

    def unheard(self, asked_at: float) -> None:
        """Take in that the ledger did not answer when it was asked at `asked_at` of the clock."""
        self._asked_at = asked_at

    def step(self) -> list[str]:
        """Take candidates without a live owner off the traffic; return the deliveries where that was done."""
        may_act = self._may_act()
        done, whole = [], True
        for delivery in self._traffic.deliveries():
            try:
                if self._look(delivery, may_act):
                    done.append(delivery)
            except (TidegateError, OSError):
                whole = False
                _log.exception("%s could not be looked at; the next look tries again", delivery)
        self._memory.save(self._known)
        if whole:
            self.looked_at = self._wall()
        return done

    def splits(self) -> dict[str, Split]:
        """Return every delivery's split."""
        return {delivery: self._traffic.read(delivery) for delivery in self._traffic.deliveries()}

    def lease_left_s(self) -> dict[str, float]:
        """Return the seconds until each held lease expires, as far as the ledger is believed."""
        now, words = self._clock(), self._known.words
        return {delivery: word.until - now for delivery, word in words.items() if word.holder is not None}

    def _may_act(self) -> bool:
        """Whether the ledger was asked since this process began, or last stood still: what it knows is its own age."""
        now = self._clock()
        if now - self._stepped_at > _PAUSE_S:
            _log.warning("stood still for %.0f s: the ledger is asked before anything is done", now - self._stepped_at)
            self._awake_since = now
        self._stepped_at = now
        return self._asked_at >= self._awake_since or now - self._awake_since >= _LOOK_S

    def _look(self, delivery: str, may_act: bool) -> bool:
        for _ in range(_TRIES):
            split, now = self._traffic.read(delivery), self._clock()
            with self._lock:
                known = self._known = core.seen(self._known, delivery, split, now)
            word = known.words.get(delivery)
            why = core.verdict(split, known.trials.get(delivery), word, now, self._rules.patience_s)
            if why is None or not may_act or self._clock() - now > _PAUSE_S:
                return False
            try:
                self._take_back(delivery, split, why)
            except Conflict:
                continue  # what was judged is no longer so: another guard, or its owner, was first
            return True
        return False

    def _take_back(self, delivery: str, split: Split, why: str) -> None:
        """Give the champion everything, if the split is still the one that was judged."""
        champion = split.champion or ""
        after = self._traffic.write(
            delivery,
            split.all_to(champion),
            champion=champion,
            expected=split.revision,
            fence=split.fence + 1,  # whoever moved this traffic can raise nothing afterwards
            cause=f"guard: {why}",
        )
        self.aborts[delivery] = self.aborts.get(delivery, 0) + 1
        _log.warning("%s: all traffic to %s: %s", delivery, champion, why)
        self._record(delivery, after, why)
