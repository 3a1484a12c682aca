"""What is, brought back to what should be: expired leases, missed log entries, a drifted proxy, idle servers."""

from __future__ import annotations

from tidegate.clients.records import Lease, Rollout, open_of
from tidegate.clients.traffic import Split
from tidegate.errors import Conflict
from tidegate.rollout.rollback import rollback
from tidegate.rollout.steps import Hands, abort, traffic_detail, version_of


def reconcile(hands: Hands, delivery: str, keep: int = 0, actor: str = "reconcile") -> list[str]:
    """Bring what is back to what should be, and say what was done.

    Rollouts whose lease has run out are rolled back; traffic changes that the log missed are logged; a proxy that
    serves another split is given the right one; servers of versions that nobody needs are retired.

    Args:
        hands: what it touches.
        delivery: the delivery's name.
        keep: how many idle versions may stay warm, the newest ones.
        actor: who does it, for the log.
    """
    done: list[str] = []
    lease = hands.ledger.lease(delivery)
    if lease is None or not lease.live:
        done += _expired(hands, delivery, open_of(hands.ledger.rollouts(delivery)), lease, actor)
    done += _log_late(hands, delivery, actor)
    if hands.traffic.read(delivery).champion is not None:
        done += _reapply(hands, delivery, actor)
    split = hands.traffic.read(delivery)  # before the rollouts: whose route is seen here has its rollout seen there
    if open_of(hands.ledger.rollouts(delivery)) is None:
        done += _retire_idle(hands, delivery, split, keep, actor)
    return done


def _expired(hands: Hands, delivery: str, opened: Rollout | None, lease: Lease | None, actor: str) -> list[str]:
    holder = f"of {lease.holder}" if lease is not None and lease.holder else ""
    reason = f"the lease {holder} has run out".replace("  ", " ")
    if opened is not None:
        return [rollback(hands, delivery, opened.id, actor, reason, rollout_id=opened.id).sentence]
    split = hands.traffic.read(delivery)
    if not split.candidates or split.champion is None:
        return []
    after = abort(hands.traffic, delivery, f"{actor}: traffic without a lease or a rollout")
    detail = traffic_detail(after) | {"reason": "traffic without a lease or a rollout"}
    hands.ledger.log(delivery, "aborted", actor, fence=after.fence, detail=detail)
    return [f"{delivery}: {', '.join(split.candidates)} had traffic without a rollout; all to {after.champion}"]


def _log_late(hands: Hands, delivery: str, actor: str) -> list[str]:
    split = hands.traffic.read(delivery)
    if split.revision == 0 or hands.ledger.logged(delivery, split.revision):
        return []
    detail = traffic_detail(split) | {"cause": split.cause, "late": True}
    hands.ledger.log(delivery, "traffic", actor, fence=split.fence, detail=detail)
    return [f"{delivery}: logged revision {split.revision} late ({split.cause})"]


def _reapply(hands: Hands, delivery: str, actor: str) -> list[str]:
    try:
        hands.proxy.confirm(delivery, hands.traffic.read(delivery).weights)
    except Conflict as drift:
        hands.proxy.reapply()
        split = hands.traffic.read(delivery)
        hands.proxy.confirm(delivery, split.weights)
        hands.ledger.log(delivery, "reapplied", actor, fence=split.fence, detail={"drift": str(drift)})
        return [f"{delivery}: the proxy had drifted and serves {_shares(split)} again ({drift})"]
    return []


def _retire_idle(hands: Hands, delivery: str, split: Split, keep: int, actor: str) -> list[str]:
    idle = [name for name, weight in split.weights.items() if weight == 0 and name != split.champion]
    idle.sort(key=version_of, reverse=True)
    for name in idle[keep:]:
        after = hands.traffic.unroute(delivery, name)
        hands.servers.retire(name)
        hands.ledger.log(delivery, "retired", actor, detail=traffic_detail(after) | {"version": name})
    return [f"{delivery}: retired the idle server of {name}" for name in idle[keep:]]


def _shares(split: Split) -> str:
    return ", ".join(f"{name} {weight}%" for name, weight in split.weights.items() if weight)
