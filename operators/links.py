"""Links on a task's page in Airflow: to the pages that it published, served by the api-server itself, and to MLflow."""

from __future__ import annotations

from typing import Any

import attrs
from airflow.sdk import BaseOperatorLink

from operators.hooks import clients

PREFIX = "/tidegate"


@attrs.define()
class ReportLink(BaseOperatorLink):
    """Opens one page of the report that a task's result names by `key`."""

    title: str = ""
    page: str = ""

    @property
    def name(self) -> str:
        """The button's text."""
        return self.title

    @property
    def xcom_key(self) -> str:
        """Where Airflow keeps the link of this page: links of one class need names of their own."""
        return f"_link_{self.page.replace('/', '_')}"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the page's address; empty where the task has no result."""
        found = ti_key.xcom_pull(task_ids=operator.task_id)
        return f"{PREFIX}/{found['key']}/{self.page}" if found else ""


DRIFT_REPORT = ReportLink(title="Drift at a glance", page="index.html")
FACETS = ReportLink(title="TFDV facets", page="facets.html")
DATA_DOCS = ReportLink(title="Great Expectations data docs", page="data_docs/index.html")


@attrs.define()
class MlflowLink(BaseOperatorLink):
    """Opens the MLflow run that a task's result names by `run_id`."""

    @property
    def name(self) -> str:
        """The button's text."""
        return "MLflow run"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the run's address; empty where the task has no result."""
        found = ti_key.xcom_pull(task_ids=operator.task_id)
        if not found or not found.get("run_id"):
            return ""
        return f"{clients.http_url(clients.connection(clients.REGISTRY))}/#/runs/{found['run_id']}"


MLFLOW_RUN = MlflowLink()
