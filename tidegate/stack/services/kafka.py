"""Apache Kafka in KRaft mode: one process that is broker and controller."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate.errors import SetupError
from tidegate.stack import cache, preflight
from tidegate.stack.config import write_public
from tidegate.stack.service import Service, listens
from tidegate.stack.supervision import Program

if TYPE_CHECKING:
    from tidegate.stack.config import StackConfig

VERSION = "4.4.0"
_LOG4J = Path(__file__).parents[1] / "log4j2.xml"
_JVM = ("-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


def service(cfg: StackConfig) -> Service:
    """The broker; ready when its port is open, which KRaft opens last."""
    home = cfg.paths.var / "kafka"

    def prepare() -> None:
        cache.jars("kafka")
        write_public(home / "server.properties", properties(cfg))
        if not (home / "data" / "meta.properties").exists():
            _format(cfg, home)

    def program() -> Program:
        return Program(
            name="kafka",
            command=(*_java(), "kafka.Kafka", str(home / "server.properties")),
            directory=home,
            log_file=cfg.paths.logs / "kafka.log",
            autostart=False,
        )

    return Service(
        "kafka",
        lambda: VERSION,
        ports=("kafka", "kafka-controller"),
        prepare=prepare,
        program=program,
        ready=lambda _: listens(cfg.ports["kafka"]),
    )


def properties(cfg: StackConfig) -> str:
    """The broker's settings: one node, no replication, quick to notice its own death."""
    broker, controller = cfg.ports["kafka"], cfg.ports["kafka-controller"]
    settings = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": f"PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{broker}",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(cfg.paths.var / "kafka" / "data"),
        "auto.create.topics.enable": "false",
        "num.partitions": "1",
        "default.replication.factor": "1",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "1",
        "min.insync.replicas": "1",
        "group.initial.rebalance.delay.ms": "0",
        # After SIGKILL the old session must expire before the broker may register again.
        "broker.session.timeout.ms": "2000",
        "broker.heartbeat.interval.ms": "500",
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())


def _java() -> tuple[str, ...]:
    classpath = f"{cache.jars('kafka')}/*"
    return (str(preflight.java()), *_JVM, f"-Dlog4j2.configurationFile={_LOG4J}", "-cp", classpath)


def _format(cfg: StackConfig, home: Path) -> None:
    # Kafka wants a base64 UUID: 22 characters; the installation's name gives the same one every time.
    cluster = hashlib.sha256(cfg.installation.encode()).hexdigest()[:22]
    command = (*_java(), "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(home / "server.properties"))
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=home)
    if done.returncode:
        raise SetupError(
            f"Kafka could not format {home / 'data'}: {(done.stdout + done.stderr).strip()[-800:]}. "
            f"Remedy: remove {home / 'data'} and run tidegate up again"
        )
