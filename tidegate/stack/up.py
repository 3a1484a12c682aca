"""Starts all services, as much at once as their needs allow, and tells how far each one is."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tidegate.errors import Unavailable
from tidegate.localfiles import locked
from tidegate.stack import cache, daemon, ports, preflight, services
from tidegate.stack.config import write_public

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidegate.stack.config import StackConfig
    from tidegate.stack.service import Service
    from tidegate.stack.supervision import Supervision

_POLL_S = 0.2
_LOG_LINES = 15
Listener = Callable[[str, str], None]
"""Told (service, phase) at each change; phase is preparing, waiting, starting, ready, failed or given up."""


@dataclass(frozen=True)
class Started:
    """How one service came up."""

    name: str
    version: str
    ready_s: float
    """Seconds from its own start until it served; a step's own duration."""
    at_s: float
    """Seconds from the beginning of `up` until it served."""


@dataclass(frozen=True)
class UpReport:
    """How the whole stack came up."""

    wall_s: float
    services: tuple[Started, ...]


def up(
    cfg: StackConfig,
    listener: Listener = lambda _name, _phase: None,
    chosen: Callable[[StackConfig], Sequence[Service]] = services.every,
) -> UpReport:
    """Start what does not run yet and wait until everything serves.

    Args:
        cfg: the installation.
        listener: called from several threads at each change of a service.
        chosen: the services, with all that they need, each before those that need it; by default every one.

    Returns:
        The times of this call; they are also kept in `up.json` (services that ran already keep theirs).

    Raises:
        SetupError: the machine lacks something; the message names the remedy.
        Unavailable: a service did not become ready; the message ends with its log.
    """
    with locked(cfg.paths.var / ".up.lock"):
        return _up(cfg, listener, chosen(cfg))


def _up(cfg: StackConfig, listener: Listener, every: Sequence[Service]) -> UpReport:
    begun = time.monotonic()
    preflight.check(cfg.paths, jars_cached=cache.has_jars())
    control = daemon.start(cfg)
    states = control.states()
    running = {s.name for s in every if s.name in states and states[s.name].alive}
    ports.require_free({name: cfg.ports[name] for s in every if s.name not in running for name in s.ports})
    run = _Run(cfg, control, listener, begun)
    started = tuple(run.all(every))
    report = UpReport(round(time.monotonic() - begun, 1), started)
    _remember(cfg, report, running)
    return report


def remembered(cfg: StackConfig) -> UpReport | None:
    """The times of the last start of each service; None before the first one."""
    path = cfg.paths.var / "up.json"
    if not path.exists():
        return None
    data = json.loads(path.read_text(encoding="utf-8"))
    return UpReport(data["wall_s"], tuple(Started(**one) for one in data["services"]))


def _remember(cfg: StackConfig, report: UpReport, running: set[str]) -> None:
    before = remembered(cfg)
    if before and running:  # what ran already keeps its own times; the wall time is that of a whole start
        known = {one.name: one for one in before.services}
        kept = tuple(known.get(s.name, s) if s.name in running or s.ready_s == 0 else s for s in report.services)
        report = UpReport(before.wall_s, kept)
    write_public(cfg.paths.var / "up.json", json.dumps(asdict(report), indent=2))


class _GivenUp(Unavailable):
    """A consequence of another service's failure, which is the error to show."""


class _Run:
    """One call of `up`: a thread per service, each waiting for those it needs."""

    def __init__(self, cfg: StackConfig, control: Supervision, listener: Listener, begun: float):
        self._cfg, self._control, self._tell, self._begun = cfg, control, listener, begun
        self._futures: dict[str, Future[Started]] = {}
        self._given_up = threading.Event()

    def all(self, every: Sequence[Service]) -> list[Started]:
        """Start all; after a failure, or Ctrl-C, nothing more is started and the cause is raised."""
        with ThreadPoolExecutor(max_workers=len(every)) as pool:
            try:
                for service in every:  # needs come before those who need them
                    self._futures[service.name] = pool.submit(self._one, service)
                done, _ = wait(self._futures.values(), return_when=FIRST_EXCEPTION)
                errors = [error for future in done if (error := future.exception())]
                for error in errors:
                    if not isinstance(error, _GivenUp):
                        raise error
            finally:
                self._given_up.set()
        return [future.result() for future in self._futures.values()]

    def _one(self, service: Service) -> Started:
        try:
            self._tell(service.name, "preparing")
            service.prepare()
            self._tell(service.name, "waiting")
            for need in service.needs:
                if self._futures[need].exception():
                    raise _GivenUp(f"{service.name} needs {need}, which failed")
            self._go_on(service)
            self._tell(service.name, "starting")
            begun = time.monotonic()
            service.before()
            if service.program:
                self._control.add(service.program())
                self._await(service)
            service.after()
        except BaseException as error:
            self._tell(service.name, "given up" if isinstance(error, _GivenUp) else "failed")
            raise
        now = time.monotonic()
        self._tell(service.name, "ready")
        return Started(service.name, service.version(), round(now - begun, 1), round(now - self._begun, 1))

    def _await(self, service: Service) -> None:
        deadline = time.monotonic() + service.timeout_s
        while True:
            state = self._control.states()[service.name]
            if state.state == "RUNNING" and service.ready(state.started):
                return
            if state.state == "FATAL" or time.monotonic() > deadline:
                raise Unavailable(self._why(service, state.state))
            self._given_up.wait(_POLL_S)
            self._go_on(service)

    def _go_on(self, service: Service) -> None:
        if self._given_up.is_set():
            raise _GivenUp(f"{service.name} was not awaited: another service failed")

    def _why(self, service: Service, state: str) -> str:
        log = self._cfg.paths.logs / f"{service.name}.log"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:] if log.exists() else []
        reason = (
            "ended at once, again and again" if state == "FATAL" else f"was not ready within {service.timeout_s:g} s"
        )
        return f"{service.name} {reason} (state {state}). Remedy: read {log}; its last lines:\n" + "\n".join(lines)
