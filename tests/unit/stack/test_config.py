"""What the embedded stack remembers of an installation."""

from __future__ import annotations

import json
import socket
import stat
from pathlib import Path

import pytest

from tidegate.errors import SetupError
from tidegate.stack import config, ports
from tidegate.stack.config import StackConfig


@pytest.fixture
def cfg(tmp_path: Path) -> StackConfig:
    return StackConfig.load(tmp_path / "var")


def test_ports_passwords_and_name_are_remembered(cfg: StackConfig) -> None:
    again = StackConfig.load(cfg.paths.var)
    assert again == cfg


def test_new_ports_keep_the_passwords(cfg: StackConfig) -> None:
    again = StackConfig.load(cfg.paths.var, new_ports=True)
    assert again.ports != cfg.ports
    assert again.secrets == cfg.secrets
    assert again.installation == cfg.installation


def test_every_port_is_different_and_outside_the_range_of_outgoing_connections(cfg: StackConfig) -> None:
    assert len(set(cfg.ports.values())) == len(config.PORTS)
    assert all(20000 <= port < 32768 for port in cfg.ports.values())


def test_a_port_added_by_a_newer_version_is_chosen_and_the_others_stay(cfg: StackConfig) -> None:
    state = cfg.paths.var / "stack.json"
    older = json.loads(state.read_text())
    del older["ports"]["guard"]
    state.write_text(json.dumps(older))
    again = StackConfig.load(cfg.paths.var)
    assert {k: v for k, v in again.ports.items() if k != "guard"} == older["ports"]
    assert again.ports["guard"] not in older["ports"].values()


def test_two_installations_share_nothing(tmp_path: Path, cfg: StackConfig) -> None:
    other = StackConfig.load(tmp_path / "other")
    assert other.installation != cfg.installation
    assert other.paths.runtime != cfg.paths.runtime
    assert not set(other.secrets.values()) & set(cfg.secrets.values())


def test_secrets_are_readable_by_their_owner_only_and_stay_out_of_the_state_file(cfg: StackConfig) -> None:
    assert stat.S_IMODE((cfg.paths.var / "secrets.json").stat().st_mode) == 0o600
    state = (cfg.paths.var / "stack.json").read_text()
    assert not [name for name, value in cfg.secrets.items() if value in state]


def test_the_state_folder_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_VAR", str(tmp_path / "elsewhere"))
    assert StackConfig.load().paths.var == tmp_path / "elsewhere"


def test_the_socket_path_stays_below_the_kernels_limit_however_deep_the_state_lies(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a-rather-long-folder-name"] * 6)
    assert len(str(StackConfig.load(deep).paths.socket)) < 100


def test_a_broken_state_file_is_named_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text("{")
    with pytest.raises(SetupError, match=r"stack\.json is not JSON.*Remedy"):
        StackConfig.load(tmp_path)


def test_the_runtime_folder_is_private_and_comes_back_after_a_reboot(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config.make_runtime(folder)
    folder.chmod(0o777)
    config.make_runtime(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_addresses_are_on_loopback(cfg: StackConfig) -> None:
    assert cfg.url("airflow") == f"http://127.0.0.1:{cfg.ports['airflow']}"
    assert cfg.postgres_dsn("flights", "psycopg2").startswith("postgresql+psycopg2://postgres:")
    assert cfg.postgres_dsn("flights").endswith(f"@127.0.0.1:{cfg.ports['postgres']}/flights")
    assert cfg.kafka == f"127.0.0.1:{cfg.ports['kafka']}"


def test_a_taken_port_is_refused_with_its_number_service_holder_and_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(SetupError, match=rf"port {port} of kafka is held by process .*--new-ports"):
            ports.require_free({"kafka": port})
    ports.require_free({"kafka": port})


def test_a_taken_port_is_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(ports, "FIRST", port)
        monkeypatch.setattr(ports, "LAST", port + 1)
        with pytest.raises(SetupError, match="no free port for kafka"):
            ports.choose(["kafka"])
