"""Prometheus and Alertmanager: what is measured every second, and who is told."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import yaml

from tidegate import alerts
from tidegate.delivery import Delivery, deliveries_folder, read_delivery
from tidegate.errors import SpecError
from tidegate.stack import cache, daemon
from tidegate.stack.config import write_private, write_public
from tidegate.stack.service import Service, answers
from tidegate.stack.supervision import Program

if TYPE_CHECKING:
    from pathlib import Path

    from tidegate.stack.config import StackConfig


def services(cfg: StackConfig) -> tuple[Service, Service]:
    """Both servers, ready when they say so themselves."""
    prometheus, alertmanager = cache.prometheus, cache.alertmanager

    def prepare_prometheus() -> None:
        cfg.paths.triton_targets.mkdir(parents=True, exist_ok=True)
        for path, name in ((cfg.paths.guard_token, "guard"), (cfg.paths.quality_token, "quality")):
            if not path.exists():
                write_private(path, cfg.secrets[name])
        alerts.write(cfg.paths.rules, _deliveries())
        write_public(_home(cfg, "prometheus") / "prometheus.yaml", yaml.safe_dump(scraping(cfg), sort_keys=False))
        prometheus()

    def prepare_alertmanager() -> None:
        if not cfg.paths.relay_token.exists():
            write_private(cfg.paths.relay_token, cfg.secrets["relay"])
        write_public(_home(cfg, "alertmanager") / "alertmanager.yaml", yaml.safe_dump(routing(cfg), sort_keys=False))
        alertmanager()

    return (
        Service(
            "prometheus",
            lambda: prometheus().version,
            ports=("prometheus",),
            prepare=prepare_prometheus,
            program=lambda: _prometheus(cfg),
            ready=lambda _: answers(cfg.url("prometheus") + "/-/ready"),
            after=lambda: _reload(cfg, "prometheus"),
        ),
        Service(
            "alertmanager",
            lambda: alertmanager().version,
            ports=("alertmanager",),
            prepare=prepare_alertmanager,
            program=lambda: _alertmanager(cfg),
            ready=lambda _: answers(cfg.url("alertmanager") + "/-/ready"),
            after=lambda: _reload(cfg, "alertmanager"),
        ),
    )


def scraping(cfg: StackConfig) -> dict[str, Any]:
    """Prometheus' configuration: every second, from Envoy, the guard, the quality process and each Triton process."""

    def at(*ports: str) -> list[dict[str, Any]]:
        return [{"targets": [f"127.0.0.1:{cfg.ports[port]}" for port in ports]}]

    return {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(cfg.paths.root / "deploy" / "monitoring" / "rules.yaml"), f"{cfg.paths.rules}/*.yaml"],
        "alerting": {"alertmanagers": [{"static_configs": at("alertmanager")}]},
        "scrape_configs": [
            {"job_name": "envoy", "metrics_path": "/stats/prometheus", "static_configs": at("envoy-admin")},
            *(
                {
                    "job_name": name,
                    "authorization": {"type": "Bearer", "credentials_file": str(token)},
                    "static_configs": at(name),
                }
                for name, token in (("guard", cfg.paths.guard_token), ("quality", cfg.paths.quality_token))
            ),
            {
                "job_name": "triton",
                "file_sd_configs": [{"files": [f"{cfg.paths.triton_targets}/*.json"], "refresh_interval": "5s"}],
            },
        ],
    }


def routing(cfg: StackConfig) -> dict[str, Any]:
    """Alertmanager's configuration: what asks for a rollback goes to the relay, all else is kept and shown at once."""
    rollback = {
        "matchers": [f'action="{alerts.ACTION}"'],
        "receiver": "relay",
        "group_by": ["alertname", "delivery", "version"],
        "repeat_interval": "1m",  # it finds the run it started; else what fires again after a restart would wait
    }
    route = {
        "receiver": "board",
        "group_by": ["alertname"],
        "group_wait": "0s",
        "group_interval": "5s",
        "routes": [rollback],
    }
    webhook = {
        "url": cfg.url("relay") + "/alerts",
        "send_resolved": False,
        "http_config": {"authorization": {"type": "Bearer", "credentials_file": str(cfg.paths.relay_token)}},
    }
    return {"route": route, "receivers": [{"name": "board"}, {"name": "relay", "webhook_configs": [webhook]}]}


def _deliveries() -> list[Delivery]:
    """All deliveries without mistakes; `tidegate check` shows the others'."""
    found = []
    for path in sorted(deliveries_folder().glob("*.yaml")):
        try:
            found.append(read_delivery(path))
        except SpecError:
            continue
    return found


def _reload(cfg: StackConfig, name: str) -> None:
    """Have a server that ran already read its files again."""
    pid = daemon.supervision(cfg).states()[name].pid
    if pid:  # 0 would be this process and its whole group
        os.kill(pid, signal.SIGHUP)


def _home(cfg: StackConfig, name: str) -> Path:
    return cfg.paths.var / name


def _prometheus(cfg: StackConfig) -> Program:
    home = cfg.paths.var / "prometheus"
    return Program(
        name="prometheus",
        command=(
            str(cache.prometheus().command),
            f"--config.file={home / 'prometheus.yaml'}",
            f"--storage.tsdb.path={home / 'data'}",
            "--storage.tsdb.retention.time=7d",
            "--rules.alert.resend-delay=10s",  # for some seconds after it read its files anew, it drops what it sends
            f"--web.listen-address=127.0.0.1:{cfg.ports['prometheus']}",
        ),
        directory=home,
        log_file=cfg.paths.logs / "prometheus.log",
        autostart=False,
    )


def _alertmanager(cfg: StackConfig) -> Program:
    home = cfg.paths.var / "alertmanager"
    tool = cache.alertmanager()
    return Program(
        name="alertmanager",
        command=(
            str(tool.command),
            f"--config.file={home / 'alertmanager.yaml'}",
            f"--storage.path={home / 'data'}",
            f"--web.listen-address=127.0.0.1:{cfg.ports['alertmanager']}",
            "--cluster.listen-address=",
        ),
        directory=tool.directory or home,
        log_file=cfg.paths.logs / "alertmanager.log",
        autostart=False,
    )
