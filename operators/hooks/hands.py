"""All that a rollout touches, from this installation's connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from operators.hooks import clients
from operators.support import the_delivery, the_lake

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tidegate.handoff import Bundle
    from tidegate.rollout.actions import Hands

CONNECTIONS = (clients.LEDGER, clients.TRAFFIC, clients.SERVING, clients.REGISTRY)


def hands_from(conns: Mapping[str, Any], delivery: str) -> Hands:
    """Return the clients that a delivery's rollout works with."""
    from tidegate.bundle import retain
    from tidegate.rollout.actions import Hands
    from tidegate.rollout.steps import routing_of

    lake, proxy, spec = the_lake(), clients.traffic(conns[clients.TRAFFIC]), the_delivery(delivery)
    return Hands(
        ledger=clients.ledger(conns[clients.LEDGER]),
        traffic=proxy,
        proxy=proxy,
        servers=clients.serving(conns[clients.SERVING], lake, spec.serve.server),
        registry=clients.registry(conns[clients.REGISTRY]),
        bundle=bundle_of,
        withdraw=lambda name, keep, in_use: retain(lake, name, keep, in_use),
        ttl_s=spec.rollout.lease,
        routing=routing_of(spec.serve),
    )


def the_hands(delivery: str) -> Hands:
    """Return a delivery's clients, from a task."""
    return hands_from({name: clients.connection(name) for name in CONNECTIONS}, delivery)


def bundle_of(delivery: str, version: int) -> Bundle:
    """Return a version's bundle from the lake.

    Raises:
        DataError: no such version was ever bundled.
    """
    from tidegate.bundle import load

    return load(the_lake(), delivery, version)
