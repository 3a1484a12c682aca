"""One embedded stack for the whole session, beside the one that a person may have up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidegate.stack import daemon
from tidegate.stack.config import ROOT, StackConfig
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
