"""docker-compose.yaml: by the specification's own schema, and what the backend `tfserving` expects of its slots."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tidegate.clients.tfserving import METRICS_PATH, pool_of
from tidegate.clients.tfserving_slot import CONFIG
from tidegate.stack.config import ROOT, StackConfig

COMPOSE = ROOT / "docker-compose.yaml"
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]


def checked(file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_file_is_right_by_the_compose_specification(tmp_path: Path) -> None:
    done = checked(COMPOSE)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = tmp_path / "docker-compose.yaml"
    wrong.write_text(COMPOSE.read_text().replace("restart:", "restarts:"))
    assert checked(wrong).returncode == 1


def test_the_named_slots_are_those_that_run(tmp_path: Path) -> None:
    cfg = StackConfig.load(tmp_path / "var")
    cfg.paths.tfserving.write_text((ROOT / "docker" / "tfserving" / "slots.json").read_text())
    pool = pool_of(cfg.tfserving, "here")
    assert pool.folder == str(ROOT / "var" / "tfserving")
    assert {f"slot-{slot.name}" for slot in pool.slots} == set(SERVICES)
    for slot in pool.slots:
        service = SERVICES[f"slot-{slot.name}"]
        assert service["ports"] == [f"{slot.grpc}:8500", f"{slot.rest}:8501"]
        assert f"./var/tfserving/{slot.name}:{slot.base}:ro" in service["volumes"]


def test_a_slot_waits_for_its_first_configuration_and_says_at_once_what_it_cannot_load() -> None:
    for service in SERVICES.values():
        (command,) = service["command"]
        assert f"until [ -s /models/{CONFIG} ]" in command
        assert f"--model_config_file=/models/{CONFIG} " in command
        assert "--max_num_load_retries=0" in command
    monitoring = (ROOT / "docker" / "tfserving" / "monitoring.config").read_text()
    assert f'path: "{METRICS_PATH}"' in monitoring
    assert json.dumps(SERVICES).count("/etc/tidegate/monitoring.config") == 4
