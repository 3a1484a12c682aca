"""A real Airflow with MLflow beside a cluster: its tasks start gangs in pods, as in production."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.cluster.bed import Bed, pods_here
from tests.cluster.relay import relayed
from tests.faults.parts import Parts
from tests.until import until
from tidegate.clients.airflow import AirflowApi
from tidegate.delivery import project_root
from tidegate.delivery.pods import PodsSpec
from tidegate.errors import Unavailable
from tidegate.launch.seen import finished
from tidegate.stack import daemon
from tidegate.stack.config import StackConfig
from tidegate.stack.service import Service
from tidegate.stack.services import airflow, envoy, mlflow, postgres
from tidegate.stack.up import up

NAMESPACE = "gangs"
KEEP = 120.0  # seconds that an ended gang stays to be looked at
_DAGS = Path(__file__).with_name("dags")
# What is lost is found sooner than in production, so that a case takes a minute and not five.
_HASTE = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "10",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
    "AIRFLOW__CORE__PARALLELISM": "16",
}


class Rest(AirflowApi):
    """Airflow's REST API, with what a person does in its pages."""

    def connect(self, conn_id: str, kind: str, **extra: Any) -> None:
        """Make a connection."""
        body = {"connection_id": conn_id, "conn_type": kind, "extra": json.dumps(extra)}
        self._call("POST", "/api/v2/connections", json=body)

    def task(self, dag: str, run: str, task: str) -> dict[str, Any]:
        """Return a task instance."""
        found: dict[str, Any] = self._call("GET", self._path(dag, run, task))
        return found

    def log(self, dag: str, run: str, task: str, number: int = 1) -> list[tuple[str, str]]:
        """Return (time, line) of one try's log, as the task's page shows it."""
        path = f"{self._path(dag, run, task)}/logs/{number}"
        found = self._call("GET", path, params={"full_content": "true"})["content"]
        return [(str(line.get("timestamp") or ""), str(line["event"])) for line in found]

    def links(self, dag: str, run: str, task: str) -> dict[str, str | None]:
        """Return the links on a task's page."""
        found: dict[str, str | None] = self._call("GET", f"{self._path(dag, run, task)}/links")["extra_links"]
        return found

    def clear(self, dag: str, run: str, task: str) -> None:
        """Clear a task, whatever its state."""
        body = {"dry_run": False, "only_failed": False, "dag_run_id": run, "task_ids": [task]}
        self._call("POST", f"/api/v2/dags/{dag}/clearTaskInstances", json=body)

    def mark(self, dag: str, run: str, state: str, task: str | None = None) -> None:
        """Mark a task, or without one the whole run, as success or failed."""
        if task is None:
            self._call("PATCH", f"/api/v2/dags/{dag}/dagRuns/{run}", json={"state": state})
        else:
            self._call("PATCH", self._path(dag, run, task), json={"new_state": state})

    def pause(self, dag: str, paused: bool) -> None:
        """Pause a DAG, or let it go on."""
        self._call("PATCH", f"/api/v2/dags/{dag}", json={"is_paused": paused})

    def _call(self, method: str, path: str, **kwargs: Any) -> Any:
        """Ask, and ask again for up to two minutes where nothing is changed by it: the api-server is struck too."""
        deadline = time.monotonic() + 120
        while True:
            try:
                return super()._call(method, path, **kwargs)
            except (Unavailable, httpx.HTTPStatusError) as error:
                is_theirs = (
                    isinstance(error, Unavailable) or error.response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR
                )
                if method != "GET" or not is_theirs or time.monotonic() > deadline:
                    raise
                time.sleep(1)

    def _path(self, dag: str, run: str, task: str) -> str:
        return f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}"


@dataclass(frozen=True)
class Installation:
    """Airflow, MLflow and what they need, and the namespace in which their gangs run."""

    bed: Bed
    cfg: StackConfig
    rest: Rest
    parts: Parts
    pods: PodsSpec

    @property
    def lake(self) -> Path:
        """The folder of the lake, which pods see at the same path."""
        return self.cfg.paths.lake

    def leaks(self) -> list[str]:
        """Return what the namespace holds beside gangs that have ended: those hold nothing, and go by themselves."""
        found = json.loads(self.bed.kubectl("get", "jobs,pods,services", "-o", "json"))["items"]
        ended = {thing["metadata"]["name"] for thing in found if thing["kind"] == "Job" and finished(thing)}
        return sorted(f"{thing['kind']} {thing['metadata']['name']}" for thing in found if not _of(thing, ended))


def _of(thing: dict[str, Any], ended: set[str]) -> bool:
    """Whether a thing is, or belongs to, one of these Jobs, and holds nothing."""
    if thing["kind"] == "Pod" and thing["status"].get("phase") not in ("Succeeded", "Failed"):
        return False
    owners = thing["metadata"].get("ownerReferences", [])
    return not ended.isdisjoint({thing["metadata"]["name"], *(owner["name"] for owner in owners)})


@contextmanager
def installed(kube: Bed) -> Iterator[Installation]:
    """Run an installation beside a cluster, from ready to its end."""
    bed = replace(kube, access=replace(kube.access, namespace=NAMESPACE))
    bed.kubectl("create", "namespace", NAMESPACE)
    var = Path(tempfile.mkdtemp(prefix="tidegate-gangs-"))
    cfg = StackConfig.load(var)
    cfg.paths.lake.mkdir()
    with relayed(bed.host, cfg.ports["mlflow"]) as address:
        pods = pods_here(cfg.paths.lake, tracking=f"http://{address}", memory="3Gi", cpu="50m", keep=KEEP, within=300.0)
        before = os.environ.get("TIDEGATE_DELIVERIES")
        os.environ["TIDEGATE_DELIVERIES"] = str(_deliveries(var, pods))
        try:
            up(cfg, chosen=_services)
            rest = Rest(cfg.url("airflow"), *cfg.airflow_login)
            rest.connect("kubernetes", "kubernetes", kube_config_path=str(bed.access.kubeconfig), namespace=NAMESPACE)
            until("the DAGs are there", lambda: {"gang", "train_alone", "reconcile"} <= rest.dags().keys(), 120)
            rest.pause("reconcile", True)  # it would mend what a case is to show
            yield Installation(bed, cfg, rest, Parts(cfg), pods)
        finally:
            daemon.stop(cfg)
            if before is None:
                del os.environ["TIDEGATE_DELIVERIES"]
            else:
                os.environ["TIDEGATE_DELIVERIES"] = before
    shutil.rmtree(var, ignore_errors=True)


def _deliveries(var: Path, pods: PodsSpec) -> Path:
    """Write the example's delivery, to be trained in pods, into a folder of its own."""
    spec = yaml.safe_load((project_root() / "schemas" / "deliveries" / "flights.yaml").read_text())
    spec["train"] |= {"launcher": "kubernetes", "pods": pods.model_dump(mode="json", exclude_defaults=True)}
    folder = var / "deliveries"
    folder.mkdir()
    (folder / "flights.yaml").write_text(yaml.safe_dump(spec))
    return folder


def _services(cfg: StackConfig) -> Sequence[Service]:
    dags = cfg.paths.var / "dags"
    shutil.copytree(_DAGS, dags)
    shutil.copy(cfg.paths.root / "dags" / "reconcile.py", dags)
    found = (postgres.service(cfg), envoy.service(cfg), mlflow.service(cfg), *airflow.services(cfg))
    return [_changed(service, {**_HASTE, "AIRFLOW__CORE__DAGS_FOLDER": str(dags)}) for service in found]


def _changed(service: Service, variables: dict[str, str]) -> Service:
    made = service.program
    if made is None or not service.name.startswith("airflow-"):
        return service
    program = made
    return replace(service, program=lambda: replace(program(), env={**program().env, **variables}))
