"""What an evaluation leaves in MLflow: figures, pictures and evaluation.json in the run of the training."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate.errors import Permanent, Unavailable

if TYPE_CHECKING:
    from tidegate.handoff import Evaluated
    from tidegate.lake import Lake

FOLDER = "evaluation"
"""The run's folder of artefacts, and what its figures' names begin with."""
_TAG = "tidegate.evaluation"
_TIMEOUT = 10  # seconds for one request; with one retry, an absent server is told within half a minute


def tell(address: str, run_id: str, evaluated: Evaluated, lake: Lake) -> bool:
    """Store a published evaluation in its run, unless it is there; return whether it was stored now.

    The tag that says so is written last: what a killed process left half-told is told again, over it.

    Raises:
        Unavailable: MLflow does not answer.
        Permanent: MLflow refuses what it is told.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(_TIMEOUT))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient  # seconds to import

    try:
        return _told(MlflowClient(tracking_uri=address), run_id, evaluated, lake)
    except (MlflowException, OSError) as error:  # OSError: the root of what its HTTP client raises
        if isinstance(error, MlflowException) and int(error.get_http_status_code()) < 500:  # type: ignore[no-untyped-call]
            raise Permanent(f"MLflow at {address} refused the evaluation: {error}; mend what it names") from error
        raise Unavailable(
            f"MLflow at {address} did not answer within {_TIMEOUT} s: {error}; see that it runs, try again"
        ) from error


def _told(client: Any, run_id: str, evaluated: Evaluated, lake: Lake) -> bool:
    from mlflow.entities import Metric

    run = client.get_run(run_id)
    if run.data.tags.get(_TAG) == evaluated.digest:
        return False
    at = run.info.start_time  # the same figures told twice are the same metric
    metrics = [Metric(f"{FOLDER}.{name}", value, at, 0) for name, value in evaluated.figures.items()]
    client.log_batch(run_id, metrics=metrics)
    with tempfile.TemporaryDirectory(prefix="tidegate-evaluation-") as folder:
        lake.fetch(evaluated.key, Path(folder), revision=evaluated.digest)
        client.log_artifacts(run_id, folder, FOLDER)
    client.set_tag(run_id, f"{_TAG}.champion", evaluated.champion or evaluated.reason)
    client.set_tag(run_id, _TAG, evaluated.digest)
    return True
