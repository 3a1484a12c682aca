"""What is done to live traffic, each step repeatable: begin, deploy, shift, bake, promote, abort, roll back, reconcile.

Every change is made under a lease with its fencing number by compare-and-set, and is an event in the ledger. The way
back needs less: `abort` moves traffic even while the ledger is away, and the log follows later (`reconcile`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tidegate.clients.model_server import Endpoint
from tidegate.clients.records import Lease, Rollout
from tidegate.clients.traffic import Split
from tidegate.errors import Conflict, DataError
from tidegate.rollout import plan as plans
from tidegate.rollout.plan import NotAllowed, Phase
from tidegate.rollout.reconcile import reconcile
from tidegate.rollout.rollback import rollback
from tidegate.rollout.steps import (
    Hands,
    Outcome,
    abort,
    abort_rollout,
    apply_weights,
    finish,
    known_rollout,
    note,
    outcome_of,
    plan_of,
    record,
    renewed,
    require_ready,
    state_of,
    under_lease,
    version_of,
)

if TYPE_CHECKING:
    from tidegate.delivery import RolloutSpec

__all__ = [
    "Hands",
    "Outcome",
    "abort",
    "abort_rollout",
    "bake",
    "begin",
    "deploy",
    "promote",
    "reconcile",
    "rollback",
    "shift",
    "version_of",
]


def begin(
    hands: Hands, delivery: str, candidate: str, rollout_id: str, holder: str, spec: RolloutSpec, actor: str
) -> tuple[Rollout, Lease]:
    """Take the lease and record a rollout; the same rollout_id again continues it.

    Args:
        hands: what it touches.
        delivery: the delivery's name.
        candidate: the version on trial, as flights-v3.
        rollout_id: a deterministic id, such as the DAG run's.
        holder: who holds the lease, the same over retries.
        spec: its stages, deadline and bake; fixed by now, whatever the delivery's file says later.
        actor: who asked for it, for the log.

    Raises:
        LeaseLost: another one is moving this traffic.
        Conflict: another rollout has not ended.
        NotAllowed: this rollout has ended, or the candidate is the champion already.
    """
    split = hands.traffic.read(delivery)
    known = hands.ledger.rollout(rollout_id)
    if known is not None and (known.delivery, known.candidate) != (delivery, candidate):
        raise DataError(f"rollout {rollout_id} is about {known.candidate}, not {candidate}: give it an id of its own")
    if known is not None and known.outcome is not None:
        raise NotAllowed(f"rollout {rollout_id} of {known.candidate} has ended ({known.outcome}): begin a new one")
    if known is None and split.champion == candidate:
        raise NotAllowed(f"{candidate} is the champion of {delivery} already: there is nothing to roll out")
    lease = hands.ledger.acquire(delivery, holder, hands.ttl_s, floor=split.fence + 1)
    asked = Rollout(
        id=rollout_id,
        delivery=delivery,
        champion=split.champion,
        candidate=candidate,
        weights=tuple(stage.percent for stage in spec.stages),
        mirrors=tuple(stage.mirror_percent for stage in spec.stages),
        deadline_s=spec.deadline,
        bake_s=spec.bake,
        phase=Phase.BEGUN.value,
        started_at=datetime.now(UTC),
    )
    try:
        rollout = hands.ledger.begin_rollout(asked)
    except Conflict:
        hands.ledger.release(lease)
        raise
    if known is None:
        note(hands, rollout, "begun", actor, lease, champion=rollout.champion, candidate=candidate)
    return rollout, lease


def deploy(hands: Hands, rollout_id: str, lease: Lease, actor: str) -> Endpoint:
    """Start the candidate's server and give it a route at 0%.

    Raises:
        LeaseLost: the lease has expired or was taken over.
        Unavailable: the server is not ready.
    """
    rollout, lease = under_lease(hands, rollout_id, lease)
    after, _ = plans.advance(plan_of(rollout), state_of(rollout), plans.Deployed(), rollout.age_s)
    with renewed(hands, lease):  # loading and warming a model may take longer than a lease lasts
        endpoint = hands.servers.deploy(hands.bundle(rollout.delivery, version_of(rollout.candidate)))
    require_ready(hands, rollout.candidate)
    hands.ledger.renew(lease, hands.ttl_s)
    split = hands.traffic.route(rollout.delivery, endpoint.name, endpoint.address, hands.routing)
    record(hands, rollout, after)
    note(hands, rollout, "deployed", actor, lease, split, address=endpoint.address)
    return endpoint


def shift(hands: Hands, rollout_id: str, lease: Lease, stage: int, actor: str) -> Split:
    """Give the candidate the share of a stage (its position), and wait until the proxy serves it.

    Raises:
        LeaseLost: the lease has expired or was taken over, or traffic was moved under a higher fence.
        NotAllowed: the rollout was aborted or is too late, or this is not its next stage.
        Conflict: somebody else changed the traffic meanwhile.
        Unavailable: ledger, server or proxy do not answer.
    """
    return _move(hands, rollout_id, lease, plans.Shift(stage), "shifted", actor)


def bake(hands: Hands, rollout_id: str, lease: Lease, actor: str) -> Split:
    """Let the candidate, which has passed every stage, hold all traffic while the champion stays loaded.

    Raises:
        NotAllowed: not every stage was passed.
        LeaseLost, Conflict, Unavailable: see `shift`.
    """
    return _move(hands, rollout_id, lease, plans.Bake(), "baking", actor)


def _move(hands: Hands, rollout_id: str, lease: Lease, event: plans.Event, kind: str, actor: str) -> Split:
    rollout, lease = under_lease(hands, rollout_id, lease)
    after, effects = plans.advance(plan_of(rollout), state_of(rollout), event, rollout.age_s)
    require_ready(hands, rollout.candidate)
    step = "bake" if kind == "baking" else f"stage of {plan_of(rollout).steps[after.stage]}"
    split = apply_weights(hands, rollout, lease.fence, effects, f"{actor}: {step}")
    record(hands, rollout, after)
    note(hands, rollout, kind, actor, lease, split)
    hands.proxy.confirm(rollout.delivery, split.weights, split.mirrors)
    return split


def promote(hands: Hands, rollout_id: str, lease: Lease, actor: str) -> Outcome:
    """Make the candidate the champion: traffic, alias, then the old champion's server goes and the lease is given back.

    Where there was no champion this is the first delivery: the candidate gets all traffic at once. A person who asked
    to promote takes upon himself what the judge would have waited for.

    Raises:
        NotAllowed: not every stage was passed, or it has not baked.
        LeaseLost, Conflict, Unavailable: see `shift`.
    """
    rollout = known_rollout(hands, rollout_id)
    if rollout.phase == Phase.PROMOTED and rollout.outcome is not None:
        return outcome_of(rollout, "already", rollout.candidate, rollout.champion, f"{rollout.candidate} is promoted")
    rollout, lease = under_lease(hands, rollout_id, lease)
    event = plans.Promote(forced=rollout.promote_by is not None)
    after, effects = plans.advance(plan_of(rollout), state_of(rollout), event, rollout.age_s)
    require_ready(hands, rollout.candidate)
    split = apply_weights(hands, rollout, lease.fence, effects, f"{actor}: promoted")
    hands.proxy.confirm(rollout.delivery, split.weights, split.mirrors)
    finish(hands, rollout, lease, actor, effects)
    why = "every stage was passed" if rollout.champion else "the first delivery"
    why = f"{rollout.promote_by} asked not to wait" if rollout.promote_by else why
    record(hands, rollout, after, "promoted", why)
    note(hands, rollout, "promoted", actor, lease, split, reason=why)
    hands.ledger.release(lease)
    was = f" after {rollout.champion}" if rollout.champion else ", the first of its delivery"
    sentence = f"{rollout.candidate} is the champion{was}"
    return outcome_of(rollout, "promoted", rollout.candidate, rollout.champion, sentence)
