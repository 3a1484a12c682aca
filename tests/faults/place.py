"""The stack on which the cases run, its one real delivery, and copies of that delivery as further versions."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from examples.flights.load import Sources, load
from tests.faults.callers import Callers
from tests.faults.parts import Parts, wait_until
from tidegate import keys
from tidegate.bundle import load as load_bundle
from tidegate.clients.airflow import AirflowApi
from tidegate.clients.envoy import EnvoyTraffic
from tidegate.clients.ledger import Ledger
from tidegate.clients.registry import Registry
from tidegate.demo import example
from tidegate.lake import Lake
from tidegate.recorded import PROBE
from tidegate.rollout.steps import Hands
from tidegate.stack import daemon, hands
from tidegate.stack.config import ROOT, StackConfig, write_public
from tidegate.stack.up import up

DELIVERY = "flights"
VAR = ROOT / "var" / "faults"
LEASE_S = 8.0
ROLLOUT = {
    "stages": [
        {"weight": "10%", "requests": 40, "at_least": "6s"},
        {"weight": "50%", "requests": 80, "at_least": "2s"},
        {"weight": "100%", "requests": 80, "at_least": "2s"},
    ],
    # loose: what is tried here is not the judge, and two cores stall when parts come back to life
    "limits": {"errors": "5%", "p99": "1s"},
    "versus_champion": {"errors": "5x", "p99": "10x"},
    "non_inferior": {"errors": "20%", "slow": "50%", "confidence": "90%"},
    "false_alarms": "1%",
    "bake": "3s",
    "deadline": "3m",
    "no_data": "8s",
    "traffic": "80/s",
    "lease": f"{LEASE_S:g}s",
}
"""The delivery's rollout, in a hurry."""
UNUSED = ("ingest", "requests", "retrain")
WINDOW = {"window_start": "2013-01-01", "window_end": "2013-03-01"}
KEEP = "TIDEGATE_FAULTS_KEEP"
"""Set, it keeps the small disks mounted, and the next run goes on with the champion of this one."""
_DAGS_S, _RUN_S = 180.0, 600.0


@dataclass
class Place:
    """A running stack with a champion, and all that reads or strikes it."""

    cfg: StackConfig
    parts: Parts
    airflow: AirflowApi
    ledger: Ledger
    traffic: EnvoyTraffic
    registry: Registry
    lake: Lake
    hands: Hands
    callers: Callers
    disks: bool
    """Whether serving folder and traffic record are on small disks of their own."""

    def new_version(self, kind: str = "good") -> int:
        """Register a version and publish a copy of the champion's bundle under its number.

        Args:
            kind: good; wrong (its recorded answers are others than its model gives); nan (its encodings make its
                model answer NaN).
        """
        champion = self.traffic.read(DELIVERY).champion or ""
        source = keys.bundle(DELIVERY, int(champion.rpartition("-v")[2]))
        token = f"fault-{os.urandom(6).hex()}"
        version = self.registry.reserve(DELIVERY, token, None, f"{self.lake.url}/{source}", {}, {"copy_of": champion})
        with self.lake.publish(
            keys.bundle(DELIVERY, version), kind="bundle", delivery=DELIVERY, version=version
        ) as draft:
            self.lake.fetch(source, draft.folder)
            _edit(draft.file("bundle.json"), lambda story: {**story, "version": version})
            if kind == "wrong":
                _edit(draft.file(PROBE), _other_answers)
            if kind == "nan":
                _edit(draft.file("encodings.json"), _no_numbers)
        self.registry.complete(DELIVERY, version, {})
        return version


@contextmanager
def placed(say: Any = print, var: Path = VAR) -> Iterator[Place]:
    """Bring the stack up, deliver one model if there is none, and keep callers calling until the end.

    Raises:
        TidegateError: the stack does not come up, or the first delivery failed.
    """
    with _environment(var):
        cfg = StackConfig.load()
        _forget(cfg)
        disks = _small_disks(cfg)
        try:
            report = up(cfg)
            say(f"the stack is up after {report.wall_s:.0f} s; small disks: {disks}")
            with _connected(cfg, say, disks) as place:
                yield place
        finally:
            daemon.stop(cfg)
            if not os.environ.get(KEEP):
                for folder in _small(cfg):
                    subprocess.run(("umount", str(folder)), capture_output=True)


@contextmanager
def _connected(cfg: StackConfig, say: Any, disks: bool) -> Iterator[Place]:
    airflow = AirflowApi(cfg.url("airflow"), *cfg.airflow_login)
    traffic = EnvoyTraffic(cfg.paths.xds, admin=cfg.url("envoy-admin"))
    lake = Lake(f"file://{cfg.paths.lake}")
    if traffic.read(DELIVERY).champion is None:
        _deliver(cfg, airflow, say)
    _write_delivery(cfg.paths.var.parent, ROLLOUT)
    champion = traffic.read(DELIVERY).champion or ""
    features = load_bundle(lake, DELIVERY, int(champion.rpartition("-v")[2])).dataset.features
    callers = Callers(f"{cfg.url('envoy')}/v2/models/{DELIVERY}/infer", example.bodies(features))
    say(f"{champion} is the champion; callers begin")
    callers.start()
    try:
        yield Place(
            cfg, Parts(cfg), airflow, Ledger(cfg.postgres_dsn("tidegate")), traffic, Registry(cfg.url("mlflow")),
            lake, hands.hands(cfg, DELIVERY), callers, disks,
        )  # fmt: skip
    finally:
        callers.stop()
        airflow.close()


def _deliver(cfg: StackConfig, airflow: AirflowApi, say: Any) -> None:
    """Load the sources, then train, gate and install one model through Airflow, as a user would."""
    load(Sources(cfg.postgres_dsn("flights"), cfg.kafka, "127.0.0.1", cfg.ports["hdfs-namenode"]), (1, 2, 4))
    if not wait_until(lambda: f"rollout__{DELIVERY}" in airflow.dags(), _DAGS_S, 1.0):
        raise AssertionError(f"Airflow does not know the DAGs after {_DAGS_S:.0f} s")
    for start, end in (("2013-01-01", "2013-02-01"), ("2013-02-01", "2013-03-01")):
        conf = {"window_start": start, "window_end": end}
        airflow.trigger(f"ingest__{DELIVERY}", conf, f"faults-{start}")
    for start in ("2013-01-01", "2013-02-01"):
        _succeeds(airflow, f"ingest__{DELIVERY}", f"faults-{start}")
    say("two months are ingested; training")
    airflow.trigger(f"retrain__{DELIVERY}", {**WINDOW, "request_id": "faults"}, "faults")
    _succeeds(airflow, f"retrain__{DELIVERY}", "faults")
    found = wait_until(lambda: bool(airflow.runs(f"rollout__{DELIVERY}")), _RUN_S, 1.0)
    assert found, "no rollout followed the first delivery"
    _succeeds(airflow, f"rollout__{DELIVERY}", airflow.runs(f"rollout__{DELIVERY}")[0].run_id)
    for kind in UNUSED:  # nothing of theirs shall run beside the cases
        airflow._call("PATCH", f"/api/v2/dags/{kind}__{DELIVERY}", json={"is_paused": True})


def _succeeds(airflow: AirflowApi, dag_id: str, run_id: str) -> None:
    ended = airflow.wait(dag_id, run_id, _RUN_S)
    assert ended.state == "success", f"{dag_id} {run_id} is {ended.state}; see its log"


@contextmanager
def _environment(var: Path) -> Iterator[None]:
    """Point this process, and so the stack it starts, at a state folder and delivery files of its own."""
    _write_delivery(var, {**ROLLOUT, "lease": "30s"})  # for the first delivery
    wanted = {"TIDEGATE_VAR": str(var / "stack"), "TIDEGATE_DELIVERIES": str(var / "deliveries")}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _write_delivery(var: Path, rollout: dict[str, Any]) -> None:
    """Write the example's delivery file with another rollout; every task reads it anew."""
    body = yaml.safe_load((ROOT / "schemas" / "deliveries" / f"{DELIVERY}.yaml").read_text(encoding="utf-8"))
    text = yaml.safe_dump({**body, "rollout": rollout}, sort_keys=False)
    write_public(var / "deliveries" / f"{DELIVERY}.yaml", text)


def _small(cfg: StackConfig) -> dict[Path, int]:
    """Return the folders that have a small disk of their own, with its size in MiB."""
    return {cfg.paths.serving: 400, cfg.paths.xds.parent: 16}


def _forget(cfg: StackConfig) -> None:
    """Remove the state of an earlier run, but its ports and passwords; keep it if asked to and if it is whole."""
    mounted = [folder for folder in _small(cfg) if os.path.ismount(folder)]
    if os.environ.get(KEEP) and mounted:
        return
    daemon.stop(cfg)
    for folder in mounted:
        subprocess.run(("umount", str(folder)), check=True)
    for path in cfg.paths.var.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in ("stack.json", "secrets.json"):
            path.unlink()


def _small_disks(cfg: StackConfig) -> bool:
    """Put some folders on small disks of their own, where this user may mount any; say whether they are."""
    for folder, size in _small(cfg).items():
        folder.mkdir(parents=True, exist_ok=True)
        if not os.path.ismount(folder):
            command = ("mount", "-t", "tmpfs", "-o", f"size={size}m,mode=755", "tmpfs", str(folder))
            try:
                subprocess.run(command, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError):
                return False
    return True


def fill(folder: Path) -> Path:
    """Write a file into a folder until its disk is full; return the file."""
    target = folder / ".filler"
    with target.open("wb", buffering=0) as out:
        for block in (1 << 20, 1 << 12):
            try:
                while out.write(b"\0" * block):
                    pass
            except OSError:
                continue
    return target


def _edit(path: Path, change: Any) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")


def _other_answers(probe: dict[str, Any]) -> dict[str, Any]:
    return {**probe, "probability": [min(value + 0.25, 1.0) for value in probe["probability"]]}


def _no_numbers(encodings: dict[str, Any]) -> dict[str, Any]:
    features = [{**f, "mean": math.nan} if f["encoding"] == "standardise" else f for f in encodings["features"]]
    return {**encodings, "features": features}
