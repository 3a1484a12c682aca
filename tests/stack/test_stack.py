"""The embedded stack as a person meets it: up, status, kill, down, up."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg2
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic

from tidegate.errors import SetupError
from tidegate.stack import daemon, services, status
from tidegate.stack.config import StackConfig
from tidegate.stack.supervision import Program
from tidegate.stack.up import remembered, up

pytestmark = pytest.mark.stack

TIDEGATE = str(Path(sys.executable).with_name("tidegate"))
TOPIC = "kept-over-a-restart"


def eventually(true: Callable[[], bool], seconds: float, what: str) -> None:
    assert daemon.wait_until(true, seconds), f"not within {seconds} s: {what}"


def programs(cfg: StackConfig) -> list[str]:
    return [service.name for service in services.every(cfg) if service.program]


def listening(pids: set[int]) -> set[str]:
    return {
        conn.laddr.ip.removeprefix("::ffff:")
        for conn in psutil.net_connections(kind="inet")
        if conn.pid in pids and conn.laddr and (conn.status == psutil.CONN_LISTEN or conn.type == socket.SOCK_DGRAM)
    }


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""  # a task that ended meanwhile


def leave_a_mark(cfg: StackConfig) -> None:
    with psycopg2.connect(cfg.postgres_dsn("tidegate")) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS kept (at double precision)")
        cursor.execute("DELETE FROM kept")
        cursor.execute("INSERT INTO kept VALUES (42)")
    connection.close()
    admin = KafkaAdminClient(bootstrap_servers=cfg.kafka)
    if TOPIC in admin.list_topics():
        admin.delete_topics([TOPIC])
        eventually(lambda: TOPIC not in admin.list_topics(), 20, "the old topic is gone")
    admin.create_topics([NewTopic(TOPIC, num_partitions=1, replication_factor=1)])
    admin.close()
    producer = KafkaProducer(bootstrap_servers=cfg.kafka)
    producer.send(TOPIC, b"forty-two").get(timeout=20)
    producer.close()


def find_the_mark(cfg: StackConfig) -> tuple[list[float], list[bytes]]:
    with psycopg2.connect(cfg.postgres_dsn("tidegate")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT at FROM kept")
        rows = [row[0] for row in cursor.fetchall()]
    connection.close()
    consumer = KafkaConsumer(bootstrap_servers=cfg.kafka)
    partition = TopicPartition(TOPIC, 0)
    consumer.assign([partition])
    consumer.seek(partition, 0)
    records = [r.value for batch in consumer.poll(timeout_ms=10_000).values() for r in batch]
    consumer.close()
    return rows, records


@pytest.fixture
def small_program(stack: StackConfig) -> Iterator[Program]:
    program = Program(
        "triton-test-1",
        (sys.executable, "-c", "import os, time; print(os.environ['WORD'], flush=True); time.sleep(600)"),
        stack.paths.var,
        stack.paths.logs / "triton-test-1.log",
        env={"WORD": "100% 'ready'"},
    )
    program.log_file.unlink(missing_ok=True)
    yield program
    daemon.supervision(stack).remove(program.name)


def test_every_service_is_ready_and_shows_its_version_port_and_memory(stack: StackConfig) -> None:
    told = subprocess.run((TIDEGATE, "status", "--json"), capture_output=True, text=True, check=True)
    seen = json.loads(told.stdout)
    assert [row["name"] for row in seen["services"]][: len(programs(stack))] == programs(stack)
    assert {row["state"] for row in seen["services"]} == {"ready"}
    assert seen["ready"]
    assert all(row["version"] and row["rss_mb"] > 1 and row["up_since"] for row in seen["services"])
    assert seen["rss_mb"] < 6 * 1024


def test_status_is_a_table_for_people(stack: StackConfig) -> None:
    told = subprocess.run((TIDEGATE, "status"), capture_output=True, text=True, check=True)
    assert "airflow-scheduler" in told.stdout
    assert str(stack.ports["airflow"]) in told.stdout


def test_up_twice_starts_nothing_anew(stack: StackConfig) -> None:
    before = {name: state.pid for name, state in daemon.supervision(stack).states().items()}
    subprocess.run((TIDEGATE, "up"), capture_output=True, check=True)
    assert {name: state.pid for name, state in daemon.supervision(stack).states().items()} == before


def test_everything_listens_on_loopback_only(stack: StackConfig) -> None:
    addresses = listening({process.pid for process in daemon.orphans(stack)})
    assert addresses == {"127.0.0.1"}


def test_times_of_the_start_are_kept_for_the_report(stack: StackConfig) -> None:
    report = remembered(stack)
    assert report is not None
    assert report.wall_s > 0
    assert {one.name for one in report.services} >= set(programs(stack))


def test_no_password_stands_in_a_log_or_a_command_line(stack: StackConfig) -> None:
    files = [p for place in ("logs", "airflow/logs") for p in (stack.paths.var / place).rglob("*") if p.is_file()]
    texts = {str(path): path.read_text(errors="replace") for path in files}
    texts |= {f"pid {process.pid}": command_line(process) for process in daemon.orphans(stack)}
    leaks = [(name, where) for name, value in stack.secrets.items() for where, text in texts.items() if value in text]
    assert len(files) >= len(programs(stack))
    assert leaks == []


def test_a_program_added_at_run_time_runs_and_goes_and_twice_changes_nothing(
    stack: StackConfig, small_program: Program
) -> None:
    control = daemon.supervision(stack)
    control.add(small_program)
    eventually(
        lambda: small_program.log_file.exists() and "100% 'ready'" in small_program.log_file.read_text(),
        20,
        "it says so",
    )
    pid = control.states()[small_program.name].pid
    control.add(small_program)
    assert control.states()[small_program.name].pid == pid
    control.restart(small_program.name)
    assert control.states()[small_program.name].pid not in {0, pid}
    control.remove(small_program.name)
    control.remove(small_program.name)
    assert small_program.name not in control.states()
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("name", ["envoy", "prometheus", "kafka", "postgres"])
def test_a_service_killed_by_sigkill_comes_back_and_serves(stack: StackConfig, name: str) -> None:
    control = daemon.supervision(stack)
    killed = control.states()[name].pid
    os.kill(killed, signal.SIGKILL)
    service = next(s for s in services.every(stack) if s.name == name)

    def back() -> bool:
        state = control.states()[name]
        return state.state == "RUNNING" and state.pid != killed and service.ready(state.started)

    eventually(back, 60, f"{name} is back")


def test_a_remembered_port_held_by_another_process_is_refused_by_name(stack: StackConfig) -> None:
    control = daemon.supervision(stack)
    control.stop("alertmanager")
    try:
        with (
            socket.create_server(("127.0.0.1", stack.ports["alertmanager"])),
            pytest.raises(SetupError, match=rf"port {stack.ports['alertmanager']} of alertmanager.*--new-ports"),
        ):
            up(stack)
    finally:
        up(stack)
    assert control.states()["alertmanager"].state == "RUNNING"


def test_down_leaves_no_process_and_a_killed_supervisor_no_orphan_and_no_data_is_lost(
    stack: StackConfig, small_program: Program
) -> None:
    """One restart serves all: the supervisor is killed, `down` clears up, `up` finds everything again."""
    control = daemon.supervision(stack)
    control.add(small_program)
    leave_a_mark(stack)
    supervisor = int(stack.paths.pidfile.read_text())
    os.kill(supervisor, signal.SIGKILL)
    eventually(lambda: not control.answers(), 10, "the supervisor is dead")
    assert daemon.orphans(stack)

    begun = time.monotonic()
    subprocess.run((TIDEGATE, "down"), capture_output=True, check=True)
    assert time.monotonic() - begun < 30
    assert daemon.orphans(stack) == []
    assert {row.state for row in status.rows(stack)} == {"stopped"}
    subprocess.run((TIDEGATE, "down"), capture_output=True, check=True)

    up(stack)
    assert find_the_mark(stack) == ([42.0], [b"forty-two"])
    eventually(lambda: control.states()[small_program.name].state == "RUNNING", 20, "serving versions come back")
