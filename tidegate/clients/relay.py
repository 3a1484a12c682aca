"""Lets Alertmanager start a rollback: its webhook in, one run of `rollback__<delivery>` per alert out.

Only alerts with the label `action: rollback` start anything. The run's id is made from the alert's fingerprint and
start, so that Alertmanager's repeats, and the relay's own restarts, find the run they started. The run is told which
candidate the alert is about and does nothing where that one is no longer on trial. Answers: 200 all started, 400 a body
or an alert that cannot be read, 502 Airflow did not take them all (Alertmanager then tries again).

Run as `python -m tidegate.clients.relay`. Environment: TIDEGATE_RELAY_PORT and TIDEGATE_RELAY_TOKEN_FILE (of the
webhook), TIDEGATE_AIRFLOW (address of the api-server), TIDEGATE_AIRFLOW_USER and TIDEGATE_AIRFLOW_PASSWORD.

Format: https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any, Protocol

import httpx
from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from tidegate.clients.airflow import AirflowApi
from tidegate.clients.loopback import Answer, LoopbackServer
from tidegate.errors import DataError, SetupError, TidegateError

_log = logging.getLogger("tidegate.relay")
_PAGE = "/alerts"
_REASON = 500  # characters of an annotation that are passed on


class Starter(Protocol):
    """Starts DAG runs; clients.airflow.AirflowApi is one."""

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None, run_id: str | None = None) -> object:
        """Start a run, or find the one of this id."""


class _Labels(BaseModel):
    alertname: str = Field(min_length=1, max_length=100)
    delivery: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    version: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}-v[0-9]{1,9}$")


class _Alert(BaseModel):
    labels: _Labels
    annotations: dict[str, str] = {}
    starts_at: AwareDatetime = Field(alias="startsAt")
    fingerprint: str = Field(pattern=r"^[0-9a-f]{8,64}$")


@dataclass(frozen=True)
class Order:
    """One rollback to start."""

    delivery: str
    candidate: str
    run_id: str
    """The same for every repeat of the alert."""
    reason: str


def orders(body: bytes) -> tuple[list[Order], list[str]]:
    """Return the rollbacks that a webhook's body asks for, and what is wrong with alerts that cannot be read; pure.

    Raises:
        DataError: the body is no webhook's body at all.
    """
    try:
        alerts = json.loads(body)["alerts"]
        wanted = [alert for alert in alerts if alert["status"] == "firing" and _action(alert) == "rollback"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(
            f"the body is no webhook of Alertmanager ({type(error).__name__}): send its version 4"
        ) from None
    found, problems = [], []
    for alert in wanted:
        try:
            found.append(_order(_Alert.model_validate(alert)))
        except (ValidationError, DataError) as error:
            problems.append(_shown(error))
    return found, problems


def _action(alert: dict[str, Any]) -> object:
    return alert["labels"].get("action")


def _order(alert: _Alert) -> Order:
    labels = alert.labels
    if labels.version.rpartition("-v")[0] != labels.delivery:
        raise DataError(f"version {labels.version} is not one of delivery {labels.delivery}")
    started = alert.starts_at.astimezone(UTC)
    summary = " ".join(alert.annotations.get("summary", "no summary").split())
    return Order(
        delivery=labels.delivery,
        candidate=labels.version,
        run_id=f"alert__{alert.fingerprint}__{started:%Y%m%dT%H%M%SZ}",  # fractions of a second get rounded on the way
        reason=f"alert {labels.alertname}: {summary}"[:_REASON],
    )


def _shown(error: ValidationError | DataError) -> str:
    if isinstance(error, DataError):
        return str(error)
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_input=False))


class Relay:
    """Answers webhooks by starting rollbacks.

    Args:
        airflow: where they are started.
    """

    def __init__(self, airflow: Starter):
        self._airflow = airflow

    def __call__(self, method: str, path: str, body: bytes) -> Answer:
        """Return the answer to one request."""
        if (method, path) != ("POST", _PAGE):
            return Answer(404, f"only POST {_PAGE} is here\n".encode())
        try:
            wanted, problems = orders(body)
        except DataError as error:
            _log.error("refused: %s", error)
            return Answer(400, f"{error}\n".encode())
        failed = [order.run_id for order in wanted if not self._start(order)]
        for problem in problems:
            _log.error("an alert with action=rollback cannot be read: %s", problem)
        if failed:
            return Answer(502, f"Airflow did not take {len(failed)} of {len(wanted)}: try again\n".encode())
        if problems:
            return Answer(400, ("\n".join(problems) + "\n").encode())
        return Answer(200, f"{len(wanted)} started\n".encode())

    def _start(self, order: Order) -> bool:
        dag_id = f"rollback__{order.delivery}"
        try:
            self._airflow.trigger(dag_id, {"reason": order.reason, "candidate": order.candidate}, order.run_id)
        except (TidegateError, httpx.HTTPError) as error:
            _log.error("%s %s was not started, Alertmanager tries again: %s", dag_id, order.run_id, error)
            return False
        _log.warning("%s %s is started: %s", dag_id, order.run_id, order.reason)
        return True


def main() -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        SetupError: a setting is missing, or the port is taken.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    user, password = _setting("TIDEGATE_AIRFLOW_USER"), _setting("TIDEGATE_AIRFLOW_PASSWORD")
    airflow = AirflowApi(_setting("TIDEGATE_AIRFLOW"), user, password)
    token = Path(_setting("TIDEGATE_RELAY_TOKEN_FILE")).read_text(encoding="utf-8").strip()
    with LoopbackServer(int(_setting("TIDEGATE_RELAY_PORT")), token, Relay(airflow)) as server:
        _log.info("alerts with action=rollback are taken at 127.0.0.1:%d%s, for %s", server.port, _PAGE, airflow.url)
        stop.wait()
    airflow.close()
    _log.info("stopped")


def _setting(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise SetupError(f"{name} is not set; `tidegate up` sets it, or see the head of tidegate/clients/relay.py")
    return value


if __name__ == "__main__":
    main()
