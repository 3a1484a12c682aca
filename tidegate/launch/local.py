"""Runs workloads as processes of this machine, each below a leader that outlives the caller."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

from tidegate.errors import Conflict, Retryable, SetupError, SpecError
from tidegate.launch import State, Workload, checked
from tidegate.launch.files import GangFiles, Process, last_lines
from tidegate.launch.lines import dated, interleaved
from tidegate.localfiles import locked

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_STOP = 15.0  # seconds: a leader gives its members 10 before it kills them
_LINES = 400  # of each member, in logs()
_START = 30.0  # seconds for an interpreter to come up
# What members see of the caller's environment. Airflow's own holds secrets, and none of it is theirs.
_NAMES = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
_PREFIXES = ("TIDEGATE_", "MLFLOW_", "NVIDIA_", "SSL_CERT_", "AWS_")  # AWS_: the lake, where it is on S3


class LocalLauncher:
    """Gangs of processes below `folder`, one folder per workload's name.

    `pythons` maps an environment's name to its interpreter, such as {"train": "/opt/train/bin/python"}; `variables`
    are added to every member's environment.
    """

    def __init__(self, folder: Path, pythons: Mapping[str, str], variables: Mapping[str, str] | None = None):
        self._folder = folder
        self._pythons = dict(pythons)
        self._variables = dict(variables or {})

    def start(self, workload: Workload) -> None:
        """Start a gang, unless it runs or has succeeded; see `Launcher.start`.

        Raises:
            Conflict: another workload runs under this name.
            SpecError: the environment is unknown.
            SetupError: the environment's interpreter cannot be run.
        """
        python = self._python(workload.environment)
        workload = replace(workload, pods=None)  # what pods would need says nothing of processes
        files = self._files(workload.name)
        files.folder.mkdir(parents=True, exist_ok=True)
        with locked(files.lock):
            phase, stored = self.poll(workload.name).phase, files.workload()
            same = stored == workload
            if phase == "running" and not same:
                raise Conflict(f"another workload runs under the name {workload.name}; stop it, or wait for its end")
            if phase == "running" or (phase == "succeeded" and same):
                files.keep_workload(workload)
                return
            files.write_workload(workload)
            _lead(python, files, self._environment(workload.members))

    def poll(self, name: str) -> State:
        """Return the gang's state, read from its files and from the kernel; cheap enough for every second."""
        files = self._files(name)
        leader = files.leader()
        if leader is None:
            return State("absent")
        alive = leader.alive
        state = files.state()  # read after the look at the leader: it writes its state before it ends
        if state is None:
            return State("running") if alive else _leaderless(name)
        if state.phase != "succeeded" or not files.out.exists():
            return state
        return State("succeeded", exit_code=0, result=files.out.read_text(encoding="utf-8"))

    def logs(self, name: str) -> str:
        """Return the newest 400 lines of each member, in the order of the times they begin with."""
        files = self._files(name)
        stored = files.workload()
        members = range(stored.members) if stored else range(0)
        return interleaved({rank: dated(last_lines(files.log(rank), _LINES)) for rank in members})

    def stop(self, name: str, origin: Mapping[str, str] | None = None) -> None:
        """End the gang and wait until its leader and members are gone; see `Launcher.stop`."""
        files = self._files(name)
        if files.leader() is None:
            return
        with locked(files.lock):
            stored, leader = files.workload(), files.leader()
            if leader is None or (origin and stored is not None and not origin.items() <= stored.origin.items()):
                return
            if _signalled(leader, signal.SIGTERM, _STOP) and files.state() is None:
                files.write_state(State("failed", exit_code=Retryable.exit_code, reason=f"{name} was stopped"))

    def _files(self, name: str) -> GangFiles:
        return GangFiles(self._folder / checked(name))

    def _python(self, environment: str) -> str:
        if environment not in self._pythons:
            known = ", ".join(sorted(self._pythons))
            raise SpecError(f"environment {environment!r} is unknown; known: {known}; give its interpreter")
        return self._pythons[environment]

    def _environment(self, members: int) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name in _NAMES or name.startswith(_PREFIXES)}
        threads = str(max(1, len(os.sched_getaffinity(0)) // members))
        return {
            **kept,
            "PYTHONUNBUFFERED": "1",
            "TF_USE_LEGACY_KERAS": "1",  # Keras 3 cannot fit under MultiWorkerMirroredStrategy (keras#20585)
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "TF_NUM_INTRAOP_THREADS": threads,
            "OMP_NUM_THREADS": threads,
            **self._variables,
        }


def _lead(python: str, files: GangFiles, variables: Mapping[str, str]) -> None:
    command = [python, "-m", "tidegate.launch.gang", str(files.folder)]
    try:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=_START, check=False)
    except OSError as error:
        raise SetupError(f"{python} cannot be run ({error.strerror}); make the environment it belongs to") from error
    except subprocess.TimeoutExpired as error:
        raise Retryable(f"the leader of {files.folder.name} did not come up in {_START:.0f} s; try again") from error
    if done.returncode:
        said = done.stderr.strip() or "\n".join(last_lines(files.leader_log, 20))
        raise SetupError(f"the leader of {files.folder.name} ended with {done.returncode} in {python}: {said}")


def _leaderless(name: str) -> State:
    reason = f"the gang's leader died ({name}); its members died with it; start it again to resume"
    return State("failed", exit_code=Retryable.exit_code, reason=reason)


def _signalled(process: Process, number: int, seconds: float) -> bool:
    """Signal the process and wait for its end, killing its whole group after `seconds`; False where it was gone."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        if not process.alive:  # asked after the handle was taken, so the handle cannot mean a later process
            return False
        signal.pidfd_send_signal(handle, number)
        if not select.select([handle], [], [], seconds)[0]:
            os.killpg(process.pid, signal.SIGKILL)
            select.select([handle], [], [])
    finally:
        os.close(handle)
    return True
