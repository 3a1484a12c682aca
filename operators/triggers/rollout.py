"""Watches one stage of a rollout on Prometheus and acts on a breach at detection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from operators.hooks import clients
from operators.hooks.hands import CONNECTIONS, hands_from
from operators.support import the_delivery, unix_now
from tidegate.errors import Unavailable

if TYPE_CHECKING:
    from tidegate.rollout.watch import Watch

SAY_EVERY_S = 10.0


class StageTrigger(BaseTrigger):
    """Looks right after each scrape until the stage passes or fails; a failed one's traffic is back before it fires."""

    def __init__(self, delivery: str, rollout_id: str, lease: dict[str, Any]):
        super().__init__()
        self.delivery = delivery
        self.rollout_id = rollout_id
        self.lease = lease

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what is needed to go on watching elsewhere: no secrets and no times, which the ledger has."""
        return (
            "operators.triggers.rollout.StageTrigger",
            {"delivery": self.delivery, "rollout_id": self.rollout_id, "lease": self.lease},
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield the verdict that ends the stage."""
        conns = {name: await clients.aconnection(name) for name in (*CONNECTIONS, clients.METRICS)}
        watch = await self._begin(conns)
        said = 0.0
        while (verdict := await asyncio.to_thread(watch.look)).decision == "hold":
            if (now := unix_now()) - said >= SAY_EVERY_S:
                self.log.info("%s: hold: %s", watch.name, verdict.reason)
                said = now
            await asyncio.sleep(watch.next_scrape_in_s)
        self.log.info("%s: %s: %s", watch.name, verdict.decision, verdict.reason)
        yield TriggerEvent(verdict.model_dump(mode="json"))

    async def _begin(self, conns: dict[str, Any]) -> Watch:
        """Return the watch over the stage that the ledger says the rollout is in; waits for a ledger that is away.

        Meanwhile nobody renews the lease: should the ledger stay away, the guard takes the traffic back.
        """
        while True:
            try:
                return await asyncio.to_thread(self._watch, conns)
            except Unavailable as away:
                self.log.warning("%s", away)
                await asyncio.sleep(1.0)

    def _watch(self, conns: dict[str, Any]) -> Watch:
        from tidegate.clients.records import Lease
        from tidegate.rollout.steps import known_rollout
        from tidegate.rollout.watch import Watch

        hands, metrics = hands_from(conns, self.delivery), clients.metrics(conns[clients.METRICS])
        rollout = known_rollout(hands, self.rollout_id)
        lease = Lease.model_validate(self.lease)
        return Watch(hands, metrics, rollout, lease, the_delivery(self.delivery).rollout)
