"""Runs a stage's workload outside Airflow, as a gang of members that succeed or fail together.

A workload is named by what it does, never by when: whoever starts the same name again joins what is already there.
Every call may come from another process (a worker starts, a triggerer polls, a person stops), so all that a launcher
knows lives in its backend. This package needs the standard library only: a gang's leader imports it in any environment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from tidegate.errors import Permanent, Retryable, SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tidegate.clients.kubernetes import Access
    from tidegate.delivery.pods import PodsSpec

Phase = Literal["absent", "running", "succeeded", "failed"]
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,119}$")


@dataclass(frozen=True)
class Workload:
    """What to run: `python -m <module> --handoff in.json --out out.json`, the same for each member of the gang.

    `name` is a deterministic id, such as train-flights-<request_id>; `environment` chooses the Python to run in;
    `handoff` is JSON text; `members` is the number of processes (from 1); `nice` lowers their priority on one machine,
    so that training does not take the processor from what serves and judges. `timeout_s` (seconds) bounds a gang of
    pods that nobody watches any more. `pods` is what Kubernetes needs to know of its members. `origin` says who asked
    (delivery, dag, run, task, try), for people and for reconcile; it makes no other workload.
    """

    name: str
    module: str
    environment: str
    handoff: str
    members: int = 1
    nice: int = 10
    timeout_s: float = 3600.0
    pods: PodsSpec | None = None
    origin: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        checked(self.name)
        if self.members < 1:
            raise SpecError(f"workload {self.name} has {self.members} members; the least is 1; raise train.workers")


@dataclass(frozen=True)
class State:
    """What became of a workload: its phase and, once it has ended, why; `detail` is how it goes until then."""

    phase: Phase
    exit_code: int | None = None
    reason: str = ""
    failed_member: int | None = None
    log_tail: str = ""
    result: str | None = None
    detail: str = ""

    @property
    def ended(self) -> bool:
        """Whether polling again cannot change anything."""
        return self.phase in ("succeeded", "failed")

    def error(self) -> Permanent | Retryable | None:
        """Return the failure as an error to raise: Permanent by the member's exit code, else Retryable; or None."""
        if self.phase == "absent":
            return Retryable("the workload is gone, and its result with it: someone removed it; start it again")
        if self.phase != "failed":
            return None
        kind = Permanent if self.exit_code == Permanent.exit_code else Retryable
        return kind(f"{self.reason}\n{self.log_tail}".rstrip())


class Launcher(Protocol):
    """Somewhere to run workloads. All calls are idempotent and may come from different processes."""

    def start(self, workload: Workload) -> None:
        """Start the workload; join it where it runs, leave it where it has succeeded, try anew where it failed.

        Raises:
            Conflict: another workload runs under this name.
            Permanent: it cannot be started here.
        """
        ...

    def poll(self, name: str) -> State:
        """Return the workload's state now."""
        ...

    def logs(self, name: str) -> str:
        """Return the newest lines of all members, each with its member's number."""
        ...

    def stop(self, name: str, origin: Mapping[str, str] | None = None) -> None:
        """End the workload and wait until none of its processes is left; a workload that has ended stays as it is.

        With `origin`, only where it is who asked last: one who joined the workload since keeps it.
        """
        ...


def launcher(kind: str, folder: Path, pythons: Mapping[str, str], access: Access | None = None) -> Launcher:
    """Return the launcher of this kind.

    `local` keeps its state in `folder` and has an interpreter per environment; `kubernetes` has all of it in the
    cluster that `access` reaches.

    Raises:
        SpecError: there is no such launcher.
    """
    if kind == "local":
        from tidegate.launch.local import LocalLauncher

        return LocalLauncher(folder, pythons)
    if kind == "kubernetes" and access is not None:
        from tidegate.launch.kubernetes import KubernetesLauncher

        return KubernetesLauncher(access)
    raise SpecError(f"launcher {kind!r} is unknown; known: local, kubernetes; mend train.launcher in the delivery")


def checked(name: str) -> str:
    """Return a workload's name, refused where it could not name a folder or a Kubernetes label.

    Raises:
        SpecError: the name has other characters than letters, digits, dot, dash and underscore, or over 120 of them.
    """
    if not _NAME.match(name):
        raise SpecError(f"workload name {name!r} is not usable; use at most 120 of letters, digits, '.', '-', '_'")
    return name
