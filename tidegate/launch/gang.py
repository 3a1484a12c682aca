"""The leader of a local gang: starts its members, ends them all when one fails, and writes down how it ended.

Run as `python -m tidegate.launch.gang <folder>`, it returns as soon as a leader of its own session has taken over, so
that it outlives the process that asked. Members die with their leader, however it dies, by the kernel's parent-death
signal (prctl(2), PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate.errors import Retryable
from tidegate.launch import State, Workload
from tidegate.launch.files import GangFiles, Process

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PR_SET_PDEATHSIG = 1
_GRACE = 10.0  # seconds between asking members to end and killing them
_TAIL = 40  # lines of the failing member kept in the state
_PORTS = range(20000, 32000)  # below Linux's ephemeral range, so that no outgoing connection takes one meanwhile
_SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}


class Gang:
    """The members of one workload, as child processes of this one."""

    def __init__(self, files: GangFiles, workload: Workload):
        self._files = files
        self._workload = workload
        self._members: list[subprocess.Popen[bytes]] = []

    def run(self) -> State:
        """Start the members, wait for their end and return it; SIGCHLD and SIGTERM must be blocked."""
        configs = tf_configs(free_ports(self._workload.members))
        self._members = [self._start(rank, config) for rank, config in enumerate(configs)]
        while True:
            codes = [member.poll() for member in self._members]
            failed = first_failure(codes)
            if failed is not None:
                self._end()
                return self._failed(failed, codes[failed] or 0)
            if all(code == 0 for code in codes):
                return State("succeeded", exit_code=0)
            if signal.sigwait(_SIGNALS) != signal.SIGCHLD:
                self._end()
                return State("failed", exit_code=Retryable.exit_code, reason=f"{self._workload.name} was stopped")

    def _start(self, rank: int, config: str | None) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", self._workload.module, "--handoff", str(self._files.handoff)]
        variables = {**os.environ, "TIDEGATE_TERMINATION_LOG": str(self._files.end(rank))}
        if config is not None:
            variables["TF_CONFIG"] = config
        with self._files.log(rank).open("wb") as log:
            return subprocess.Popen(
                [*command, "--out", str(self._files.out)],
                env=variables,
                cwd=self._files.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_dies_with(os.getpid()),  # safe: the leader has one thread
            )

    def _end(self) -> None:
        for member in self._members:
            if member.poll() is None:
                member.terminate()
        deadline = time.monotonic() + _GRACE
        while self._running() and (left := deadline - time.monotonic()) > 0:
            signal.sigtimedwait({signal.SIGCHLD}, left)
        for member in self._members:
            member.kill()
            member.wait()

    def _running(self) -> bool:
        return any(member.poll() is None for member in self._members)

    def _failed(self, rank: int, code: int) -> State:
        said = self._files.end(rank)
        why = said.read_text(encoding="utf-8").strip() if said.exists() else ""
        reason = f"member {rank} of {self._workload.name} {describe(code)}" + (f": {why}" if why else "")
        return State(
            "failed",
            exit_code=code if code >= 0 else 128 - code,
            reason=reason,
            failed_member=rank,
            log_tail=self._files.tail(rank, _TAIL),
        )


def first_failure(codes: Sequence[int | None]) -> int | None:
    """Return the member to blame among exit codes seen together (None: still running), or None.

    One that says "try again" is often only the peer of the one that really failed, so others come first.
    """
    failed = [rank for rank, code in enumerate(codes) if code not in (None, 0)]
    return min(failed, key=lambda rank: (codes[rank] == Retryable.exit_code, rank), default=None)


def describe(code: int) -> str:
    """Return how a process ended, in words; a negative code is the signal that killed it."""
    if code >= 0:
        return f"ended with exit code {code}"
    hint = " (out of memory, or killed by hand)" if -code == signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-code).name}{hint}"


def tf_configs(ports: Sequence[int]) -> list[str | None]:
    """Return TF_CONFIG for each member, one per loopback port; a gang of one has none and trains alone.

    The format is of tf.distribute.cluster_resolver.TFConfigClusterResolver; worker 0 is the chief.
    """
    if len(ports) == 1:
        return [None]
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    return [json.dumps({"cluster": cluster, "task": {"type": "worker", "index": rank}}) for rank in range(len(ports))]


def free_ports(count: int, tables: Sequence[Path] = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))) -> list[int]:
    """Return distinct TCP ports that no socket of this machine uses, as the kernel's tables tell (proc(5))."""
    used = {
        int(line.split()[1].rpartition(":")[2], 16)
        for table in tables
        if table.exists()
        for line in table.read_text(encoding="ascii").splitlines()[1:]
    }
    return random.SystemRandom().sample([port for port in _PORTS if port not in used], count)


def _dies_with(leader: int) -> Callable[[], None]:
    libc = ctypes.CDLL(None, use_errno=True)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != leader:  # it died before the kernel was told
            os._exit(Retryable.exit_code)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    return prepare


def lead(files: GangFiles, announce: Callable[[], None]) -> None:
    """Lead the gang described in `files` to its end; `announce` is called once the leader's name is written down."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    found, me = files.workload(), Process.of(os.getpid())
    if found is None or me is None:
        raise Retryable(f"{files.folder} holds no workload to lead; start it again")
    files.write_leader(me)
    announce()
    os.nice(found.nice)
    files.write_state(Gang(files, found).run())
    os.killpg(0, signal.SIGKILL)  # whatever members started and left behind; the leader's own end is written down


def main(folder: str) -> int:
    """Hand over to a leader that lives on by itself; return once it is known by name."""
    files = GangFiles(Path(folder))
    heard, said = os.pipe()
    if os.fork():
        os.close(said)
        with os.fdopen(heard, "rb") as pipe:
            return 0 if pipe.read() else Retryable.exit_code
    os.close(heard)
    os.setsid()
    with files.leader_log.open("wb") as log, open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)

    def announce() -> None:
        os.write(said, b"led")
        os.close(said)

    lead(files, announce)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
