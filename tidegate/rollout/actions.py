"""What the DAGs do to live traffic, each step repeatable: begin, deploy, shift, promote, abort, roll back, reconcile.

Every change is made under a lease with its fencing number by compare-and-set, and is an event in the ledger. The way
back needs less: `abort` moves traffic even while the ledger is away, and the log follows later (`reconcile`).
"""

from __future__ import annotations

from collections.abc import Sequence

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
    require_ready,
    state_of,
    under_lease,
    version_of,
)

__all__ = [
    "Hands",
    "Outcome",
    "abort",
    "abort_rollout",
    "begin",
    "deploy",
    "promote",
    "reconcile",
    "rollback",
    "shift",
    "version_of",
]


def begin(
    hands: Hands, delivery: str, candidate: str, rollout_id: str, holder: str, weights: Sequence[int], actor: str
) -> tuple[Rollout, Lease]:
    """Take the lease and record a rollout; the same rollout_id again continues it.

    Args:
        hands: what it touches.
        delivery: the delivery's name.
        candidate: the version on trial, as flights-v3.
        rollout_id: a deterministic id, such as the DAG run's.
        holder: who holds the lease, the same over retries.
        weights: percent per stage, rising to 100.
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
    lease = hands.ledger.acquire(delivery, holder, hands.ttl_s, floor=split.fence)
    try:
        rollout = hands.ledger.begin_rollout(
            rollout_id, delivery, split.champion, candidate, weights, Phase.BEGUN.value
        )
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
    after, _ = plans.advance(plan_of(rollout), state_of(rollout), plans.Deployed())
    endpoint = hands.servers.deploy(hands.bundle(rollout.delivery, version_of(rollout.candidate)))
    require_ready(hands, rollout.candidate)
    hands.ledger.renew(lease, hands.ttl_s)
    split = hands.traffic.route(rollout.delivery, endpoint.name, endpoint.address)
    record(hands, rollout, after)
    note(hands, rollout, "deployed", actor, lease, split, address=endpoint.address)
    return endpoint


def shift(hands: Hands, rollout_id: str, lease: Lease, weight: int, actor: str) -> Split:
    """Give the candidate one stage's share of the traffic, in percent, and wait until the proxy serves it.

    Raises:
        LeaseLost: the lease has expired or was taken over, or traffic was moved under a higher fence.
        NotAllowed: the rollout was aborted, or this is not its next stage.
        Conflict: somebody else changed the traffic meanwhile.
        Unavailable: ledger, server or proxy do not answer.
    """
    rollout, lease = under_lease(hands, rollout_id, lease)
    after, effects = plans.advance(plan_of(rollout), state_of(rollout), plans.Shift(weight))
    require_ready(hands, rollout.candidate)
    split = apply_weights(hands, rollout, lease.fence, effects, f"{actor}: stage of {weight}%")
    record(hands, rollout, after)
    note(hands, rollout, "shifted", actor, lease, split)
    hands.proxy.confirm(rollout.delivery, split.weights)
    return split


def promote(hands: Hands, rollout_id: str, lease: Lease, actor: str) -> Outcome:
    """Make the candidate the champion: traffic, alias, then the old champion's server goes and the lease is given back.

    Where there was no champion this is the first delivery: the candidate gets all traffic at once.

    Raises:
        NotAllowed: not every stage was passed.
        LeaseLost, Conflict, Unavailable: see `shift`.
    """
    rollout = known_rollout(hands, rollout_id)
    if rollout.phase == Phase.PROMOTED and rollout.outcome is not None:
        return outcome_of(rollout, "already", rollout.candidate, rollout.champion, f"{rollout.candidate} is promoted")
    rollout, lease = under_lease(hands, rollout_id, lease)
    after, effects = plans.advance(plan_of(rollout), state_of(rollout), plans.Promote())
    require_ready(hands, rollout.candidate)
    split = apply_weights(hands, rollout, lease.fence, effects, f"{actor}: promoted")
    hands.proxy.confirm(rollout.delivery, split.weights)
    finish(hands, rollout, lease, actor, effects)
    record(hands, rollout, after, "promoted", "every stage was passed" if rollout.champion else "the first delivery")
    note(hands, rollout, "promoted", actor, lease, split)
    hands.ledger.release(lease)
    was = f" after {rollout.champion}" if rollout.champion else ", the first of its delivery"
    sentence = f"{rollout.candidate} is the champion{was}"
    return outcome_of(rollout, "promoted", rollout.candidate, rollout.champion, sentence)
