"""Which model server a delivery gets from the connection `serving`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from operators.hooks import clients
from tidegate.clients.tfserving import TfServing
from tidegate.clients.triton import TritonServer
from tidegate.errors import SetupError
from tidegate.lake import Lake

SLOTS = {"folder": "/srv/tfserving", "slots": [{"name": "a", "grpc": "10.0.0.1:8500", "rest": "10.0.0.1:8501"}]}


def a_connection(**more: Any) -> SimpleNamespace:
    extra = {"supervisor": "/s", "conf_dir": "/c", "python": "/p", "models": "/m", "targets": "/t", **more}
    return SimpleNamespace(login="tidegate", password="secret", extra_dejson=extra)


def test_the_delivery_says_which_backend_serves_it(tmp_path: Path) -> None:
    lake = Lake(f"file://{tmp_path}")
    assert isinstance(clients.serving(a_connection(tfserving=SLOTS), lake, "triton"), TritonServer)
    assert isinstance(clients.serving(a_connection(tfserving=SLOTS), lake, "tfserving"), TfServing)


def test_an_installation_without_slots_says_so(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"extra field tfserving of connection serving .* names no slots: .*Remedy"):
        clients.serving(a_connection(), Lake(f"file://{tmp_path}"), "tfserving")
