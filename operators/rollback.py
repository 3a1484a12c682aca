"""The rollback's task, and the task that reconciles every minute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from operators.hooks.hands import the_hands
from operators.orphans import remove_orphans
from operators.support import stage_errors, the_delivery
from tidegate.clients.records import open_of

if TYPE_CHECKING:
    from tidegate.rollout.actions import Hands


class RollbackOperator(BaseOperator):
    """Gives the champion all traffic, verifies it at the proxy, retires the candidate and says what happened."""

    ui_color = "#f3c9c9"

    def __init__(self, *, delivery: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.delivery = delivery

    def execute(self, context: Any) -> dict[str, Any]:
        """Return the outcome as JSON data."""
        from tidegate.rollout import actions

        params, run = context["params"], context["dag_run"]
        rollout_id, candidate = params.get("rollout_id") or None, params.get("candidate") or None
        with stage_errors():
            hands = the_hands(self.delivery)
            if rollout_id and hands.ledger.rollout(rollout_id) is None:
                self.log.info("rollout %s never began: there is nothing to roll back", rollout_id)
                return {"outcome": "nothing", "sentence": f"rollout {rollout_id} never began"}
            if candidate and not self._on_trial(hands, candidate):
                self.log.info("%s is not on trial: there is nothing to roll back", candidate)
                return {"outcome": "nothing", "sentence": f"{candidate} is not on trial"}
            outcome = actions.rollback(
                hands,
                self.delivery,
                f"{run.dag_id}/{run.run_id}",
                f"{run.dag_id} {run.run_id}",
                params.get("reason") or "no reason given",
                rollout_id=rollout_id,
            )
        self.log.warning("%s", outcome.sentence)
        return outcome.model_dump(mode="json")

    def _on_trial(self, hands: Hands, candidate: str) -> bool:
        """Whether a version has a candidate's traffic or, as on a retry of this task, a rollout that has not ended."""
        if candidate in hands.traffic.read(self.delivery).on_trial:
            return True
        rollout = open_of(hands.ledger.rollouts(self.delivery))
        return rollout is not None and rollout.candidate == candidate


class ReconcileOperator(BaseOperator):
    """Brings what is back to what is on record, for one delivery."""

    ui_color = "#eeeeee"

    def __init__(self, *, delivery: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.delivery = delivery

    def execute(self, context: Any) -> list[str]:
        """Return what was done, one sentence each."""
        from tidegate.rollout import actions

        with stage_errors():
            delivery = the_delivery(self.delivery)
            done = actions.reconcile(the_hands(self.delivery), self.delivery, delivery.serve.keep)
            done += remove_orphans(delivery, context["ti"])
        for sentence in done:
            self.log.warning("%s", sentence)
        return done
