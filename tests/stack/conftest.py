"""One embedded stack for the whole session, beside the one that a person may have up."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidegate.stack import daemon
from tidegate.stack.config import ROOT, StackConfig
from tidegate.stack.services import postgres
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


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackConfig]:
    """Postgres alone, without the rest of the stack, with prepared transactions allowed."""
    cfg = StackConfig.load(tmp_path_factory.mktemp("postgres-alone"))
    service = postgres.service(cfg)
    service.prepare()
    assert service.program is not None
    program = service.program()
    command = (*program.command, "-c", "max_prepared_transactions=5")
    with (cfg.paths.var / "postgres.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=program.directory, stdout=log, stderr=log)
    try:
        while not service.ready(0.0):
            assert process.poll() is None, (cfg.paths.var / "postgres.log").read_text()
        service.after()
        yield cfg
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
