"""The MLflow server: runs, the registry and its aliases in Postgres, artefacts in files."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate.stack.service import Service, answers
from tidegate.stack.supervision import Program

if TYPE_CHECKING:
    from tidegate.stack.config import StackConfig


def service(cfg: StackConfig) -> Service:
    """The tracking server; ready when /health answers."""
    home = cfg.paths.var / "mlflow"

    def program() -> Program:
        command = (str(Path(sys.executable).with_name("mlflow")), "server", "--host", "127.0.0.1", "--workers", "1")
        store = ("--port", str(cfg.ports["mlflow"]), "--artifacts-destination", f"file://{home / 'artifacts'}")
        return Program(
            name="mlflow",
            command=(*command, *store),
            directory=home,
            log_file=cfg.paths.logs / "mlflow.log",
            env={
                "MLFLOW_BACKEND_STORE_URI": cfg.postgres_dsn("mlflow", "psycopg2"),
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # it would start nine more processes
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "GIT_PYTHON_REFRESH": "quiet",
                "OMP_NUM_THREADS": "1",
            },
            autostart=False,
            nice=5,
        )

    return Service(
        "mlflow",
        lambda: version("mlflow"),
        needs=("postgres",),
        ports=("mlflow",),
        prepare=lambda: (home / "artifacts").mkdir(parents=True, exist_ok=True),
        program=program,
        ready=lambda _: answers(cfg.url("mlflow") + "/health"),
        timeout_s=240,
    )
