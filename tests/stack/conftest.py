"""One embedded stack for the whole session, beside the one that a person may have up."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tidegate.stack import daemon
from tidegate.stack.config import ROOT, StackConfig
from tidegate.stack.services import kafka, postgres
from tidegate.stack.up import up


@pytest.fixture(scope="session")
def stack() -> Iterator[StackConfig]:
    """A running stack whose state is in var/test (or $TIDEGATE_TEST_VAR); kept up if $TIDEGATE_TEST_KEEP is set."""
    var = Path(os.environ.get("TIDEGATE_TEST_VAR") or ROOT / "var" / "test")
    before = os.environ.get("TIDEGATE_VAR")
    os.environ["TIDEGATE_VAR"] = str(var)
    cfg = StackConfig.load()
    try:
        up(cfg)
        yield cfg
    finally:
        if not os.environ.get("TIDEGATE_TEST_KEEP"):
            daemon.stop(cfg)
        if before is None:
            del os.environ["TIDEGATE_VAR"]
        else:
            os.environ["TIDEGATE_VAR"] = before


@contextmanager
def postgres_alone(var: Path, *, is_standby: bool = False) -> Iterator[StackConfig]:
    """Run Postgres without the rest of the stack, with prepared transactions allowed; a standby has no primary."""
    cfg = StackConfig.load(var)
    service = postgres.service(cfg)
    service.prepare()
    if is_standby:
        (var / "postgres" / "data" / "standby.signal").touch()
    assert service.program is not None
    program = service.program()
    command = (*program.command, "-c", "max_prepared_transactions=5")
    with (var / "postgres.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=program.directory, stdout=log, stderr=log)
    try:
        while not service.ready(0.0):
            assert process.poll() is None, (var / "postgres.log").read_text()
        if not is_standby:
            service.after()
        yield cfg
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackConfig]:
    """Postgres alone."""
    with postgres_alone(tmp_path_factory.mktemp("postgres-alone")) as cfg:
        yield cfg


@pytest.fixture
def standby(tmp_path: Path) -> Iterator[StackConfig]:
    """Postgres alone, in recovery for ever."""
    with postgres_alone(tmp_path / "standby", is_standby=True) as cfg:
        yield cfg


class KafkaAlone:
    """A broker without the rest of the stack, which may be killed and started again."""

    def __init__(self, var: Path):
        self.cfg = StackConfig.load(var)
        self.address = self.cfg.kafka
        self._service = kafka.service(self.cfg)
        self._log = var / "kafka.log"
        self._service.prepare()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert self._service.program is not None
        program = self._service.program()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(program.command, cwd=program.directory, stdout=log, stderr=log)
        while not self._service.ready(0.0):
            assert self._process.poll() is None, self._log.read_text()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=30)


@pytest.fixture(scope="session")
def kafka_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaAlone]:
    """Kafka alone."""
    found = KafkaAlone(tmp_path_factory.mktemp("kafka-alone"))
    found.start()
    yield found
    found.kill()
