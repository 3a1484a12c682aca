"""The first half of `retrain`: the request, its dataset, the gang that trains on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from operators.hooks import clients
from operators.links import MLFLOW_RUN
from operators.support import (
    delivery_folder,
    resolve_window,
    stage_errors,
    the_delivery,
    the_lake,
    var_folder,
)
from operators.workload import WorkloadOperator
from tidegate.errors import DataError, SpecError
from tidegate.handoff import Dataset, Request, Trained, TrainTask
from tidegate.units import seconds_or_steps

if TYPE_CHECKING:
    from tidegate.delivery import Delivery
    from tidegate.launch import Workload


class RequestOperator(BaseOperator):
    """Says what this run trains: the request of its partition, or what a person filled into the form."""

    ui_color = "#fdf1d6"

    def __init__(self, *, delivery: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.delivery = delivery

    def execute(self, context: Any) -> dict[str, Any]:
        """Return the Request as JSON data."""
        run = context["dag_run"]
        with stage_errors():
            if run.partition_key:
                request = self._of_partition(run.partition_key)
            else:
                request = self._of_form(context)
            the_delivery(self.delivery).model_of(request.model)
        self.log.info("request %s: train on %s (%s)", request.request_id, request.window, request.reason or "no reason")
        return request.model_dump(mode="json")

    def _of_partition(self, request_id: str) -> Request:
        payload = clients.ledger(clients.connection(clients.LEDGER)).request(self.delivery, request_id)
        if payload is None:
            raise SpecError(f"request {request_id!r} of {self.delivery} is not on record; send it again")
        return Request.model_validate(payload)

    def _of_form(self, context: Any) -> Request:
        params = context["params"]
        return Request(
            request_id=params.get("request_id") or _safe(context["dag_run"].run_id),
            delivery=self.delivery,
            window=resolve_window(context),
            model=params.get("model") or None,
            reason=params.get("reason") or "asked for in the form",
        )


def _safe(run_id: str) -> str:
    kept = "".join(c if c.isalnum() or c in "._-" else "-" for c in run_id)
    return kept[:80]


class DatasetOperator(BaseOperator):
    """Builds the training table of the request's window from validated slices by the delivery's SQL."""

    ui_color = "#fde7d6"

    def __init__(self, *, delivery: str, request_task: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.delivery = delivery
        self.request_task = request_task

    def execute(self, context: Any) -> dict[str, Any]:
        """Return the Dataset as JSON data."""
        from tidegate.dataset import build

        request = Request.model_validate(context["ti"].xcom_pull(task_ids=self.request_task))
        delivery = the_delivery(self.delivery)
        with stage_errors():
            dataset = build(delivery, request.window, the_lake(), delivery_folder(delivery))
            _refuse_what_drifted(dataset)
        self.log.info("dataset: %d training rows, %d held out", dataset.train_rows, dataset.test_rows)
        return dataset.model_dump(mode="json")


def _refuse_what_drifted(dataset: Dataset) -> None:
    from tidegate.validate.drift import stopped

    slices = stopped(the_lake(), dataset.slices, dataset.delivery)
    if slices:
        said = ". ".join(
            f"Slice {name} drifted further than its contract's stop: {why}" for name, why in slices.items()
        )
        raise DataError(
            f"{said}. Nothing is trained on it: see the watch task of ingest__{dataset.delivery}; then mend the source "
            "and read it again (refresh), or raise the limit in the contract and clear that task; then clear this one"
        )


def work_of(delivery: Delivery, lake: str, name: str) -> str:
    """Return the URL of a gang's checkpoints and summaries: of this machine, or in the lake where it trains in pods."""
    below = f"checkpoints/{name}"
    return f"{lake}/{below}" if delivery.train.launcher == "kubernetes" else str(var_folder() / below)


class TrainOperator(WorkloadOperator):
    """Trains the request's model as a gang of workers and publishes its SavedModel."""

    ui_color = "#f9d9d9"
    operator_extra_links = (MLFLOW_RUN,)
    template_fields: Sequence[str] = ()

    def __init__(self, *, request_task: str, dataset_task: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.request_task = request_task
        self.dataset_task = dataset_task

    def workload(self, context: Any) -> Workload:
        """Return the gang of the request, named after it."""
        from tidegate.launch.training import training

        delivery, lake = the_delivery(self.delivery), the_lake()
        request = Request.model_validate(context["ti"].xcom_pull(task_ids=self.request_task))
        file, function = delivery.model_of(request.model)
        name = f"train-{self.delivery}-{request.request_id}"
        seconds, steps = seconds_or_steps(delivery.train.checkpoint)
        task = TrainTask(
            request=request,
            dataset=Dataset.model_validate(context["ti"].xcom_pull(task_ids=self.dataset_task)),
            lake=lake.url,
            model_file=str(Path(delivery.folder) / file),
            model_function=function,
            workers=delivery.train.workers,
            epochs=delivery.train.epochs,
            batch=delivery.train.batch,
            learning_rate=delivery.train.learning_rate,
            precision=delivery.train.precision,
            seed=delivery.train.seed,
            accumulate=delivery.train.accumulate,
            scale=delivery.train.scale,
            base_batch=delivery.train.base_batch,
            warmup=delivery.train.warmup,
            memory=delivery.train.memory,
            bucket=delivery.train.bucket,
            checkpoint_seconds=seconds,
            checkpoint_steps=steps,
            profile=delivery.train.profile,
            work=work_of(delivery, lake.url, name),
            tracking=_tracking(delivery),
            lock="docker/train/requirements.txt",
        )
        return training(delivery, request.request_id, task.to_json())

    def finish(self, context: Any, handoff: str) -> Trained:
        """Return what the gang published, and say by how much it beats the base rate."""
        trained = Trained.model_validate_json(handoff)
        for name, value in sorted(trained.metrics.items()):
            self.log.info("%s = %.4f", name, value)
        return trained


def _tracking(delivery: Delivery) -> str:
    pods = delivery.train.pods
    if pods is not None and pods.tracking is not None:
        return pods.tracking
    return clients.http_url(clients.connection(clients.REGISTRY))
