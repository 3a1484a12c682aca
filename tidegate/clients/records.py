"""What the ledger keeps about leases, rollouts and events, its interface, and a fake with a clock of its own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import Field

from tidegate.errors import Conflict, DataError, LeaseLost
from tidegate.handoff import Handoff

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Lease(Handoff):
    """The right to move one delivery's traffic, as the ledger saw it when it answered."""

    delivery: str
    holder: str | None = Field(description="None once released")
    fence: int = Field(description="rises with every new holder; traffic refuses lower ones")
    expires_at: datetime
    remaining_s: float = Field(description="seconds to the expiry by the ledger's own clock, when it answered")

    @property
    def live(self) -> bool:
        """Whether somebody held it, unexpired, when the ledger answered."""
        return self.holder is not None and self.remaining_s > 0


class Rollout(Handoff):
    """One candidate's way to production, or one way back to an earlier version."""

    id: str
    delivery: str
    champion: str | None = Field(description="in production when it began; None for the first delivery")
    candidate: str
    weights: tuple[int, ...] = Field(description="percent per stage; 0 for a mirror")
    mirrors: tuple[int, ...] = Field(default=(), description="percent mirrored per stage; empty: none")
    deadline_s: float = Field(default=3600.0, description="seconds from the beginning to the bake")
    bake_s: float = Field(default=0.0, description="seconds at 100% before it is the champion")
    phase: str
    stage: int = Field(default=-1, description="position of the stage it has reached; -1 before the first")
    weight: int = 0
    outcome: str | None = Field(default=None, description="promoted, rolled_back or reverted; None while open")
    reason: str = ""
    started_at: datetime
    stage_at: datetime | None = Field(default=None, description="when it entered its stage, or its bake")
    ended_at: datetime | None = None
    read_at: datetime | None = Field(default=None, description="the ledger's own clock when it answered")
    paused_by: str | None = Field(default=None, description="who asked that no stage passes for now")
    promote_by: str | None = Field(default=None, description="who asked to go on without waiting for the judge")

    @property
    def age_s(self) -> float:
        """Seconds since it began, by the ledger's clock."""
        return (self.read_at - self.started_at).total_seconds() if self.read_at else 0.0

    @property
    def stage_age_s(self) -> float:
        """Seconds since it entered its stage, or its bake, by the ledger's clock."""
        return (self.read_at - self.stage_at).total_seconds() if self.read_at and self.stage_at else 0.0


class Event(Handoff):
    """One entry of the log, which is never changed."""

    rollout_id: str | None
    delivery: str
    at: datetime
    kind: str
    actor: str
    fence: int | None
    detail: dict[str, Any]


Wish = Literal["pause", "resume", "promote"]
"""What a person may ask of the one who watches a rollout."""


class Records(Protocol):
    """The ledger, as the rollout uses it. Every method raises Unavailable where the ledger does not answer."""

    def acquire(self, delivery: str, holder: str, ttl_s: float, *, floor: int = 0, seize: bool = False) -> Lease:
        """Take or renew the lease; see Ledger.acquire."""

    def renew(self, lease: Lease, ttl_s: float) -> Lease:
        """Put the expiry off; see Ledger.renew."""

    def release(self, lease: Lease) -> None:
        """Give the lease back; see Ledger.release."""

    def lease(self, delivery: str) -> Lease | None:
        """Return the last lease of a delivery; None if there never was one."""

    def begin_rollout(self, rollout: Rollout) -> Rollout:
        """Record a rollout; see Ledger.begin_rollout."""

    def update_rollout(
        self, rollout_id: str, phase: str, weight: int, outcome: str | None = None, reason: str = "", stage: int = -1
    ) -> None:
        """Record how far a rollout has come; see Ledger.update_rollout."""

    def ask(self, rollout_id: str, wish: Wish, actor: str) -> None:
        """Record what a person asks of the one who watches a rollout; see Ledger.ask."""

    def rollout(self, rollout_id: str) -> Rollout | None:
        """Return a rollout by its id."""

    def rollouts(self, delivery: str, limit: int = 20) -> list[Rollout]:
        """Return a delivery's rollouts, the newest first."""

    def log(
        self,
        delivery: str,
        kind: str,
        actor: str,
        *,
        fence: int | None = None,
        rollout_id: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Append an event."""

    def logged(self, delivery: str, revision: int) -> bool:
        """Whether an event of this traffic revision is in the log."""


def open_of(rollouts: Sequence[Rollout]) -> Rollout | None:
    """Return the rollout that has not ended, if any."""
    return next((rollout for rollout in rollouts if rollout.outcome is None), None)


def held_by_other(lease: Lease, holder: str) -> LeaseLost:
    """Return the error for a lease that another one holds."""
    return LeaseLost(
        f"the lease of {lease.delivery} is held by {lease.holder} until {lease.expires_at:%Y-%m-%d %H:%M:%S} UTC "
        f"({lease.remaining_s:.0f} s more), not by {holder}: wait, or roll back, which takes it over"
    )


def lost(lease: Lease) -> LeaseLost:
    """Return the error for a lease that its holder no longer has."""
    return LeaseLost(
        f"{lease.holder} no longer holds the lease of {lease.delivery} under fence {lease.fence}: "
        "it expired or was taken over; traffic goes back to the champion"
    )


def still_open(rollout: Rollout) -> Conflict:
    """Return the error for a second rollout of a delivery."""
    return Conflict(
        f"rollout {rollout.id} of {rollout.delivery} ({rollout.candidate}, {rollout.phase} at {rollout.weight}%) "
        "has not ended: wait for it, or roll it back"
    )


class FakeLedger:
    """Records in memory with a clock that tests move; `away` makes every call raise it."""

    def __init__(self) -> None:
        self.now = datetime(2013, 4, 1, tzinfo=UTC)
        self.away: Exception | None = None
        self.events: list[Event] = []
        self._leases: dict[str, Lease] = {}
        self._rollouts: dict[str, Rollout] = {}

    def wait(self, seconds: float) -> None:
        """Move the ledger's clock on."""
        self.now += timedelta(seconds=seconds)

    def acquire(self, delivery: str, holder: str, ttl_s: float, *, floor: int = 0, seize: bool = False) -> Lease:
        """See Ledger.acquire."""
        old = self.lease(delivery)
        if old is not None and old.live and old.holder == holder:
            return self._grant(delivery, holder, old.fence, ttl_s)
        if old is not None and old.live and not seize:
            raise held_by_other(old, holder)
        return self._grant(delivery, holder, max((old.fence if old else 0) + 1, floor), ttl_s)

    def renew(self, lease: Lease, ttl_s: float) -> Lease:
        """See Ledger.renew."""
        old = self.lease(lease.delivery)
        if old is None or not old.live or (old.holder, old.fence) != (lease.holder, lease.fence):
            raise lost(lease)
        return self._grant(lease.delivery, lease.holder, lease.fence, ttl_s)

    def release(self, lease: Lease) -> None:
        """See Ledger.release."""
        old = self.lease(lease.delivery)
        if old is not None and old.fence == lease.fence and old.holder == lease.holder:
            self._grant(lease.delivery, None, lease.fence, 0)

    def lease(self, delivery: str) -> Lease | None:
        """See Records.lease."""
        self._answer()
        old = self._leases.get(delivery)
        return old and old.model_copy(update={"remaining_s": (old.expires_at - self.now).total_seconds()})

    def begin_rollout(self, rollout: Rollout) -> Rollout:
        """See Ledger.begin_rollout."""
        known = self.rollout(rollout.id)
        if known is not None:
            return known
        other = open_of(self.rollouts(rollout.delivery))
        if other is not None:
            raise still_open(other)
        self._rollouts[rollout.id] = rollout.model_copy(update={"started_at": self.now, "stage_at": self.now})
        return self._known(rollout.id)

    def update_rollout(
        self, rollout_id: str, phase: str, weight: int, outcome: str | None = None, reason: str = "", stage: int = -1
    ) -> None:
        """See Ledger.update_rollout."""
        known = self._known(rollout_id)
        changes: dict[str, Any] = {"phase": phase, "weight": weight, "outcome": outcome, "stage": stage}
        changes |= {"reason": reason or known.reason, "ended_at": self.now if outcome else None}
        if (phase, stage) != (known.phase, known.stage):
            changes["stage_at"] = self.now
        self._rollouts[rollout_id] = known.model_copy(update=changes)

    def ask(self, rollout_id: str, wish: Wish, actor: str) -> None:
        """See Ledger.ask."""
        known = self._known(rollout_id)
        changes: dict[str, dict[str, str | None]] = {
            "pause": {"paused_by": actor},
            "resume": {"paused_by": None},
            "promote": {"promote_by": actor},
        }
        self._rollouts[rollout_id] = known.model_copy(update=changes[wish])

    def rollout(self, rollout_id: str) -> Rollout | None:
        """See Records.rollout."""
        self._answer()
        found = self._rollouts.get(rollout_id)
        return found and found.model_copy(update={"read_at": self.now})

    def rollouts(self, delivery: str, limit: int = 20) -> list[Rollout]:
        """See Records.rollouts."""
        self._answer()
        mine = [name for name, rollout in self._rollouts.items() if rollout.delivery == delivery]
        return [self._known(name) for name in reversed(mine)][:limit]

    def log(
        self,
        delivery: str,
        kind: str,
        actor: str,
        *,
        fence: int | None = None,
        rollout_id: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """See Records.log."""
        self._answer()
        self.events.append(
            Event(
                rollout_id=rollout_id,
                delivery=delivery,
                at=self.now,
                kind=kind,
                actor=actor,
                fence=fence,
                detail=dict(detail or {}),
            )
        )

    def logged(self, delivery: str, revision: int) -> bool:
        """See Records.logged."""
        self._answer()
        return any(event.delivery == delivery and event.detail.get("revision") == revision for event in self.events)

    def _grant(self, delivery: str, holder: str | None, fence: int, ttl_s: float) -> Lease:
        expires_at = self.now + timedelta(seconds=ttl_s)
        lease = Lease(delivery=delivery, holder=holder, fence=fence, expires_at=expires_at, remaining_s=ttl_s)
        self._leases[delivery] = lease
        return lease

    def _known(self, rollout_id: str) -> Rollout:
        known = self.rollout(rollout_id)
        if known is None:
            raise DataError(f"there is no rollout {rollout_id}: begin it first")
        return known

    def _answer(self) -> None:
        if self.away is not None:
            raise self.away
