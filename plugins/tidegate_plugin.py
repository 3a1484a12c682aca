"""Registers with Airflow what Tidegate adds to its web server: the pages that tasks link to."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from operators.links import PREFIX
from operators.pages import served


class TidegatePlugin(AirflowPlugin):
    """The reports of the lake, behind Airflow's own login."""

    name = "tidegate"
    fastapi_apps = [{"app": served, "url_prefix": PREFIX, "name": "Tidegate's reports"}]  # noqa: RUF012 - Airflow's interface
