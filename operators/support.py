"""What every operator needs: the run's window, the lake, the delivery, and errors in Airflow's terms."""

from __future__ import annotations

import os
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from tidegate.delivery import Delivery, delivery_named, project_root
from tidegate.errors import Permanent, SpecError, TidegateError
from tidegate.handoff import Window

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tidegate.lake import Lake


@contextmanager
def stage_errors() -> Iterator[None]:
    """Tell Airflow which of our errors to retry: Permanent fails the task at once, Retryable uses its retries."""
    try:
        yield
    except Permanent as error:
        raise AirflowFailException(f"{type(error).__name__}: {error}") from error
    except TidegateError as error:
        raise AirflowException(f"{type(error).__name__}: {error}") from error


def the_lake() -> Lake:
    """Return the lake of this installation (TIDEGATE_LAKE, an fsspec URL; default: var/lake of the project)."""
    from tidegate.lake import Lake

    return Lake(os.environ.get("TIDEGATE_LAKE", f"file://{project_root()}/var/lake"))


def var_folder() -> Path:
    """Return the folder of state and logs (TIDEGATE_VAR; default: var of the project)."""
    return Path(os.environ.get("TIDEGATE_VAR", project_root() / "var"))


def delivery_folder(delivery: Delivery) -> Path:
    """Return the folder that holds a delivery's model file and SQL."""
    return project_root() / delivery.folder


def the_delivery(name: str) -> Delivery:
    """Return the delivery of this name, read anew."""
    return delivery_named(name)


def resolve_window(context: Mapping[str, Any]) -> Window:
    """Return the window a run is about: the form's, or else the run's data interval.

    Asset-triggered runs have no data interval and a cron timetable gives one of zero width: neither is a window.

    Raises:
        SpecError: the run has no window, or the form's is empty or half given.
    """
    params, run = context["params"], context["dag_run"]
    start, end = params.get("window_start"), params.get("window_end")
    if start or end:
        if not (start and end):
            raise SpecError("window_start and window_end belong together; the form gave one; fill in both or neither")
        window = Window(start=start, end=end)
    elif run.data_interval_start and run.data_interval_end:
        window = Window(start=run.data_interval_start, end=run.data_interval_end)
    else:
        raise SpecError(f"run {run.run_id} has no data interval; fill in window_start and window_end in the form")
    if window.end <= window.start:
        raise SpecError(f"window {window} is empty; its end must be later than its start; mend the form's dates")
    return window


def unix_now() -> float:
    """Return the present time in Unix seconds."""
    return datetime.now(UTC).timestamp()


def slices_asset(delivery: str) -> Asset:
    """A window of every source has been validated and published."""
    return Asset(name=f"{delivery}_slices", uri=f"tidegate://{delivery}/slices")


def quarantine_asset(delivery: str) -> Asset:
    """Rows were quarantined: extra says window and, per source, their number and reasons."""
    return Asset(name=f"{delivery}_quarantine", uri=f"tidegate://{delivery}/quarantine")


def drift_asset(delivery: str) -> Asset:
    """Data lie further from what the champion knows, or from the window before, than a contract allows."""
    return Asset(name=f"{delivery}_drift", uri=f"tidegate://{delivery}/drift")


def request_asset(delivery: str) -> Asset:
    """One ask to retrain; the partition is its request_id."""
    return Asset(name=f"{delivery}_request", uri=f"tidegate://{delivery}/request")


def candidate_asset(delivery: str) -> Asset:
    """A candidate passed its gate and waits for a rollout; the partition is its name, flights-v3."""
    return Asset(name=f"{delivery}_candidate", uri=f"tidegate://{delivery}/candidate")
