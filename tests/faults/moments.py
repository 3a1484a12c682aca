"""The moments of a rollout at which faults strike, recognised from outside: by split, event log, lease, supervisor."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from tests.faults.place import DELIVERY, Place
from tidegate.errors import TidegateError

MOMENTS = (
    "lease taken",
    "candidate loading",
    "change to 10%",
    "judging",
    "change to 50%",
    "change to 100%",
    "baking",
    "promoting",
    "aborting",
    "rolling back",
)
WAY_BACK = ("aborting", "rolling back")
"""Moments that only a rollout comes to whose candidate has failed."""
_LOOK_S = 0.03
_FRESH_S = 0.5


@dataclass
class Sight:
    """What is looked at to tell how far one rollout is."""

    place: Place
    rollout_id: str
    candidate: str

    def weight(self) -> int:
        """The candidate's share in the recorded split, percent."""
        return self.place.traffic.read(DELIVERY).weights.get(self.candidate, 0)

    def kinds(self) -> set[str]:
        """The kinds of the rollout's events."""
        return {event.kind for event in self.place.ledger.events(DELIVERY, self.rollout_id)}

    def loading(self) -> bool:
        """Whether the candidate's server is being started."""
        return bool(self.place.parts.family(f"triton-{self.candidate}"))

    def judged(self) -> bool:
        """Whether the trigger watches the first stage: the lease is renewed without a task."""
        if "shifted" not in self.kinds():
            return False
        first = self.place.ledger.lease(DELIVERY)
        time.sleep(_FRESH_S)
        second = self.place.ledger.lease(DELIVERY)
        task = self.place.airflow.tasks(*self.rollout_id.split("/", 1)).get("stage_10.watch")
        renewed = first is not None and second is not None and second.expires_at > first.expires_at
        return renewed and task == "deferred"

    def promoting(self) -> bool:
        """Whether the traffic is recorded as the candidate's own: alias, server and log follow."""
        return self.place.traffic.read(DELIVERY).champion == self.candidate

    def way_back(self) -> bool:
        """Whether the rollback has taken the lease over."""
        lease = self.place.ledger.lease(DELIVERY)
        return lease is not None and (lease.holder or "").startswith("rollback__")


def has_come(sight: Sight, moment: str) -> Callable[[], bool]:
    """Return the question whether a moment has come."""
    return {
        "lease taken": lambda: "begun" in sight.kinds(),
        "candidate loading": sight.loading,
        "change to 10%": lambda: sight.weight() == 10,
        "judging": sight.judged,
        "change to 50%": lambda: sight.weight() == 50,
        "change to 100%": lambda: sight.weight() == 100,
        "baking": lambda: "baking" in sight.kinds(),
        "promoting": sight.promoting,
        "aborting": lambda: sight.weight() == 0,
        "rolling back": sight.way_back,
    }[moment]


def await_moment(sight: Sight, moment: str, seconds: float) -> bool:
    """Wait for a moment; return whether it came before the rollout was over, and in time."""
    question = has_come(sight, moment)
    deadline = time.monotonic() + seconds
    checked = time.monotonic()
    while time.monotonic() < deadline:
        with suppress(TidegateError):  # a part that is just being started again: the next look sees
            if question():
                return True
            if time.monotonic() - checked > 1.0:
                checked = time.monotonic()
                known = sight.place.ledger.rollout(sight.rollout_id)
                if known is not None and known.outcome is not None:
                    return question()
        time.sleep(_LOOK_S)
    return False
