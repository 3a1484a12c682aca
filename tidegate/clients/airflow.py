"""Airflow's REST API: start runs and backfills, read their states and results."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import httpx

from tidegate.errors import DataError, Unavailable
from tidegate.handoff import Window

TIMEOUT_S = 10.0
ENDED = ("success", "failed")


@dataclass(frozen=True)
class Run:
    """One DAG run: its state and when it ran (ISO 8601, or None)."""

    dag_id: str
    run_id: str
    state: str
    start: str | None
    end: str | None
    partition: str | None
    interval_start: str | None

    @property
    def ended(self) -> bool:
        """Whether nothing more happens in this run."""
        return self.state in ENDED


class AirflowApi:
    """A logged-in client of one Airflow api-server; safe to use from several threads."""

    def __init__(self, url: str, user: str, password: str, transport: httpx.BaseTransport | None = None):
        self.url = url.rstrip("/")
        self._login = {"username": user, "password": password}
        self._http = httpx.Client(base_url=self.url, timeout=TIMEOUT_S, transport=transport)
        self._token: str | None = None

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def dags(self) -> dict[str, bool]:
        """Return every known DAG's id and whether it is paused."""
        found = self._call("GET", "/api/v2/dags", params={"limit": 200})
        return {dag["dag_id"]: bool(dag["is_paused"]) for dag in found["dags"]}

    def import_errors(self) -> list[str]:
        """Return the import errors of DAG files, each as 'file: message'."""
        found = self._call("GET", "/api/v2/importErrors")
        return [f"{error['filename']}: {error['stack_trace']}" for error in found["import_errors"]]

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None, run_id: str | None = None) -> Run:
        """Start a run with the form's values in `conf`; with a `run_id` that exists, return that run."""
        body: dict[str, Any] = {"logical_date": None, "conf": conf or {}}
        if run_id:
            body["dag_run_id"] = run_id
        try:
            return _run(self._call("POST", f"/api/v2/dags/{dag_id}/dagRuns", json=body))
        except httpx.HTTPStatusError as error:
            if run_id and error.response.status_code == httpx.codes.CONFLICT:
                return self.run(dag_id, run_id)
            raise DataError(f"Airflow refused a run of {dag_id}: {error.response.text}") from error

    def run(self, dag_id: str, run_id: str) -> Run:
        """Return one run."""
        return _run(self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}"))

    def runs(self, dag_id: str) -> list[Run]:
        """Return the newest 100 runs of a DAG, newest first."""
        found = self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns", params={"limit": 100, "order_by": "-run_after"})
        return [_run(item) for item in found["dag_runs"]]

    def backfill(self, dag_id: str, window: Window, max_active_runs: int = 3, reprocess: bool = False) -> int:
        """Backfill the runs whose windows start in `window`, its end included; returns the backfill's id.

        Runs that are there already stay as they are; with `reprocess`, those that have ended run again.
        """
        body = {
            "dag_id": dag_id,
            "from_date": window.start.isoformat(),
            "to_date": window.end.isoformat(),
            "run_backwards": False,
            "dag_run_conf": {},
            "reprocess_behavior": "completed" if reprocess else "none",
            "max_active_runs": max_active_runs,
        }
        try:
            return int(self._call("POST", "/api/v2/backfills", json=body)["id"])
        except httpx.HTTPStatusError as error:
            raise DataError(f"Airflow refused a backfill of {dag_id}: {error.response.text}") from error

    def idle(self, dag_id: str) -> bool:
        """Whether Airflow would take a backfill of a DAG: its last one is over, which is so seconds after its runs."""
        found = self._call("GET", "/api/v2/backfills", params={"dag_id": dag_id, "limit": 100, "order_by": "-id"})
        return all(each["completed_at"] is not None for each in found["backfills"])

    def tasks(self, dag_id: str, run_id: str) -> dict[str, str | None]:
        """Return the state of every task of a run."""
        found = self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances", params={"limit": 200})
        return {item["task_id"]: item["state"] for item in found["task_instances"]}

    def result(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """Return what a task returned, or None where it returned nothing yet."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        try:
            return self._call("GET", path, params={"deserialize": "true"})["value"]
        except httpx.HTTPStatusError as error:
            if error.response.status_code == httpx.codes.NOT_FOUND:
                return None
            raise

    def wait(self, dag_id: str, run_id: str, timeout_s: float, poll_s: float = 1.0) -> Run:
        """Return the run once it has ended.

        Raises:
            Unavailable: it has not ended within `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        while not (found := self.run(dag_id, run_id)).ended:
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{dag_id} run {run_id} is {found.state} after {timeout_s:.0f} s; see it at {self.url}"
                )
            time.sleep(poll_s)  # Airflow's API has no way to await a state
        return found

    def _call(self, method: str, path: str, **kwargs: Any) -> Any:
        for fresh in (False, True):
            response = self._send(method, path, fresh, **kwargs)
            if response.status_code != httpx.codes.UNAUTHORIZED:
                break
        response.raise_for_status()
        return response.json()

    def _send(self, method: str, path: str, fresh: bool, **kwargs: Any) -> httpx.Response:
        try:
            if fresh or self._token is None:
                answer = self._http.post("/auth/token", json=self._login)
                answer.raise_for_status()
                self._token = answer.json()["access_token"]
            return self._http.request(method, path, headers={"Authorization": f"Bearer {self._token}"}, **kwargs)
        except httpx.TransportError as error:
            raise Unavailable(
                f"Airflow at {self.url} did not answer within {TIMEOUT_S:.0f} s ({error}); is it up? `tidegate status`"
            ) from error


def _run(item: dict[str, Any]) -> Run:
    return Run(
        dag_id=item["dag_id"],
        run_id=item["dag_run_id"],
        state=item["state"],
        start=item.get("start_date"),
        end=item.get("end_date"),
        partition=item.get("partition_key"),
        interval_start=item.get("data_interval_start"),
    )
