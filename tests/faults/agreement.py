"""Whether all that speaks of production says the same: one healthy version, known to every record."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from tests.faults.place import DELIVERY, Place
from tidegate.clients.ledger import Event
from tidegate.demo.run import champion_after
from tidegate.errors import TidegateError

FRESH_S = 1.5
ENOUGH = 30


@dataclass
class Final:
    """What each record said, and where they disagree."""

    said: dict[str, Any] = field(default_factory=dict)
    disagreements: list[str] = field(default_factory=list)

    @property
    def agreed(self) -> bool:
        """Whether there is nothing to add."""
        return not self.disagreements


def look(place: Place, rollout_id: str) -> Final:
    """Ask Envoy, the traffic record, MLflow, the ledger and the callers about production now."""
    final = Final()
    try:
        _ask(place, rollout_id, final)
    except TidegateError as away:
        final.disagreements.append(f"{type(away).__name__}: {away}")
    return final


def _ask(place: Place, rollout_id: str, final: Final) -> None:
    split = place.traffic.read(DELIVERY)
    rollout = place.ledger.rollout(rollout_id)
    lease = place.ledger.lease(DELIVERY)
    events = place.ledger.events(DELIVERY)
    alias = place.registry.version_of(DELIVERY, "champion")
    answers = [a for a in place.callers.recorder.answers[-400:] if time.time() - a.scheduled_at < FRESH_S]
    final.said = {
        "record": {name: share for name, share in split.weights.items() if share},
        "Envoy": {name: share for name, share in place.traffic.applied(DELIVERY).items() if share},
        "champion": split.champion,
        "alias": f"{DELIVERY}-v{alias}",
        "ledger": champion_after(place.ledger.rollouts(DELIVERY)),
        "outcome": rollout.outcome if rollout else None,
        "last change in the log": _last_change(events),
        "lease": lease.holder if lease and lease.live else None,
        "callers": sorted({f"{a.version} {a.status}" for a in answers}),
    }
    said, champion = final.said, split.champion
    wanted = {
        "record": {champion: 100},
        "Envoy": {champion: 100},
        "alias": champion,
        "ledger": champion,
        "last change in the log": champion,
        "lease": None,
        "callers": [f"{champion} 200"],
    }
    final.disagreements += [
        f"{name}: {said[name]}, not {value}" for name, value in wanted.items() if said[name] != value
    ]
    if len(answers) < ENOUGH:
        final.disagreements.append(f"callers: {len(answers)} answers in {FRESH_S} s")
    if said["outcome"] is None:
        final.disagreements.append("outcome: the rollout is still open")
    if not place.hands.servers.ready(champion or ""):
        final.disagreements.append(f"server: that of {champion} is not ready")
    others = [name for name in split.weights if name != champion and place.hands.servers.ready(name)]
    final.said["idle"] = others


def _last_change(events: list[Event]) -> str | None:
    """Return who has all traffic by the newest event that tells of traffic, or how it is shared instead."""
    for event in reversed(events):
        if "weights" in event.detail:
            shares = {name: share for name, share in event.detail["weights"].items() if share}
            whole = len(shares) == 1 and set(shares.values()) == {100}
            return next(iter(shares)) if whole else str(shares)
    return None
