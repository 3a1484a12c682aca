"""The dead-man's switch, supervised beside Envoy and without Airflow."""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

from tidegate.stack.config import write_private
from tidegate.stack.service import Service, listens
from tidegate.stack.supervision import Program

if TYPE_CHECKING:
    from tidegate.stack.config import StackConfig

# A host that vanishes in the middle of a query must not leave the guard waiting for hours.
_GONE = "?keepalives_idle=3&keepalives_interval=1&keepalives_count=3&tcp_user_timeout=5000"


def services(cfg: StackConfig) -> tuple[Service, ...]:
    """The guard, where this installation has one."""
    if importlib.util.find_spec("tidegate.guard") is None:
        return ()

    def prepare() -> None:
        if not cfg.paths.guard_token.exists():
            write_private(cfg.paths.guard_token, cfg.secrets["guard"])

    def program() -> Program:
        return Program(
            name="guard",
            command=(sys.executable, "-m", "tidegate.guard"),
            directory=cfg.paths.var,
            log_file=cfg.paths.logs / "guard.log",
            env={
                "TIDEGATE_VAR": str(cfg.paths.var),
                "TIDEGATE_DB": cfg.postgres_dsn("tidegate") + _GONE,
                "TIDEGATE_ENVOY_XDS": str(cfg.paths.xds),
                "TIDEGATE_GUARD_STATE": str(cfg.paths.guard_token.with_name("state.json")),
                "TIDEGATE_GUARD_PORT": str(cfg.ports["guard"]),
                "TIDEGATE_GUARD_TOKEN_FILE": str(cfg.paths.guard_token),
            },
            autostart=False,
        )

    return (
        Service(
            "guard",
            lambda: version("tidegate"),
            needs=("postgres", "envoy"),
            ports=("guard",),
            prepare=prepare,
            program=program,
            ready=lambda _: listens(cfg.ports["guard"]),
        ),
    )
