"""What is, brought back to what should be: expired leases, missed log entries, a drifted proxy, idle servers."""

from __future__ import annotations

from tidegate.clients.records import Lease, Rollout, open_of
from tidegate.clients.traffic import Split
from tidegate.errors import Conflict
from tidegate.rollout.plan import Phase, is_late
from tidegate.rollout.rollback import rollback
from tidegate.rollout.steps import Hands, abort, plan_of, state_of, traffic_detail, version_of

_GRACE_S = 60.0


def reconcile(hands: Hands, delivery: str, keep: int = 0, actor: str = "reconcile") -> list[str]:
    """Bring what is back to what should be, and say what was done.

    Rollouts whose lease has run out are rolled back; traffic changes that the log missed are logged; a proxy that
    serves another split is given the right one; servers of versions that nobody needs are retired, and old bundles
    withdrawn.

    Args:
        hands: what it touches.
        delivery: the delivery's name.
        keep: how many idle versions may stay warm, and how many bundles are kept, the newest ones.
        actor: who does it, for the log.
    """
    done: list[str] = []
    lease = hands.ledger.lease(delivery)
    opened = open_of(hands.ledger.rollouts(delivery))
    if opened is not None and _overdue(opened):
        reason = f"its deadline of {opened.deadline_s:.0f} s has passed"
        done.append(rollback(hands, delivery, opened.id, actor, reason, rollout_id=opened.id).sentence)
    elif lease is None or not lease.live:
        done += _expired(hands, delivery, opened, lease, actor)
    done += _log_late(hands, delivery, actor)
    if hands.traffic.read(delivery).champion is not None:
        done += _reapply(hands, delivery, actor)
    split = hands.traffic.read(delivery)  # before the rollouts: whose route is seen here has its rollout seen there
    if open_of(hands.ledger.rollouts(delivery)) is None:
        done += _retire_idle(hands, delivery, split, keep, actor)
        done += _withdraw_bundles(hands, delivery, split, keep, actor)
    return done


def _overdue(rollout: Rollout) -> bool:
    """Whether a rollout's own watcher should have taken it back long ago: it has a minute for that."""
    if rollout.phase not in set(Phase):
        return False  # a way back to an earlier version has no deadline
    return is_late(plan_of(rollout), state_of(rollout), rollout.age_s - _GRACE_S)


def _expired(hands: Hands, delivery: str, opened: Rollout | None, lease: Lease | None, actor: str) -> list[str]:
    holder = f"of {lease.holder}" if lease is not None and lease.holder else ""
    reason = f"the lease {holder} has run out".replace("  ", " ")
    if opened is not None:
        return [rollback(hands, delivery, opened.id, actor, reason, rollout_id=opened.id).sentence]
    split = hands.traffic.read(delivery)
    if not split.on_trial or split.champion is None:
        return []
    after = abort(hands.traffic, delivery, f"{actor}: traffic without a lease or a rollout")
    detail = traffic_detail(after) | {"reason": "traffic without a lease or a rollout"}
    hands.ledger.log(delivery, "aborted", actor, fence=after.fence, detail=detail)
    return [f"{delivery}: {', '.join(split.on_trial)} had traffic without a rollout; all to {after.champion}"]


def _log_late(hands: Hands, delivery: str, actor: str) -> list[str]:
    split = hands.traffic.read(delivery)
    if split.revision == 0 or hands.ledger.logged(delivery, split.revision):
        return []
    detail = traffic_detail(split) | {"cause": split.cause, "late": True}
    hands.ledger.log(delivery, "traffic", actor, fence=split.fence, detail=detail)
    return [f"{delivery}: logged revision {split.revision} late ({split.cause})"]


def _reapply(hands: Hands, delivery: str, actor: str) -> list[str]:
    try:
        split = hands.traffic.read(delivery)
        hands.proxy.confirm(delivery, split.weights, split.mirrors)
    except Conflict as drift:
        hands.proxy.reapply()
        split = hands.traffic.read(delivery)
        hands.proxy.confirm(delivery, split.weights, split.mirrors)
        hands.ledger.log(delivery, "reapplied", actor, fence=split.fence, detail={"drift": str(drift)})
        return [f"{delivery}: the proxy had drifted and serves {_shares(split)} again ({drift})"]
    return []


def _retire_idle(hands: Hands, delivery: str, split: Split, keep: int, actor: str) -> list[str]:
    idle = [name for name in split.weights if name != split.champion and name not in split.on_trial]
    idle.sort(key=version_of, reverse=True)
    for name in idle[keep:]:
        after = hands.traffic.unroute(delivery, name)
        hands.servers.retire(name)
        hands.ledger.log(delivery, "retired", actor, detail=traffic_detail(after) | {"version": name})
    return [f"{delivery}: retired the idle server of {name}" for name in idle[keep:]]


def _withdraw_bundles(hands: Hands, delivery: str, split: Split, keep: int, actor: str) -> list[str]:
    """Withdraw old bundles, but of versions that have a server, and of the last `keep` champions: the way back."""
    if keep < 1:
        return []
    past = [rollout for rollout in hands.ledger.rollouts(delivery, limit=1000) if rollout.outcome is not None]
    served = [name for r in past if r.outcome in ("promoted", "reverted") for name in (r.candidate, r.champion) if name]
    champions = list(dict.fromkeys(served))[:keep]
    in_use = {version_of(name) for name in (*champions, *split.endpoints)}
    gone = hands.withdraw(delivery, keep, in_use)
    if not gone:
        return []
    shown = ", ".join(f"v{version}" for version in gone)
    hands.ledger.log(delivery, "withdrawn", actor, detail={"versions": gone})
    return [f"{delivery}: withdrew the bundles of {shown}; the newest {keep}, what serves and the way back are kept"]


def _shares(split: Split) -> str:
    return ", ".join(f"{name} {weight}%" for name, weight in split.weights.items() if weight)
