"""What every action on a rollout shares: the clients it works with, moving weights under a fence, events, the abort."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from tidegate.clients.model_server import ModelServer
from tidegate.clients.records import Lease, Records, Rollout
from tidegate.clients.traffic import Proxy, Routing, Split, Traffic
from tidegate.delivery import ServeSpec
from tidegate.errors import Conflict, DataError, LeaseLost, Unavailable
from tidegate.handoff import Bundle, Handoff
from tidegate.rollout import plan as plans
from tidegate.rollout.plan import ENDED, Phase, Plan, State

_log = logging.getLogger(__name__)
_TRIES = 20  # of a compare-and-set against other writers: each try means that somebody else got through


class Aliases(Protocol):
    """Names versions in the registry."""

    def set_alias(self, delivery: str, alias: str, version: int) -> None:
        """Point an alias at a version."""

    def drop_alias(self, delivery: str, alias: str) -> None:
        """Take an alias away; does nothing if there is none."""


@dataclass(frozen=True)
class Hands:
    """All that the actions touch."""

    ledger: Records
    traffic: Traffic
    proxy: Proxy
    servers: ModelServer
    registry: Aliases
    bundle: Callable[[str, int], Bundle]
    """The bundle of (delivery, version), from the lake."""
    withdraw: Callable[[str, int, Collection[int]], list[int]] = lambda _delivery, _keep, _in_use: []
    """Withdraws bundles of a delivery beyond its newest ones, but those in use; returns their versions."""
    ttl_s: float = 15.0
    """Seconds after which a lease expires unless renewed."""
    routing: Routing = field(default_factory=Routing)
    """How callers are kept on a version, or ask for one."""


class Outcome(Handoff):
    """What came of a promotion or a way back."""

    delivery: str
    outcome: str
    """promoted, rolled_back, reverted, already or nothing."""
    champion: str | None
    """In production now."""
    left: str | None
    """The version that gave way."""
    sentence: str
    """For people."""


def routing_of(serve: ServeSpec) -> Routing:
    """Return what a delivery's callers speak, and how they are kept on a version, or ask for one."""
    sticky = serve.sticky
    return Routing(
        protocol=serve.protocol,
        sticky_header=sticky.header if sticky else None,
        sticky_cookie=sticky.cookie if sticky else None,
        pin_header=serve.pin,
    )


def version_of(name: str) -> int:
    """Return the version in a version's name: 3 for flights-v3.

    Raises:
        DataError: the name has no version.
    """
    _, _, digits = name.rpartition("-v")
    if not digits.isdigit():
        raise DataError(f"{name!r} is no version's name; one looks like flights-v3")
    return int(digits)


def abort(traffic: Traffic, delivery: str, cause: str) -> Split:
    """Give the champion all traffic at once, whoever holds the lease; may be repeated, and needs no ledger.

    The fence goes up with it, so that whoever was moving this traffic can raise nothing afterwards.

    Raises:
        Conflict: other writers got in between twenty times.
    """
    for _ in range(_TRIES):
        split = traffic.read(delivery)
        if split.champion is None:
            return split
        try:
            return traffic.write(
                delivery,
                split.all_to(split.champion),
                champion=split.champion,
                expected=split.revision,
                fence=split.fence + 1,
                cause=cause,
            )
        except Conflict:
            _log.info("traffic of %s changed while it was being aborted: reading it again", delivery)
    raise Conflict(f"traffic of {delivery} was changed by others {_TRIES} times while it was being aborted")


def abort_rollout(
    hands: Hands, rollout_id: str, delivery: str, actor: str, reason: str, evidence: Mapping[str, Any] | None = None
) -> Split:
    """Abort, then record it with its evidence: what a breach asks for, at detection.

    Works, less the record, while the ledger is away.
    """
    split = abort(hands.traffic, delivery, f"{actor}: {reason}")
    try:
        rollout = hands.ledger.rollout(rollout_id)
        if rollout is not None and rollout.phase not in ENDED:
            after, _ = plans.advance(plan_of(rollout), state_of(rollout), plans.Abort(), rollout.age_s)
            hands.ledger.update_rollout(rollout_id, after.phase.value, after.weight, reason=reason, stage=after.stage)
        detail = traffic_detail(split) | {"reason": reason} | dict(evidence or {})
        hands.ledger.log(delivery, "aborted", actor, fence=split.fence, rollout_id=rollout_id, detail=detail)
    except Unavailable as error:
        _log.warning("%s was aborted to %s; the log follows later: %s", delivery, split.champion, error)
    return split


def known_rollout(hands: Hands, rollout_id: str) -> Rollout:
    """Return a rollout that must exist.

    Raises:
        DataError: there is none of this id.
    """
    rollout = hands.ledger.rollout(rollout_id)
    if rollout is None:
        raise DataError(f"there is no rollout {rollout_id}: begin it first")
    return rollout


def under_lease(hands: Hands, rollout_id: str, lease: Lease) -> tuple[Rollout, Lease]:
    """Return a rollout and its lease, renewed.

    Raises:
        LeaseLost: the lease has expired, was taken over or is of another delivery.
    """
    rollout = known_rollout(hands, rollout_id)
    if lease.delivery != rollout.delivery:
        raise LeaseLost(f"the lease is of {lease.delivery}, rollout {rollout_id} is of {rollout.delivery}")
    return rollout, hands.ledger.renew(lease, hands.ttl_s)


@contextmanager
def renewed(hands: Hands, lease: Lease) -> Iterator[None]:
    """Keep a lease alive, from a thread of its own, during a call that may take longer than the lease lasts."""
    over = threading.Event()

    def keep() -> None:
        while not over.wait(hands.ttl_s / 3):
            try:
                hands.ledger.renew(lease, hands.ttl_s)
            except LeaseLost as lost:
                _log.warning("%s", lost)
                return
            except Unavailable as away:
                _log.warning("the lease was not renewed, trying again: %s", away)

    thread = threading.Thread(target=keep, name="tidegate-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def plan_of(rollout: Rollout) -> Plan:
    """Return what a recorded rollout is about."""
    mirrors = rollout.mirrors or (0,) * len(rollout.weights)
    steps = tuple(plans.Step(weight, mirror) for weight, mirror in zip(rollout.weights, mirrors, strict=True))
    return Plan(rollout.candidate, rollout.champion, steps, rollout.deadline_s, rollout.bake_s)


def state_of(rollout: Rollout) -> State:
    """Return where a recorded rollout stands; its times are seconds since it began, as `rollout.age_s` is."""
    since = rollout.age_s - rollout.stage_age_s
    return State(Phase(rollout.phase), rollout.stage, rollout.weight, began=0.0, since=since)


def require_ready(hands: Hands, name: str) -> None:
    """Refuse to go on with a version whose server is not ready.

    Raises:
        Unavailable: it is not.
    """
    if not hands.servers.ready(name):
        raise Unavailable(f"the server of {name} is not ready, so it gets no traffic: tidegate status, then try again")


def apply_weights(hands: Hands, rollout: Rollout, fence: int, effects: tuple[plans.Effect, ...], cause: str) -> Split:
    """Carry out the effects that share traffic, and return the split after them."""
    split = hands.traffic.read(rollout.delivery)
    for effect in effects:
        if isinstance(effect, plans.SetWeights):
            split = write_weights(hands, rollout.delivery, effect, fence, cause)
    return split


def write_weights(hands: Hands, delivery: str, effect: plans.SetWeights, fence: int, cause: str) -> Split:
    """Share the traffic so under this fence, unless it is shared just so already."""
    split = hands.traffic.read(delivery)
    wanted = {name: effect.weights.get(name, 0) for name in split.endpoints}
    same = dict(split.weights) == wanted and dict(split.mirrors) == effect.mirrors
    if same and split.champion == effect.champion and split.fence == fence:
        return split
    return hands.traffic.write(
        delivery,
        effect.weights,
        champion=effect.champion,
        expected=split.revision,
        fence=fence,
        cause=cause,
        mirrors=effect.mirrors,
    )


def finish(hands: Hands, rollout: Rollout, lease: Lease, actor: str, effects: tuple[plans.Effect, ...]) -> None:
    """Carry out the effects that follow the traffic: servers and routes that go, aliases that move; each an event."""
    for effect in effects:
        if isinstance(effect, plans.Retire):
            split = hands.traffic.unroute(rollout.delivery, effect.name)
            hands.servers.retire(effect.name)
            note(hands, rollout, "retired", actor, lease, split, version=effect.name)
        elif isinstance(effect, plans.MoveAliases):
            hands.registry.set_alias(rollout.delivery, "champion", version_of(effect.champion))
            hands.registry.drop_alias(rollout.delivery, "candidate")
            note(hands, rollout, "aliases_moved", actor, lease, champion=effect.champion)


def record(hands: Hands, rollout: Rollout, state: State, outcome: str | None = None, reason: str = "") -> None:
    """Record how far a rollout has come; with an outcome it has ended."""
    hands.ledger.update_rollout(rollout.id, state.phase.value, state.weight, outcome, reason, state.stage)


def note(
    hands: Hands, rollout: Rollout, kind: str, actor: str, lease: Lease, split: Split | None = None, **detail: Any
) -> None:
    """Append an event of a rollout, under its lease's fence, and a log line."""
    facts = {**(traffic_detail(split) if split else {}), **detail}
    hands.ledger.log(rollout.delivery, kind, actor, fence=lease.fence, rollout_id=rollout.id, detail=facts)
    _log.info("%s of %s (%s): %s", kind, rollout.candidate, actor, facts)


def traffic_detail(split: Split) -> dict[str, Any]:
    """Return what an event says about a split."""
    mirrors = {"mirrors": dict(split.mirrors)} if split.mirrors else {}
    return {"revision": split.revision, "weights": dict(split.weights), "champion": split.champion, **mirrors}


def outcome_of(rollout: Rollout, outcome: str, champion: str | None, left: str | None, sentence: str) -> Outcome:
    """Return what came of a rollout."""
    return Outcome(delivery=rollout.delivery, outcome=outcome, champion=champion, left=left, sentence=sentence)
