"""What a training run leaves in MLflow: one run per request, found again when the request is tried again."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tidegate.errors import Permanent, SpecError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tidegate.handoff import TrainTask

_TIMEOUT = 10  # seconds for one request; with one retry, an absent server is told within half a minute
_RETRIES = 1
_TAG = "tidegate.request_id"


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave: figures by name, and when it ended (Unix time, seconds)."""

    number: int
    at: float
    figures: dict[str, float]


class Tracking(Protocol):
    """Where a run's parameters and figures go."""

    def open(self, task: TrainTask) -> str | None:
        """Find or make the request's run; return its id."""
        ...

    def record(self, task: TrainTask, run_id: str | None, epochs: Sequence[Epoch], final: Mapping[str, float]) -> None:
        """Store the run's figures and its dependency lock, and close it."""
        ...


class NoTracking:
    """For tasks without an MLflow address."""

    def open(self, task: TrainTask) -> None:
        """Make no run."""

    def record(self, task: TrainTask, run_id: str | None, epochs: Sequence[Epoch], final: Mapping[str, float]) -> None:
        """Store nothing."""


class MlflowTracking:
    """An MLflow server. Every call raises Unavailable, with its address and time-out, where it does not answer."""

    def __init__(self, address: str):
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(_TIMEOUT))
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(_RETRIES))
        from mlflow.tracking import MlflowClient  # seconds to import, and needed by one member only

        self._address = address
        self._client: Any = MlflowClient(tracking_uri=address)

    def open(self, task: TrainTask) -> str:
        """Find the run tagged with this request's id in the delivery's experiment, or make it.

        Raises:
            SpecError: the dependency lock, which `record` is to store, is not there.
        """
        if not Path(task.lock).is_file():
            raise SpecError(f"dependency lock {task.lock} does not exist; name the lock that the members run on")
        return str(self._answered(lambda: self._open(task)))

    def record(self, task: TrainTask, run_id: str | None, epochs: Sequence[Epoch], final: Mapping[str, float]) -> None:
        """Store figures per epoch, the held-out figures and the lock; the run is then FINISHED."""
        self._answered(lambda: self._record(task, str(run_id), epochs, final))

    def _open(self, task: TrainTask) -> str:
        request = task.request
        found = self._client.get_experiment_by_name(request.delivery)
        experiment = found.experiment_id if found else self._client.create_experiment(request.delivery)
        runs = self._client.search_runs([experiment], f"tags.`{_TAG}` = '{request.request_id}'", max_results=1)
        if runs:
            return str(runs[0].info.run_id)
        tags = {_TAG: request.request_id, "tidegate.reason": request.reason, "tidegate.source": request.source}
        run = self._client.create_run(experiment, run_name=request.request_id, tags=tags)
        return str(run.info.run_id)

    def _record(self, task: TrainTask, run_id: str, epochs: Sequence[Epoch], final: Mapping[str, float]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        last = epochs[-1]
        metrics = [
            Metric(name, value, int(epoch.at * 1000), epoch.number)
            for epoch in (*epochs, Epoch(last.number, last.at, dict(final)))
            for name, value in epoch.figures.items()
        ]
        params = [Param(name, str(value)) for name, value in parameters(task).items()]
        tags = [RunTag(f"slice.{name}", digest) for name, digest in task.dataset.slices.items()]
        self._client.log_batch(run_id, metrics=metrics, params=params, tags=tags)
        self._client.log_artifact(run_id, task.lock)
        self._client.set_terminated(run_id, "FINISHED")

    def _answered(self, call: Callable[[], Any]) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return call()
        except (MlflowException, OSError) as error:  # OSError: the root of what its HTTP client raises
            if isinstance(error, MlflowException) and int(error.get_http_status_code()) < 500:  # type: ignore[no-untyped-call]
                raise Permanent(f"MLflow at {self._address} refused the run: {error}; mend what it names") from error
            raise Unavailable(
                f"MLflow at {self._address} did not answer within {_TIMEOUT} s: {error}; see that it runs, try again"
            ) from error


def parameters(task: TrainTask) -> dict[str, Any]:
    """Return the parameters of a run, by name."""
    return {
        "workers": task.workers,
        "epochs": task.epochs,
        "batch": task.batch,
        "learning_rate": task.learning_rate,
        "precision": task.precision,
        "seed": task.seed,
        "model": task.model_function,
        "window": task.request.window.id,
        "train_rows": task.dataset.train_rows,
        "test_rows": task.dataset.test_rows,
        "dataset": task.dataset.key,
        "dataset_digest": task.dataset.digest,
    }
