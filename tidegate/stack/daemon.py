"""Starts and ends supervisord itself, and clears away what a killed one left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tidegate.errors import SetupError
from tidegate.stack.config import make_runtime, write_private
from tidegate.stack.supervision import Supervision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tidegate.stack.config import StackConfig

_MARK = "TIDEGATE_INSTALLATION"  # in the environment of every supervised process and its children
_USER = "tidegate"
_START_S = 15.0
_END_S = 10.0
_STOP_S = 40.0
_SCHEDULER = "airflow-scheduler"
_TASK_GRACE_S = 3.0
_LAST = ("postgres",)  # all others still write to it
_POLL_S = 0.05
# What a shell may carry that would change a service: each gets its settings from us alone.
_FOREIGN = (
    "AIRFLOW",
    "GUNICORN",
    "HADOOP",
    "JAVA_TOOL",
    "KAFKA",
    "MLFLOW",
    "PG",
    "PYTHON",
    "SUPERVISOR",
    "TIDEGATE",
    "UVICORN",
)


def supervision(cfg: StackConfig) -> Supervision:
    """The control of this installation's supervisord, running or not."""
    return Supervision(cfg.paths.socket, _USER, cfg.secrets["supervisor"], cfg.paths.conf_dir)


def start(cfg: StackConfig) -> Supervision:
    """Have a supervisord run for this installation; does nothing if one answers.

    Processes that a killed supervisord left behind are ended first.

    Raises:
        SetupError: supervisord does not start.
    """
    control = supervision(cfg)
    if control.answers():
        return control
    end_orphans(cfg)
    make_runtime(cfg.paths.runtime)
    cfg.paths.socket.unlink(missing_ok=True)
    cfg.paths.pidfile.unlink(missing_ok=True)
    cfg.paths.conf_dir.mkdir(parents=True, exist_ok=True)
    cfg.paths.conf_dir.chmod(0o700)
    cfg.paths.logs.mkdir(parents=True, exist_ok=True)
    conf = cfg.paths.conf_dir.parent / "supervisord.conf"
    write_private(conf, configuration(cfg))
    command = (str(Path(sys.executable).with_name("supervisord")), "-c", str(conf))
    done = subprocess.run(command, env=environment(cfg), capture_output=True, text=True, check=False, timeout=60)
    log = cfg.paths.logs / "supervisord.log"
    if done.returncode or not wait_until(control.answers, _START_S):
        raise SetupError(
            f"supervisord does not start: {(done.stdout + done.stderr).strip()[-800:]}. Remedy: read {log}"
        )
    return control


def stop(cfg: StackConfig) -> None:
    """End every supervised process and supervisord; data stays. Does nothing if nothing runs."""
    control = supervision(cfg)
    if control.answers():
        _stop_scheduler(control)
        others = [name for name in control.states() if name not in {_SCHEDULER, *_LAST}]
        for names in (others, _LAST):
            for name in names:
                control.stop(name, wait=False)
            _await_end(control, names)
        control.shut_down()
        wait_until(lambda: not control.answers() and not _supervisor_runs(cfg), _END_S)
    end_orphans(cfg)
    cfg.paths.pidfile.unlink(missing_ok=True)
    shutil.rmtree(cfg.paths.runtime, ignore_errors=True)


def orphans(cfg: StackConfig) -> list[psutil.Process]:
    """Living processes that carry this installation's mark, and their children."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get(_MARK) == cfg.installation and process.pid != os.getpid():
                found[process.pid] = process
                found |= {child.pid: child for child in process.children(recursive=True)}
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    return list(found.values())


def end_orphans(cfg: StackConfig) -> int:
    """End what carries this installation's mark, and returns how many there were.

    They get the signal to end, then ten seconds, then SIGKILL.
    """
    first = orphans(cfg)
    left = first
    for deadly in (False, True):
        for process in left:
            _signal(process, signal.SIGKILL if deadly else signal.SIGTERM)
        psutil.wait_procs(left, timeout=_END_S)
        left = orphans(cfg)  # a dying supervisord may have started one more
        if not left:
            break
    return len(first)


def wait_until(true: Callable[[], bool], seconds: float) -> bool:
    """Poll a condition that no event announces; returns whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def environment(cfg: StackConfig) -> dict[str, str]:
    """The environment that all supervised processes inherit."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)}
    local = "127.0.0.1,localhost"
    proxies = {k: f"{os.environ[k]},{local}" if os.environ.get(k) else local for k in ("no_proxy", "NO_PROXY")}
    # SPT_NOENV: programs that rename themselves must not overwrite the environment that holds the mark.
    return kept | proxies | {_MARK: cfg.installation, "SPT_NOENV": "1", "PYTHONUNBUFFERED": "1"}


def configuration(cfg: StackConfig) -> str:
    """Supervisord's own settings."""
    paths = cfg.paths
    text = f"""\
[unix_http_server]
file={paths.socket}
chmod=0700
username={_USER}
password={cfg.secrets["supervisor"]}

[supervisord]
logfile={paths.logs / "supervisord.log"}
logfile_maxbytes=5MB
logfile_backups=1
pidfile={paths.pidfile}
directory={paths.var}
childlogdir={paths.logs}
umask=022

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[include]
files={paths.conf_dir}/*.conf
"""
    return text.replace("%", "%%")


def _stop_scheduler(control: Supervision) -> None:
    """Stop Airflow's scheduler while the api-server can still note how its tasks ended.

    It waits for its tasks. Those that do not end within three seconds get SIGTERM, on which Airflow calls
    the operator's `on_kill` and no more, then SIGINT, which ends them, so that Airflow may retry them.
    """
    state = control.states().get(_SCHEDULER)
    if state is None or not state.pid:
        return
    family = psutil.Process(state.pid).children(recursive=True)
    tasks = [process for process in family if _leads_a_group(process)]
    control.stop(_SCHEDULER, wait=False)
    _await_end(control, (_SCHEDULER,), _TASK_GRACE_S)
    for number in (signal.SIGTERM, signal.SIGINT):
        _, tasks = psutil.wait_procs(tasks, timeout=0)
        for process in tasks:
            _signal(process, number)
        psutil.wait_procs(tasks, timeout=_TASK_GRACE_S)
    _await_end(control, (_SCHEDULER,))


def _leads_a_group(process: psutil.Process) -> bool:
    try:
        return os.getpgid(process.pid) == process.pid
    except ProcessLookupError:
        return False


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        # To Postgres SIGTERM means "when all clients have gone": SIGINT is the fast shutdown.
        fast = number == signal.SIGTERM and process.name() == "postgres"
        process.send_signal(signal.SIGINT if fast else number)
    except psutil.NoSuchProcess:
        return  # it ended meanwhile, which is what we want


def _await_end(control: Supervision, names: Iterable[str], seconds: float = _STOP_S) -> None:
    def ended() -> bool:
        states = control.states()
        return not any(name in states and states[name].alive for name in names)

    wait_until(ended, seconds)


def _supervisor_runs(cfg: StackConfig) -> bool:
    try:
        pid = int(cfg.paths.pidfile.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return psutil.pid_exists(pid)
