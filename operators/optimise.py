"""The optimise stage: the trained SavedModel becomes the artefact that serves, with its parity proven."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from operators.support import the_delivery, the_lake
from operators.workload import WorkloadOperator
from tidegate.handoff import Dataset, Optimised, OptimiseTask, Trained

if TYPE_CHECKING:
    from tidegate.launch import Workload


class OptimiseOperator(WorkloadOperator):
    """Makes what serves (ONNX, a TensorRT engine, another SavedModel) and compares predictions on real rows."""

    ui_color = "#f3e1f7"

    def __init__(self, *, train_task: str, dataset_task: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.train_task = train_task
        self.dataset_task = dataset_task

    def workload(self, context: Any) -> Workload:
        """Return the conversion of the trained model, named after its request."""
        from tidegate.launch import Workload

        delivery = the_delivery(self.delivery)
        trained = Trained.model_validate(context["ti"].xcom_pull(task_ids=self.train_task))
        task = OptimiseTask(
            trained=trained,
            dataset=Dataset.model_validate(context["ti"].xcom_pull(task_ids=self.dataset_task)),
            lake=the_lake().url,
            target=delivery.optimise.target,
            tolerance=delivery.optimise.tolerance,
        )
        return Workload(
            name=f"optimise-{self.delivery}-{trained.request_id}",
            module="tidegate.optimise",
            environment="train",
            handoff=task.to_json(),
            members=1,
        )

    def finish(self, context: Any, handoff: str) -> Optimised:
        """Return the artefact and say how it compares."""
        optimised = Optimised.model_validate_json(handoff)
        self.log.info(
            "%s: largest difference %.2e on %d rows; %.4f s against %.4f s of the SavedModel",
            optimised.target,
            optimised.max_difference,
            optimised.rows,
            optimised.seconds_optimised,
            optimised.seconds_saved_model,
        )
        return optimised
