"""Serves each model version by a Triton process of its own, on loopback, kept alive by the embedded supervisor."""

from __future__ import annotations

import logging
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import httpx
import psutil

from tidegate.clients import probe as probes
from tidegate.clients import triton_repository as repository
from tidegate.clients.environments import Environments
from tidegate.clients.model_server import Endpoint
from tidegate.clients.scrape_targets import ScrapeTargets
from tidegate.clients.triton_install import Installation
from tidegate.errors import DataError, NeedsGpu, Unavailable
from tidegate.localfiles import locked
from tidegate.recorded import PROBE, RecordedAnswers
from tidegate.served import SHARE
from tidegate.stack import ports
from tidegate.stack.config import ROOT
from tidegate.stack.supervision import Program, State

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from tidegate.handoff import Bundle
    from tidegate.lake import Lake

HOST = "127.0.0.1"
_TICK = 0.1  # seconds between two looks at a starting server
_PROBE_TIMEOUT = 2.0  # seconds
_END_S = 5.0  # seconds for a killed process to be gone
_TAIL = 20  # lines of a log worth showing
_DULL = ("I", "|", "+")  # how Triton's log begins what is mere information, and its tables
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # where Triton's Python backend keeps its regions, by their prefix
_WARM = "warm"  # file of a version's folder: the pid of its server once that was warmed up
_log = logging.getLogger(__name__)


class Supervisor(Protocol):
    """What is needed of `tidegate.stack.supervision.Supervision`."""

    def add(self, program: Program) -> None:
        """Have a program supervised and started; does nothing if it already runs just so."""

    def remove(self, name: str) -> None:
        """Stop a program and forget it; does nothing if there is none."""

    def states(self) -> dict[str, State]:
        """The state of every program by name."""


class TritonServer:
    """The ModelServer backend `triton`.

    Args:
        supervision: what keeps the processes alive, and starts them again with the stack.
        python: interpreter of the installed serving environment, which holds nvidia-pytriton and ONNX Runtime.
        folder: keeps one folder per deployed version (see `Installation`), and .environments/ for bundles whose
            serving lock is not that of the installed environment.
        lake: where bundles are.
        prometheus_targets: folder that Prometheus reads *.json lists of targets from.
        timeout_s: for a server to be ready.
        instances: Python processes per server; one answers about 1,000 one-row requests a second.
        project: the project's folder, which environments are built from.
        sample: gives the share of served rows that a delivery's servers keep (see `tidegate.served`); one that
            changes counts from a server's next start on.
    """

    def __init__(
        self,
        supervision: Supervisor,
        python: Path,
        folder: Path,
        lake: Lake,
        prometheus_targets: Path,
        timeout_s: float = 60.0,
        instances: int = 1,
        project: Path = ROOT,
        sample: Callable[[str], float] = lambda _delivery: 0.0,
    ):
        self._supervision = supervision
        self._sample = sample
        self._environments = Environments(python, folder / ".environments", project)
        self._folder = folder
        self._lake = lake
        self._targets = ScrapeTargets(prometheus_targets)
        self._timeout_s = timeout_s
        self._instances = instances

    def deploy(self, bundle: Bundle) -> Endpoint:
        """See ModelServer.deploy."""
        if bundle.target != "onnx":
            raise NeedsGpu(
                f"{bundle.name} holds a {bundle.target} artefact, and the embedded Triton runs ONNX on the CPU only; "
                "serve it by NVIDIA's own image on a machine with a GPU, or set optimise.target to onnx"
            )
        lock = self._installation(bundle).serving_lock(self._lake)
        runtime = repository.find_runtime(self._environments.python_for(lock))  # may take a minute: before the lock
        with self._locked():
            is_new = not self._targets.has(bundle.name)  # never passed a deploy, so it has no traffic
            endpoint = self._install(bundle, runtime)
            share = self._folder / bundle.name / SHARE
            share.write_text(f"{self._sample(bundle.delivery):g}", encoding="utf-8")
            self._supervision.add(self._program(endpoint, runtime))
        try:
            self._await_ready(endpoint)
            self._rehearse(endpoint, bundle)
            self._announce(endpoint, bundle)
        except (DataError, Unavailable):
            if is_new:  # the next try gets other ports and the files anew; one that may have traffic is left alone
                self.retire(bundle.name)
            raise
        return endpoint

    def ready(self, name: str) -> bool:
        """See ModelServer.ready."""
        endpoint = self.endpoint(name)
        return endpoint is not None and _answers(endpoint)

    def retire(self, name: str) -> None:
        """See ModelServer.retire."""
        with self._locked():
            endpoint = self.endpoint(name)
            self._targets.remove(name)
            self._supervision.remove(_program_name(name))
            shutil.rmtree(self._folder / name, ignore_errors=True)
            if endpoint is not None:
                _clear_remains(endpoint)

    def endpoints(self) -> dict[str, Endpoint]:
        """See ModelServer.endpoints."""
        files = sorted(self._folder.glob("[!.]*/endpoint.json"))  # a dot begins what is still being written
        found = [Endpoint.model_validate_json(file.read_bytes()) for file in files]
        return {endpoint.name: endpoint for endpoint in found}

    def endpoint(self, name: str) -> Endpoint | None:
        """Return where one version listens, or None if it is not deployed."""
        return self.endpoints().get(name)

    def _installation(self, bundle: Bundle) -> Installation:
        return Installation(self._folder / bundle.name, bundle)

    def _install(self, bundle: Bundle, runtime: repository.Runtime) -> Endpoint:
        """See that a version's files are those of its bundle, and return the address it keeps from then on."""
        model = bundle.delivery
        generated = {
            f"{model}/config.pbtxt": repository.configuration(model, bundle.dataset.features, self._instances),
            f"{model}/{bundle.version}/model.py": repository.model_file(runtime),
        }
        known, installation = self.endpoint(bundle.name), self._installation(bundle)
        if known is not None:
            problem = installation.problem(generated)
            if problem is None:
                return known
            _log.warning("%s is installed anew from its bundle, and its server started again: %s", bundle.name, problem)
        endpoint = known or self._new_endpoint(bundle.name)
        program = _program_name(bundle.name)
        installation.write(self._lake, generated, endpoint, lambda: self._supervision.remove(program))
        if known is None and program not in self._supervision.states():
            self._log_file(bundle.name).unlink(missing_ok=True)  # of an earlier try
        return endpoint

    def _new_endpoint(self, name: str) -> Endpoint:
        taken = [port for other in self.endpoints().values() for port in (other.port, other.metrics_port)]
        chosen = ports.choose(["http", "metrics"], taken)
        return Endpoint(name=name, host=HOST, port=chosen["http"], metrics_port=chosen["metrics"])

    def _program(self, endpoint: Endpoint, runtime: repository.Runtime) -> Program:
        home = self._folder / endpoint.name
        backends = repository.link_backends(runtime, home / "backends")
        return Program(
            name=_program_name(endpoint.name),
            command=repository.command(runtime, home / "repository", backends, endpoint),
            directory=home,
            log_file=self._log_file(endpoint.name),
            env=runtime.environment(),
        )

    def _await_ready(self, endpoint: Endpoint) -> None:
        program, first = _program_name(endpoint.name), 0
        deadline = time.monotonic() + self._timeout_s
        while not _answers(endpoint):
            state = self._supervision.states().get(program)
            first = first or (state.pid if state else 0)
            if state is None or state.state in ("BACKOFF", "EXITED", "FATAL") or (state.pid and state.pid != first):
                raise DataError(f"Triton ended while it loaded {endpoint.name}; its log ends:\n{self._tail(endpoint)}")
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{endpoint.model_url}/ready did not answer within {self._timeout_s:g} s; Triton's log ends:\n"
                    f"{self._tail(endpoint)}"
                )
            time.sleep(_TICK)  # another process's start: there is no event to await

    def _rehearse(self, endpoint: Endpoint, bundle: Bundle) -> None:
        """Hold the server to the bundle's recorded answers, and warm it up unless this very process is warm."""
        recorded = RecordedAnswers.from_json(self._installation(bundle).read(PROBE))
        features, begun = bundle.dataset.features, time.monotonic()
        with probes.client() as ask:
            largest = probes.probe(ask, endpoint, bundle.version, features, recorded)
            _log.info(
                "%s answered %d recorded rows, largest difference %.2e (limit %.2e)",
                bundle.name, len(recorded.rows), largest, recorded.limit,
            )  # fmt: skip
            pid, mark = self._pid(endpoint), self._folder / endpoint.name / _WARM
            if mark.exists() and mark.read_text(encoding="utf-8") == pid:
                return
            sent = probes.warm_up(ask, endpoint, bundle.version, features, recorded)
        with suppress(FileNotFoundError):  # retired meanwhile, which _announce will see
            mark.write_text(pid, encoding="utf-8")
        _log.info(
            "%s was warmed up by %d requests; %.2f s since it was ready", bundle.name, sent, time.monotonic() - begun
        )

    def _pid(self, endpoint: Endpoint) -> str:
        state = self._supervision.states().get(_program_name(endpoint.name))
        return str(state.pid if state else 0)

    def _tail(self, endpoint: Endpoint) -> str:
        try:
            lines = self._log_file(endpoint.name).read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return "(it wrote none)"
        return "\n".join([line[:400] for line in lines if line and not line.startswith(_DULL)][-_TAIL:])

    def _log_file(self, name: str) -> Path:
        folder = self._folder / ".logs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name}.log"  # outlives the version's own folder: it tells why a candidate failed

    def _announce(self, endpoint: Endpoint, bundle: Bundle) -> None:
        """Have Prometheus read the version's server; from now on it may have traffic."""
        with self._locked():
            if self.endpoint(endpoint.name) != endpoint:
                raise DataError(f"{bundle.name} was retired while it was deployed; deploy it again")
            self._targets.add(endpoint)

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self._folder / ".lock")


def _program_name(name: str) -> str:
    return f"triton-{name}"


def _answers(endpoint: Endpoint) -> bool:
    try:
        return httpx.get(f"{endpoint.model_url}/ready", timeout=_PROBE_TIMEOUT, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _clear_remains(endpoint: Endpoint) -> None:
    """End the Python processes of a server that was stopped while it loaded (it forgets them) and free its memory."""
    prefix = repository.shared_memory_prefix(endpoint)
    orphans = [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(word.startswith(prefix) for word in process.info["cmdline"] or ())
    ]
    for process in orphans:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(orphans, timeout=_END_S)
    for region in _SHARED_MEMORY.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)
