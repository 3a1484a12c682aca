"""The process that counts what versions say, for Prometheus; without Airflow, as the guard is."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

from tidegate.delivery import deliveries_folder
from tidegate.stack.config import write_private
from tidegate.stack.service import Service, listens
from tidegate.stack.supervision import Program

if TYPE_CHECKING:
    from tidegate.stack.config import StackConfig

_NICE = 5  # serving keeps the CPU when both cores are busy


def service(cfg: StackConfig) -> Service:
    """The process; it needs nothing to be up, and waits for Kafka by itself."""

    def prepare() -> None:
        if not cfg.paths.quality_token.exists():
            write_private(cfg.paths.quality_token, cfg.secrets["quality"])

    return Service(
        "quality",
        lambda: version("tidegate"),
        ports=("quality",),
        prepare=prepare,
        program=lambda: program(cfg),
        ready=lambda _: listens(cfg.ports["quality"]),
    )


def program(cfg: StackConfig) -> Program:
    """Return how it is started."""
    return Program(
        name="quality",
        command=(sys.executable, "-m", "tidegate.quality"),
        directory=cfg.paths.var,
        log_file=cfg.paths.logs / "quality.log",
        env={
            "TIDEGATE_SERVING": str(cfg.paths.serving),
            "TIDEGATE_DELIVERIES": str(deliveries_folder().resolve()),
            "TIDEGATE_QUALITY_STATE": str(cfg.paths.quality_token.parent),
            "TIDEGATE_QUALITY_PORT": str(cfg.ports["quality"]),
            "TIDEGATE_QUALITY_TOKEN_FILE": str(cfg.paths.quality_token),
            "TIDEGATE_KAFKA_EVENTS": cfg.kafka,
        },
        autostart=False,
        nice=_NICE,
    )
