"""The way back: from a candidate to the champion, or from the champion to the version before it."""

from __future__ import annotations

from datetime import UTC, datetime

from tidegate.clients.records import Lease, Rollout, open_of
from tidegate.errors import Unavailable
from tidegate.rollout import plan as plans
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
    version_of,
    write_weights,
)

_REVERTING = "reverting"


def rollback(
    hands: Hands,
    delivery: str,
    rollback_id: str,
    actor: str,
    reason: str,
    *,
    rollout_id: str | None = None,
    version: int | None = None,
) -> Outcome:
    """Go all the way back: traffic to the champion, split verified, the candidate's server and alias taken away.

    With a rollout running (or named), its candidate goes. With none, the present champion gives way to the one before
    it, whose server is started from its bundle first; `version` names another one to go back to. May be repeated.

    Args:
        hands: what it touches.
        delivery: the delivery's name.
        rollback_id: a deterministic id, such as the DAG run's.
        actor: who asks for it, for the log.
        reason: why, for the log.
        rollout_id: the rollout to undo; default: the one that is running.
        version: the version to go back to where no rollout runs.

    Raises:
        Unavailable, Conflict: something did not answer, or answered otherwise; call again.
        DataError: the version to go back to has no bundle.
    """
    try:
        target = _target(hands, delivery, rollback_id, rollout_id)
    except Unavailable:
        if hands.traffic.read(delivery).on_trial:  # the traffic does not wait for the ledger
            abort(hands.traffic, delivery, f"{actor}: {reason}")
        raise
    if target is not None and target.outcome is None and target.phase != _REVERTING:
        return _undo(hands, target, rollback_id, actor, reason)
    if target is not None and target.outcome is None:
        return _revert(hands, target, actor)
    if target is not None and target.outcome in ("rolled_back", "reverted"):
        champion = hands.traffic.read(delivery).champion
        return outcome_of(target, "already", champion, target.candidate, f"already {_when(target)}")
    if rollout_id is not None and target is not None:
        sentence = f"rollout {rollout_id} was promoted: to leave {target.candidate}, roll back without naming a rollout"
        return outcome_of(target, "nothing", hands.traffic.read(delivery).champion, None, sentence)
    return _begin_revert(hands, delivery, rollback_id, actor, reason, version)


def _target(hands: Hands, delivery: str, rollback_id: str, rollout_id: str | None) -> Rollout | None:
    if rollout_id is not None:
        return known_rollout(hands, rollout_id)
    own = hands.ledger.rollout(_revert_id(rollback_id))
    return own if own is not None else open_of(hands.ledger.rollouts(delivery))


def _undo(hands: Hands, rollout: Rollout, rollback_id: str, actor: str, reason: str) -> Outcome:
    delivery, cause = rollout.delivery, f"{actor}: {reason}"
    if hands.traffic.read(delivery).on_trial:
        abort_rollout(hands, rollout.id, delivery, actor, reason)
    lease = _seize(hands, delivery, rollback_id)
    after, effects = plans.advance(plan_of(rollout), state_of(rollout), plans.RollBack(), rollout.age_s)
    if rollout.champion is not None:
        _revive(hands, rollout, lease, actor, rollout.champion)
    split = apply_weights(hands, rollout, lease.fence, effects, cause)
    hands.proxy.confirm(delivery, split.weights, split.mirrors)
    note(hands, rollout, "traffic_verified", actor, lease, split)
    finish(hands, rollout, lease, actor, effects)
    hands.registry.drop_alias(delivery, "candidate")
    record(hands, rollout, after, "rolled_back", rollout.reason or reason)
    note(hands, rollout, "rolled_back", actor, lease, split, reason=rollout.reason or reason)
    hands.ledger.release(lease)
    stays = f"{rollout.champion} has all traffic" if rollout.champion else "there is no champion yet"
    sentence = f"{rollout.candidate} was rolled back ({rollout.reason or reason}); {stays}"
    return outcome_of(rollout, "rolled_back", rollout.champion, rollout.candidate, sentence)


def _begin_revert(
    hands: Hands, delivery: str, rollback_id: str, actor: str, reason: str, version: int | None
) -> Outcome:
    current = hands.traffic.read(delivery).champion
    past = hands.ledger.rollouts(delivery, limit=1000)
    last = past[0] if past else None
    if version is None and last is not None and last.outcome != "promoted":
        return outcome_of(
            last, "already", current, last.candidate, f"already {_when(last)}; name a version to go further"
        )
    previous = f"{delivery}-v{version}" if version is not None else last.champion if last else None
    if current is None or previous is None or previous == current:
        why = "it has never been delivered" if current is None else f"{current} has no version before it"
        if previous is not None and previous == current:
            why = f"{current} is the champion already"
        return Outcome(
            delivery=delivery,
            outcome="nothing",
            champion=current,
            left=None,
            sentence=f"there is nothing to roll back for {delivery}: {why}",
        )
    hands.bundle(delivery, version_of(previous))
    own_id = _revert_id(rollback_id)
    lease = _seize(hands, delivery, own_id)
    asked = Rollout(
        id=own_id,
        delivery=delivery,
        champion=current,
        candidate=previous,
        weights=(100,),
        phase=_REVERTING,
        started_at=datetime.now(UTC),
    )
    rollout = hands.ledger.begin_rollout(asked)
    hands.ledger.update_rollout(own_id, _REVERTING, 0, reason=reason)
    note(hands, rollout, "revert_begun", actor, lease, champion=current, to=previous, reason=reason)
    return _revert(hands, known_rollout(hands, own_id), actor)


def _revert_id(rollback_id: str) -> str:
    return f"rollback:{rollback_id}"  # a rollout may have the same run id


def _revert(hands: Hands, rollout: Rollout, actor: str) -> Outcome:
    delivery, previous = rollout.delivery, rollout.candidate
    lease = _seize(hands, delivery, rollout.id)
    _revive(hands, rollout, lease, actor, previous)
    cause = f"{actor}: {rollout.reason}"
    split = write_weights(hands, delivery, plans.SetWeights({previous: 100}, previous), lease.fence, cause)
    hands.proxy.confirm(delivery, split.weights)
    note(hands, rollout, "traffic_verified", actor, lease, split)
    effects: tuple[plans.Effect, ...] = (plans.MoveAliases(previous),)
    if rollout.champion is not None:
        effects = (plans.Retire(rollout.champion), *effects)
    finish(hands, rollout, lease, actor, effects)
    hands.ledger.update_rollout(rollout.id, "reverted", 100, "reverted", rollout.reason)
    note(hands, rollout, "reverted", actor, lease, split, reason=rollout.reason)
    hands.ledger.release(lease)
    sentence = f"{rollout.champion} gave way to {previous} ({rollout.reason}), which has all traffic again"
    return outcome_of(rollout, "reverted", previous, rollout.champion, sentence)


def _revive(hands: Hands, rollout: Rollout, lease: Lease, actor: str, name: str) -> None:
    """See that a version can serve: its server ready, from its bundle if need be, and its route known."""
    if name in hands.traffic.read(rollout.delivery).endpoints and hands.servers.ready(name):
        return
    with renewed(hands, lease):
        endpoint = hands.servers.deploy(hands.bundle(rollout.delivery, version_of(name)))
    require_ready(hands, name)
    split = hands.traffic.route(rollout.delivery, endpoint.name, endpoint.address, hands.routing)
    note(hands, rollout, "revived", actor, lease, split, version=name)


def _seize(hands: Hands, delivery: str, holder: str) -> Lease:
    fence = hands.traffic.read(delivery).fence
    lease = hands.ledger.acquire(delivery, holder, hands.ttl_s, floor=fence + 1, seize=True)
    if lease.fence < fence:  # our own lease from before an abort: give it back and take a new one above the fence
        hands.ledger.release(lease)
        lease = hands.ledger.acquire(delivery, holder, hands.ttl_s, floor=fence + 1, seize=True)
    return lease


def _when(rollout: Rollout) -> str:
    at = f" at {rollout.ended_at:%Y-%m-%d %H:%M:%S} UTC" if rollout.ended_at else ""
    if rollout.outcome == "reverted":
        return f"rolled back from {rollout.champion} to {rollout.candidate}{at}"
    return f"rolled back {rollout.candidate}{at}"
