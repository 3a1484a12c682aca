"""The parts of the stack as processes: kill them, freeze them, and see that they serve again."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress

import psutil

from tidegate.stack import daemon, services
from tidegate.stack.config import StackConfig
from tidegate.stack.supervision import Supervision

PARTS = {
    "scheduler": "airflow-scheduler",
    "triggerer": "airflow-triggerer",
    "dag-processor": "airflow-dag-processor",
    "api-server": "airflow-api-server",
    "Postgres": "postgres",
    "Prometheus": "prometheus",
    "Envoy": "envoy",
    "guard": "guard",
    "MLflow": "mlflow",
}
"""The supervised program of each part; the versions' servers are named by their versions."""
SERVERS = ("champion's server", "candidate's server")
BACK_S = 120.0


class Parts:
    """Strikes supervised programs, with all processes that they started."""

    def __init__(self, cfg: StackConfig):
        self._cfg = cfg
        self._services = {service.name: service for service in services.every(cfg)}
        self._frozen: list[psutil.Process] = []

    @property
    def control(self) -> Supervision:
        """The supervisor of the stack."""
        return daemon.supervision(self._cfg)

    def family(self, program: str) -> list[psutil.Process]:
        """Return a program's process and all below it; the first is the supervised one."""
        state = self.control.states().get(program)
        if state is None or not state.pid:
            return []
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(state.pid)
            return [parent, *parent.children(recursive=True)]
        return []

    def kill(self, program: str) -> int:
        """Kill a program with its children (SIGKILL), as the end of its container would; return how many."""
        return self._signal(self.family(program), signal.SIGKILL)

    def freeze(self, program: str) -> int:
        """Stop a program and its children where they stand (SIGSTOP); return how many."""
        family = self.family(program)
        self._frozen += family
        return self._signal(family, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let all that was frozen go on (SIGCONT), children first."""
        self._signal(list(reversed(self._frozen)), signal.SIGCONT)
        self._frozen.clear()

    def serves(self, program: str) -> bool:
        """Whether a service runs and says that it is ready; a version's server by its being supervised and up."""
        state = self.control.states().get(program)
        if state is None or state.state != "RUNNING":
            return False
        service = self._services.get(program)
        return service is None or service.ready(state.started)

    def await_all(self, seconds: float = BACK_S) -> list[str]:
        """Wait until every service of the stack serves; return those that do not in time, after one restart each."""
        names = [name for name, service in self._services.items() if service.program]
        late = self._late(names, seconds)
        for name in late:
            self.control.restart(name)
        return self._late(late, seconds)

    def _late(self, names: list[str], seconds: float) -> list[str]:
        return [name for name in names if not wait_until(lambda name=name: self.serves(name), seconds, 0.3)]

    def _signal(self, family: list[psutil.Process], number: signal.Signals) -> int:
        reached = 0
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
                reached += 1
        return reached


def wait_until(holds: Callable[[], bool], seconds: float, pause_s: float = 0.1) -> bool:
    """Poll what no event announces; return whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_s)
    return True
