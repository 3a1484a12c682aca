"""Airflow: api-server, scheduler (LocalExecutor), dag-processor and triggerer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate.delivery import deliveries_folder
from tidegate.errors import SetupError
from tidegate.stack import daemon
from tidegate.stack.config import write_private
from tidegate.stack.service import Service, get_json
from tidegate.stack.supervision import Program

if TYPE_CHECKING:
    from tidegate.stack.config import StackConfig

_NICE = 5  # serving keeps the CPU when both cores are busy
_HEALTH = "/api/v2/monitor/health"
_READY_S = 240.0


def services(cfg: StackConfig) -> tuple[Service, ...]:
    """The migration of Airflow's database, once per version, and the four processes."""
    number = version("apache-airflow")
    api = ("api-server", "--host", "127.0.0.1", "--port", str(cfg.ports["airflow"]), "--workers", "1")

    def component(name: str, *command: str, part: str, ports: tuple[str, ...] = ()) -> Service:
        return Service(
            name,
            lambda: number,
            needs=("airflow-db",),
            ports=ports,
            program=lambda: _program(cfg, name, command),
            ready=lambda started: _healthy(cfg, part, started),
            timeout_s=_READY_S,
        )

    return (
        Service(
            "airflow-db",
            lambda: number,
            needs=("postgres",),
            prepare=lambda: _write_login(cfg),
            before=lambda: _migrate(cfg, number),
        ),
        component("airflow-api-server", *api, part="metadatabase", ports=("airflow",)),
        # Their log servers listen on every address; here the api-server reads the same files itself.
        component("airflow-scheduler", "scheduler", "--skip-serve-logs", part="scheduler"),
        component("airflow-dag-processor", "dag-processor", part="dag_processor"),
        component("airflow-triggerer", "triggerer", "--skip-serve-logs", part="triggerer"),
    )


def environment(cfg: StackConfig) -> dict[str, str]:
    """The environment of all of Airflow's processes and so of its tasks: settings, connections, paths."""
    paths = cfg.paths
    return (
        _settings(cfg)
        | _connections(cfg)
        | {
            "TIDEGATE_VAR": str(paths.var),
            "TIDEGATE_ROOT": str(paths.root),
            "TIDEGATE_LAKE": f"file://{paths.lake}",
            "TIDEGATE_PYTHON_TRAIN": str(paths.python_train),
            "TIDEGATE_PYTHON_VALIDATE": str(paths.python_validate),
            "TIDEGATE_DELIVERIES": str(deliveries_folder().resolve()),
            "MLFLOW_TRACKING_URI": cfg.url("mlflow"),
            "GIT_PYTHON_REFRESH": "quiet",
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),
            # One thread per process: two cores are shared by all.
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
    )


def _settings(cfg: StackConfig) -> dict[str, str]:
    home, url = cfg.paths.var / "airflow", cfg.url("airflow")
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "8",
        "AIRFLOW__CORE__DAGS_FOLDER": str(cfg.paths.root / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(cfg.paths.root / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__FERNET_KEY": cfg.secrets["airflow-fernet"],
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(cfg.paths.login),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": cfg.postgres_dsn("airflow", "psycopg2"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": cfg.postgres_dsn("airflow", "asyncpg"),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(cfg.ports["airflow"]),
        "AIRFLOW__API__SECRET_KEY": cfg.secrets["airflow-api"],
        "AIRFLOW__API__INSTANCE_NAME": "Tidegate",
        "AIRFLOW__API_AUTH__JWT_SECRET": cfg.secrets["airflow-jwt"],
        "AIRFLOW__API_AUTH__JWT_ISSUER": "tidegate",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": str(home / "logs" / "dag_processor"),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(cfg.ports["airflow-worker-logs"]),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(cfg.ports["airflow-trigger-logs"]),
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
        "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
        "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "2",
        # A task whose process was killed is found and retried after a minute, not after five.
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
        "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "2",
        # A task outlives a restart of the api-server, some half a minute; by default it gives up after ten seconds.
        "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "14",
        "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "10",
        "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "15",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "20",
    }


def _connections(cfg: StackConfig) -> dict[str, str]:
    paths = cfg.paths
    connections: dict[str, dict[str, object]] = {
        "flights_db": _database(cfg, "flights"),
        "tidegate_db": _database(cfg, "tidegate"),
        "events": {"conn_type": "kafka", "extra": {"bootstrap.servers": cfg.kafka}},
        "lake": {
            "conn_type": "hdfs",
            "host": "127.0.0.1",
            "port": cfg.ports["hdfs-namenode"],
            "extra": {"webhdfs": cfg.url("hdfs-namenode-http")},
        },
        "mlflow": _http(cfg, "mlflow"),
        "prometheus": _http(cfg, "prometheus"),
        "traffic": {
            "conn_type": "envoy",
            "extra": {"xds": str(paths.xds), "admin": cfg.url("envoy-admin"), "listener": cfg.url("envoy")},
        },
        "serving": {
            "conn_type": "triton",
            "login": "tidegate",
            "password": cfg.secrets["supervisor"],
            "extra": {
                "supervisor": str(paths.socket),
                "conf_dir": str(paths.conf_dir),
                "python": str(paths.python_serve),
                "models": str(paths.serving),
                "targets": str(paths.triton_targets),
                "logs": str(paths.logs),
                **({"tfserving": cfg.tfserving} if cfg.tfserving else {}),
            },
        },
    }
    return {f"AIRFLOW_CONN_{name.upper()}": json.dumps(value) for name, value in connections.items()}


def _database(cfg: StackConfig, name: str) -> dict[str, object]:
    return {
        "conn_type": "postgres",
        "host": "127.0.0.1",
        "port": cfg.ports["postgres"],
        "login": "postgres",
        "password": cfg.secrets["postgres"],
        "schema": name,
    }


def _http(cfg: StackConfig, name: str) -> dict[str, object]:
    return {"conn_type": "http", "host": "127.0.0.1", "port": cfg.ports[name], "schema": "http"}


def _program(cfg: StackConfig, name: str, command: tuple[str, ...]) -> Program:
    return Program(
        name=name,
        command=(_airflow(), *command),
        directory=cfg.paths.var / "airflow",
        log_file=cfg.paths.logs / f"{name}.log",
        env=environment(cfg),
        autostart=False,
        stop_wait_s=10,
        nice=_NICE,
    )


def _airflow() -> str:
    return str(Path(sys.executable).with_name("airflow"))


def _write_login(cfg: StackConfig) -> None:
    user, password = cfg.airflow_login
    write_private(cfg.paths.login, json.dumps({user: password}))


def _migrate(cfg: StackConfig, number: str) -> None:
    done = cfg.paths.var / "airflow" / "migrated"
    if done.exists() and done.read_text(encoding="utf-8") == number:
        return
    log = cfg.paths.logs / "airflow-db.log"
    with log.open("w", encoding="utf-8") as out:
        command = (_airflow(), "db", "migrate")
        env = daemon.environment(cfg) | environment(cfg)
        ended = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, env=env, check=False)
    if ended.returncode:
        raise SetupError(
            f"airflow db migrate ended with {ended.returncode}. Remedy: read {log}, then tidegate up again"
        )
    done.write_text(number, encoding="utf-8")


def _healthy(cfg: StackConfig, part: str, started: float) -> bool:
    told = get_json(cfg.url("airflow") + _HEALTH)
    health = told.get(part) if isinstance(told, dict) else None
    if not health or health.get("status") != "healthy":
        return False
    beat = next((value for key, value in health.items() if key.startswith("latest_") and value), None)
    # A heartbeat from before a restart still counts as healthy in Airflow's own answer.
    return part == "metadatabase" or (beat is not None and datetime.fromisoformat(beat).timestamp() >= started)
