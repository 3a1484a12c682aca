"""Watches one stage of a rollout on Prometheus and acts on a breach at detection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from operators.hooks import clients
from operators.hooks.hands import CONNECTIONS, hands_from
from operators.support import the_delivery, unix_now

if TYPE_CHECKING:
    from tidegate.handoff import Verdict

LOOK_EVERY_S = 0.5
SAY_EVERY_S = 10.0


class StageTrigger(BaseTrigger):
    """Looks twice a second until the stage passes or fails; a failed stage's traffic is back before this fires."""

    def __init__(self, delivery: str, rollout: dict[str, Any], lease: dict[str, Any], stage: int, since: float):
        super().__init__()
        self.delivery = delivery
        self.rollout = rollout
        self.lease = lease
        self.stage = stage
        self.since = since

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what is needed to go on watching elsewhere: no secrets, and the stage's own beginning."""
        return (
            "operators.triggers.rollout.StageTrigger",
            {
                "delivery": self.delivery,
                "rollout": self.rollout,
                "lease": self.lease,
                "stage": self.stage,
                "since": self.since,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield the verdict that ends the stage."""
        conns = {name: await clients.aconnection(name) for name in (*CONNECTIONS, clients.METRICS)}
        look = await asyncio.to_thread(self._looker, conns)
        said = 0.0
        while (verdict := await asyncio.to_thread(look)).decision == "hold":
            if (now := unix_now()) - said >= SAY_EVERY_S:
                self.log.info("hold: %s", verdict.reason)
                said = now
            await asyncio.sleep(LOOK_EVERY_S)
        self.log.info("%s: %s", verdict.decision, verdict.reason)
        yield TriggerEvent(verdict.model_dump(mode="json"))

    def _looker(self, conns: dict[str, Any]) -> Any:
        from tidegate.clients.records import Lease, Rollout
        from tidegate.rollout.watch import look

        hands, metrics = hands_from(conns, self.delivery), clients.metrics(conns[clients.METRICS])
        spec = the_delivery(self.delivery).rollout
        rollout, lease = Rollout.model_validate(self.rollout), Lease.model_validate(self.lease)

        def once() -> Verdict:
            return look(hands, metrics, rollout, lease, spec, spec.stages[self.stage], self.since, unix_now())

        return once
