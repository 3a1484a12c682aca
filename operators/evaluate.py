"""The evaluate stage: what a trained model is worth on its held-out rows, and beside the champion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from operators.hooks import clients
from operators.support import the_delivery, the_lake
from operators.workload import WorkloadOperator
from tidegate.errors import DataError
from tidegate.handoff import Dataset, Evaluated, Trained

if TYPE_CHECKING:
    from tidegate.handoff import Bundle
    from tidegate.lake import Lake
    from tidegate.launch import Workload


class EvaluateOperator(WorkloadOperator):
    """Measures the model on its held-out rows, on all and by groups, and beside the champion on the same rows.

    It judges nothing: the gate holds limits. Figures and pictures go to MLflow, evaluation.json into the bundle too.
    """

    ui_color = "#e3f2ea"

    def __init__(self, *, train_task: str, dataset_task: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.train_task = train_task
        self.dataset_task = dataset_task

    def workload(self, context: Any) -> Workload:
        """Return the evaluation of the trained model, named after its request and the champion of the moment."""
        from tidegate.evaluate.task import EvaluateTask
        from tidegate.launch import Workload

        delivery, lake = the_delivery(self.delivery), the_lake()
        trained = Trained.model_validate(context["ti"].xcom_pull(task_ids=self.train_task))
        champion, reason = champion_or_reason(self.delivery, lake)
        task = EvaluateTask(
            trained=trained,
            dataset=Dataset.model_validate(context["ti"].xcom_pull(task_ids=self.dataset_task)),
            event_time=delivery.dataset.event_time,
            champion=champion,
            reason=reason,
            evaluate=delivery.evaluate,
            lake=lake.url,
            tracking=clients.http_url(clients.connection(clients.REGISTRY)),
        )
        return Workload(
            name=f"evaluate-{self.delivery}-{trained.request_id}-against-v{champion.version if champion else 0}",
            module="tidegate.evaluate",
            environment="train",
            handoff=task.to_json(),
            members=1,
        )

    def finish(self, context: Any, handoff: str) -> Evaluated:
        """Return what was published, and say what differs from the champion for sure."""
        evaluated = Evaluated.model_validate_json(handoff)
        figures = evaluated.figures
        for name in ("auc", "log_loss", "brier"):
            if name in figures:
                self.log.info("%s = %s", name, interval(figures, name))
            if f"difference_{name}" in figures:
                self.log.info("%s less %s's: %s", name, evaluated.champion, interval(figures, f"difference_{name}"))
        if evaluated.reason:
            self.log.info("not compared with a champion: %s", evaluated.reason)
        for note in evaluated.notes:
            self.log.info("note: %s", note)
        for group in evaluated.worse:
            self.log.warning("surely worse than %s: %s", evaluated.champion, group)
        for group in evaluated.better:
            self.log.info("surely better than %s: %s", evaluated.champion, group)
        if evaluated.too_few:
            self.log.info("%d groups have too few rows for figures (evaluate.at_least)", evaluated.too_few)
        return evaluated


def interval(figures: dict[str, float], name: str) -> str:
    """Return a figure with its confidence interval as text: 0.8745 (95%: 0.8458 to 0.8985)."""
    low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
    bounds = "no interval" if low is None or high is None else f"95%: {low:.4f} to {high:.4f}"
    return f"{figures[name]:.4f} ({bounds})"


def champion_or_reason(delivery: str, lake: Lake) -> tuple[Bundle | None, str | None]:
    """Return the champion's bundle, or None and why there is none."""
    from tidegate.bundle import load
    from tidegate.clients.registry import CHAMPION

    version = clients.registry(clients.connection(clients.REGISTRY)).version_of(delivery, CHAMPION)
    if version is None:
        return None, "there is no champion yet"
    try:
        return load(lake, delivery, version), None
    except DataError as error:
        return None, f"the champion's bundle cannot be read: {error}"
