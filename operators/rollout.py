"""The rollout's tasks: begin under a lease, shift and watch each stage, bake, promote."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from operators.hooks import clients
from operators.hooks.hands import the_hands
from operators.support import stage_errors, the_delivery
from operators.triggers.rollout import StageTrigger
from tidegate.errors import SpecError
from tidegate.handoff import Verdict

if TYPE_CHECKING:
    from tidegate.clients.records import Lease, Rollout
    from tidegate.rollout.steps import Hands

SLACK_S = 900.0
"""What Airflow is given beyond a rollout's own deadline before it ends the wait itself."""


class BeginOperator(BaseOperator):
    """Takes the lease, records the rollout and puts the candidate's server beside the champion, at 0%."""

    ui_color = "#dbe7f5"

    def __init__(self, *, delivery: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.delivery = delivery

    def execute(self, context: Any) -> dict[str, Any]:
        """Return {rollout, lease} for the stages."""
        from tidegate.rollout import actions

        run = context["dag_run"]
        spec, actor = the_delivery(self.delivery), f"{run.dag_id} {run.run_id}"
        with stage_errors():
            hands = the_hands(self.delivery)
            candidate = self._candidate(context)
            own = rollout_id(run.dag_id, run.run_id)
            rollout, lease = actions.begin(hands, self.delivery, candidate, own, own, spec.rollout, actor)
            actions.deploy(hands, rollout.id, lease, actor)
        self.log.info("%s beside %s under fence %d", rollout.candidate, rollout.champion or "no champion", lease.fence)
        return {"rollout": rollout.model_dump(mode="json"), "lease": lease.model_dump(mode="json")}

    def _candidate(self, context: Any) -> str:
        """Return the form's version, or the run's partition, or the registry's candidate."""
        if asked := context["params"].get("version"):
            return f"{self.delivery}-v{asked}"
        if partition := context["dag_run"].partition_key:
            return str(partition)
        found = clients.registry(clients.connection(clients.REGISTRY)).version_of(self.delivery, "candidate")
        if found is None:
            raise SpecError(f"{self.delivery} has no candidate; run retrain__{self.delivery}, or name a version")
        return f"{self.delivery}-v{found}"


class _BesideChampion(BaseOperator):
    """What shifting, baking and watching share."""

    def __init__(self, *, delivery: str, begin_task: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.delivery = delivery
        self.begin_task = begin_task

    def begun(self, context: Any) -> tuple[Rollout, Lease]:
        """Return the rollout and its lease; skip where there is no champion to share traffic with."""
        rollout, lease = begun(context, self.begin_task)
        if rollout.champion is None:
            raise AirflowSkipException(f"{rollout.candidate} is the first delivery: no champion to compare with")
        return rollout, lease

    def look_again(self, hands: Hands, rollout_id: str, lease: Lease) -> None:
        """Judge the stage that was passed once more, up to now: nobody watched since, and the share is about to rise.

        Raises:
            AirflowFailException: it would not pass any longer; the candidate's traffic is gone already.
        """
        from tidegate.rollout.steps import known_rollout
        from tidegate.rollout.watch import Watch

        rollout = known_rollout(hands, rollout_id)
        if rollout.stage < 0 or rollout.phase != "staged":
            return
        metrics = clients.metrics(clients.connection(clients.METRICS))
        verdict = Watch(hands, metrics, rollout, lease, the_delivery(self.delivery).rollout).look()
        if verdict.decision == "fail":
            raise AirflowFailException(f"after it had passed: {verdict.reason}")


class ShiftOperator(_BesideChampion):
    """Gives the candidate the stage's share of live traffic, and waits until the proxy serves it."""

    ui_color = "#cfe3d4"

    def __init__(self, *, stage: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.stage = stage

    def execute(self, context: Any) -> None:
        """Move the traffic."""
        from tidegate.rollout import actions

        rollout, lease = self.begun(context)
        run = context["dag_run"]
        with stage_errors():
            hands = the_hands(self.delivery)
            self.look_again(hands, rollout.id, lease)
            split = actions.shift(hands, rollout.id, lease, self.stage, f"{run.dag_id} {run.run_id}")
        self.log.info("%s", dict(split.weights))


class BakeOperator(_BesideChampion):
    """Begins the bake: the candidate, which passed every stage, holds all traffic while the champion stays loaded."""

    ui_color = "#cfe3d4"

    def execute(self, context: Any) -> None:
        """Record that it bakes from now on."""
        from tidegate.rollout import actions

        rollout, lease = self.begun(context)
        run = context["dag_run"]
        with stage_errors():
            hands = the_hands(self.delivery)
            self.look_again(hands, rollout.id, lease)
            actions.bake(hands, rollout.id, lease, f"{run.dag_id} {run.run_id}")
        self.log.info("%s bakes for %.0f s; %s stays loaded", rollout.candidate, rollout.bake_s, rollout.champion)


class StageSensor(_BesideChampion):
    """Watches a stage, or the bake, until it passes or fails; on a breach the traffic is back at detection."""

    ui_color = "#f5ecd0"

    def execute(self, context: Any) -> None:
        """Defer to the trigger that looks after each scrape."""
        rollout, lease = self.begun(context)
        self.defer(
            trigger=StageTrigger(delivery=self.delivery, rollout_id=rollout.id, lease=lease.model_dump(mode="json")),
            method_name="judged",
            timeout=timedelta(seconds=rollout.deadline_s + 2 * rollout.bake_s + SLACK_S),
        )

    def judged(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        """Return the verdict that passed; fail with the one that did not."""
        verdict = Verdict.model_validate(event)
        for check in verdict.checks:
            self.log.info("%s", check.line())
        if verdict.decision != "pass":
            raise AirflowFailException(f"{verdict.decision}: {verdict.reason}")
        self.log.info("pass: %s", verdict.reason)
        return verdict.model_dump(mode="json")


class PromoteOperator(BaseOperator):
    """Makes the candidate the champion: all traffic, the alias, and the old champion's server retired."""

    ui_color = "#bfe3c6"

    def __init__(self, *, delivery: str, begin_task: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.delivery = delivery
        self.begin_task = begin_task

    def execute(self, context: Any) -> dict[str, Any]:
        """Return the outcome as JSON data."""
        from tidegate.rollout import actions

        rollout, lease = begun(context, self.begin_task)
        run = context["dag_run"]
        with stage_errors():
            outcome = actions.promote(the_hands(self.delivery), rollout.id, lease, f"{run.dag_id} {run.run_id}")
        self.log.info("%s", outcome.sentence)
        return outcome.model_dump(mode="json")


def begun(context: Any, begin_task: str) -> tuple[Rollout, Lease]:
    """Return the rollout and the lease that the run's first task took."""
    from tidegate.clients.records import Lease, Rollout

    found = context["ti"].xcom_pull(task_ids=begin_task)
    return Rollout.model_validate(found["rollout"]), Lease.model_validate(found["lease"])


def rollout_id(dag_id: str, run_id: str) -> str:
    """Return the id of a run's rollout, unique over deliveries; also the holder of its lease."""
    return f"{dag_id}/{run_id}"
