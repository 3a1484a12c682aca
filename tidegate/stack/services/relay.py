"""The way from Alertmanager to Airflow: alerts that ask for a rollback start one."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

from tidegate.stack.config import write_private
from tidegate.stack.service import Service, listens
from tidegate.stack.supervision import Program

if TYPE_CHECKING:
    from tidegate.stack.config import StackConfig


def service(cfg: StackConfig) -> Service:
    """The relay; it runs before Airflow does, and answers 502 until then."""

    def prepare() -> None:
        if not cfg.paths.relay_token.exists():
            write_private(cfg.paths.relay_token, cfg.secrets["relay"])

    def program() -> Program:
        user, password = cfg.airflow_login
        return Program(
            name="relay",
            command=(sys.executable, "-m", "tidegate.clients.relay"),
            directory=cfg.paths.var,
            log_file=cfg.paths.logs / "relay.log",
            env={
                "TIDEGATE_RELAY_PORT": str(cfg.ports["relay"]),
                "TIDEGATE_RELAY_TOKEN_FILE": str(cfg.paths.relay_token),
                "TIDEGATE_AIRFLOW": cfg.url("airflow"),
                "TIDEGATE_AIRFLOW_USER": user,
                "TIDEGATE_AIRFLOW_PASSWORD": password,
            },
            autostart=False,
        )

    return Service(
        "relay",
        lambda: version("tidegate"),
        ports=("relay",),
        prepare=prepare,
        program=program,
        ready=lambda _: listens(cfg.ports["relay"]),
    )
