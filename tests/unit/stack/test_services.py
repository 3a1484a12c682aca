"""What each service is told: loopback, its own ports, no surprises."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tidegate.clients.tfserving import TfServing
from tidegate.clients.triton import TritonServer
from tidegate.errors import SetupError
from tidegate.lake import Lake
from tidegate.stack import daemon, services
from tidegate.stack.config import ROOT, StackConfig
from tidegate.stack.hands import servers
from tidegate.stack.services import airflow, envoy, hdfs, kafka, monitoring, postgres


@pytest.fixture
def cfg(tmp_path: Path) -> StackConfig:
    return StackConfig.load(tmp_path / "var")


def test_every_need_is_a_service_that_comes_before(cfg: StackConfig) -> None:
    seen: set[str] = set()
    for service in services.every(cfg):
        assert set(service.needs) <= seen, service.name
        seen.add(service.name)


def test_every_port_of_a_service_is_one_of_the_installation(cfg: StackConfig) -> None:
    used = [port for service in services.every(cfg) for port in service.ports]
    assert len(used) == len(set(used))
    assert set(used) <= set(cfg.ports)


def test_kafka_makes_no_topic_by_itself_and_listens_on_loopback(cfg: StackConfig) -> None:
    settings = dict(line.split("=", 1) for line in kafka.properties(cfg).splitlines())
    assert settings["auto.create.topics.enable"] == "false"
    assert set(re.findall(r"//([^:,]+)", settings["listeners"])) == {"127.0.0.1"}


def test_every_address_of_hdfs_is_on_loopback(cfg: StackConfig) -> None:
    addresses = {k: v for k, v in hdfs.settings(cfg).items() if k.endswith(("address", "bind-host", "defaultFS"))}
    assert len(addresses) == 8
    assert all("127.0.0.1" in value for value in addresses.values())


def test_envoy_takes_routes_and_clusters_from_the_watched_folder(cfg: StackConfig) -> None:
    made = envoy.bootstrap(cfg)
    listener = made["static_resources"]["listeners"][0]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    source = manager["rds"]["config_source"]["path_config_source"]
    assert source == {
        "path": str(cfg.paths.xds / "rds.yaml"),
        "watched_directory": {"path": str(cfg.paths.xds)},
    }
    assert manager["rds"]["route_config_name"] == envoy.first_resources()["rds.yaml"]["resources"][0]["name"]
    assert made["stats_flush_interval"] == "0.5s"
    assert "access_log" not in manager


def test_envoys_buckets_grow(cfg: StackConfig) -> None:
    (setting,) = envoy.bootstrap(cfg)["stats_config"]["histogram_bucket_settings"]
    assert setting["buckets"] == sorted(set(setting["buckets"]))


def test_envoys_files_are_written_once_and_then_belong_to_the_rollout(
    cfg: StackConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = envoy.service(cfg)
    service.prepare()
    (cfg.paths.xds / "cds.yaml").write_text("changed by a rollout")
    service.prepare()
    assert (cfg.paths.xds / "cds.yaml").read_text() == "changed by a rollout"


def test_prometheus_scrapes_every_second_and_its_rule_file_is_there(cfg: StackConfig) -> None:
    made = monitoring.scraping(cfg)
    assert made["global"]["scrape_interval"] == made["global"]["evaluation_interval"] == "1s"
    rules, _ = made["rule_files"]
    alerts = [rule["alert"] for group in yaml.safe_load(Path(rules).read_text())["groups"] for rule in group["rules"]]
    assert alerts == [
        "GuardSilent",
        "GuardAborted",
        "GuardLedgerUnreachable",
        "GuardDisbelievesLedger",
        "QualitySilent",
        "RowsQuarantined",
        "TargetDown",
    ]


def test_prometheus_gets_the_rules_of_every_delivery(cfg: StackConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.stack.cache.prometheus", lambda: None)
    prometheus, _ = monitoring.services(cfg)
    prometheus.prepare()
    _, generated = monitoring.scraping(cfg)["rule_files"]
    deliveries = {path.name for path in (ROOT / "schemas" / "deliveries").glob("*.yaml")}
    assert {path.name for path in Path(generated).parent.glob("*.yaml")} == deliveries


def test_no_token_is_in_the_configuration_of_prometheus_or_alertmanager(cfg: StackConfig) -> None:
    told = json.dumps([monitoring.scraping(cfg), monitoring.routing(cfg)])
    assert not [name for name, value in cfg.secrets.items() if value in told]


def test_alerts_go_out_without_waiting_for_company(cfg: StackConfig) -> None:
    assert monitoring.routing(cfg)["route"]["group_wait"] == "0s"


def test_only_alerts_that_ask_for_a_rollback_go_to_the_relay(cfg: StackConfig) -> None:
    made = monitoring.routing(cfg)
    (route,) = made["route"]["routes"]
    assert (route["matchers"], route["receiver"], made["route"]["receiver"]) == (
        ['action="rollback"'],
        "relay",
        "board",
    )
    (webhook,) = next(one for one in made["receivers"] if one["name"] == "relay")["webhook_configs"]
    assert webhook["url"] == f"http://127.0.0.1:{cfg.ports['relay']}/alerts"
    assert webhook["http_config"]["authorization"]["credentials_file"] == str(cfg.paths.relay_token)


def test_guard_and_relay_get_their_secrets_by_environment_alone(cfg: StackConfig) -> None:
    for name in ("guard", "relay", "quality"):
        (service,) = [one for one in services.every(cfg) if one.name == name]
        service.prepare()
        assert service.program is not None
        command = " ".join(service.program().command)
        assert not [value for value in cfg.secrets.values() if value in command]
        assert (cfg.paths.var / name / "token").stat().st_mode & 0o777 == 0o600


def test_airflow_gets_every_connection_as_json(cfg: StackConfig) -> None:
    env = airflow.environment(cfg)
    found = {k.removeprefix("AIRFLOW_CONN_"): json.loads(v) for k, v in env.items() if k.startswith("AIRFLOW_CONN_")}
    kinds = {name: value["conn_type"] for name, value in found.items()}
    assert kinds == {
        "FLIGHTS_DB": "postgres",
        "TIDEGATE_DB": "postgres",
        "EVENTS": "kafka",
        "LAKE": "hdfs",
        "MLFLOW": "http",
        "PROMETHEUS": "http",
        "TRAFFIC": "envoy",
        "SERVING": "triton",
    }
    assert found["TRAFFIC"]["extra"]["xds"] == str(cfg.paths.xds)
    assert found["SERVING"]["extra"]["supervisor"] == str(cfg.paths.socket)


def test_the_stack_has_no_tensorflow_serving_and_says_so_until_its_slots_are_named(cfg: StackConfig) -> None:
    lake = Lake(f"file://{cfg.paths.lake}")
    assert isinstance(servers(cfg, lake, "triton"), TritonServer)
    with pytest.raises(SetupError, match=r"tfserving\.json names no slots: no package registry has .*Remedy: write"):
        servers(cfg, lake, "tfserving")
    pool = {"folder": "/srv", "slots": [{"name": "a", "grpc": "10.0.0.1:8500", "rest": "10.0.0.1:8501"}]}
    cfg.paths.tfserving.write_text(json.dumps(pool))
    assert isinstance(servers(cfg, lake, "tfserving"), TfServing)
    assert json.loads(airflow.environment(cfg)["AIRFLOW_CONN_SERVING"])["extra"]["tfserving"] == pool


def test_airflows_processes_find_the_api_on_its_chosen_port(cfg: StackConfig) -> None:
    env = airflow.environment(cfg)
    assert env["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == cfg.url("airflow") + "/execution/"
    assert env["AIRFLOW__API__BASE_URL"] == cfg.url("airflow")
    assert env["AIRFLOW__CORE__DAGS_FOLDER"] == str(ROOT / "dags")


def answer(beat: str, status: str = "healthy") -> dict[str, Any]:
    return {"scheduler": {"status": status, "latest_scheduler_heartbeat": beat}}


@pytest.mark.parametrize(
    ("told", "ready"),
    [
        (answer("1970-01-01T00:01:41+00:00"), True),
        (answer("1970-01-01T00:01:39+00:00"), False),  # of the process before this one
        (answer("1970-01-01T00:01:41+00:00", "unhealthy"), False),
        ({"scheduler": {"status": "healthy", "latest_scheduler_heartbeat": None}}, False),
        ({}, False),
        (None, False),
    ],
)
def test_airflow_is_ready_only_by_a_heartbeat_of_this_start(
    cfg: StackConfig, monkeypatch: pytest.MonkeyPatch, told: Any, ready: bool
) -> None:
    monkeypatch.setattr(airflow, "get_json", lambda _url: told)
    assert airflow._healthy(cfg, "scheduler", started=100.0) is ready


def test_an_ordinary_user_runs_postgres_as_himself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert postgres.as_unprivileged(tmp_path) == ()


def test_root_runs_postgres_as_nobody_and_passes_closed_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    command = postgres.as_unprivileged(closed)
    assert command[:2] == ("setpriv", "--reuid=nobody")
    assert "--ambient-caps=+dac_override" in command


def test_a_shells_own_settings_do_not_leak_into_services(cfg: StackConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__PARALLELISM", "99")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("no_proxy", "example.org")
    env = daemon.environment(cfg)
    assert not {"AIRFLOW__CORE__PARALLELISM", "PYTHONDONTWRITEBYTECODE"} & set(env)
    assert env["no_proxy"] == "example.org,127.0.0.1,localhost"


def test_supervisord_listens_on_a_private_socket_only(cfg: StackConfig) -> None:
    text = daemon.configuration(cfg)
    assert "[unix_http_server]" in text
    assert "chmod=0700" in text
    assert "inet_http_server" not in text
