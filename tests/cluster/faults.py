"""What may happen to a gang that a real Airflow runs on a real Kubernetes, and what became of it: one table.

    python -m tests.cluster.faults [FAULT ...]

A part is struck once while four gangs are at the four moments, so that a round is one case of each.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from tests.cluster.bed import started
from tests.cluster.installation import KEEP, Installation, installed
from tests.cluster.witness import Witness, witnessed
from tests.until import until
from tidegate.errors import TidegateError, Unavailable

MOMENTS = ("pending", "starting", "first step", "end")
PARTS = ("worker", "triggerer", "scheduler", "airflow's API server", "kube-apiserver", "kubelet")
ACTS = ("task cleared", "run marked failed", "two tries at once")
MORE_ACTS = ("task marked success", "deferral timed out", "Job deleted")
_HOLD = 900.0  # seconds that a member trains, unless it is let go
_ENDS = 240.0  # seconds from the strike to a run's end
_DOWN = 3.0  # seconds that a part of Kubernetes is away
_PLACE = "tidegate.test/"


@dataclass(frozen=True)
class Result:
    """What became of one gang."""

    fault: str
    moment: str
    seen: str
    """What the gang was at when it was struck."""
    wanted: str
    state: str
    """Of the run, at its end."""
    tries: int
    gangs: int
    """Jobs that there were of its name, one after the other."""
    most: int
    """Those allowed."""
    at_once: int
    """The most of them with living pods at one time."""
    left: tuple[str, ...]
    seconds: float
    """From the strike to the run's end and an orderly namespace."""

    @property
    def is_well(self) -> bool:
        """Whether the task ended as it should, with one gang at any time, and left nothing."""
        return self.state == self.wanted and self.gangs <= self.most and self.at_once <= 1 and not self.left


@dataclass
class Gang:
    """One run of the DAG `gang`, and the folder that its members share."""

    installation: Installation
    run: str
    name: str
    pause: str | None = None
    hold: float = _HOLD
    placed: bool = True
    timeout: float = 600.0
    wanted: str = "success"
    most: int = 1
    seen: str = ""
    shared: Path = field(init=False)

    def __post_init__(self) -> None:
        self.shared = self.installation.lake / self.name
        self.shared.mkdir(exist_ok=True)
        self.shared.chmod(0o777)

    def start(self) -> None:
        """Trigger its run."""
        pods: dict[str, Any] = {"memory": "200Mi"}
        if not self.placed:
            pods["node_selector"] = {_PLACE + self.name: "yes"}
        task = {"hold": self.hold, "dated": True}
        conf = {"name": self.name, "shared": str(self.shared), "task": task, "pods": pods, "timeout": self.timeout}
        self.installation.rest.trigger("gang", {**conf, "pause": self.pause}, self.run)

    @property
    def state(self) -> str | None:
        """The task's state."""
        return self.installation.rest.tasks("gang", self.run).get("gang")

    @property
    def detail(self) -> str:
        """How the gang goes, as the cluster shows it."""
        with suppress(TidegateError):
            found = self.installation.bed.launcher.poll(self.name)
            return found.detail or found.phase
        return "unknown"

    @property
    def paused(self) -> list[int]:
        """The ids of its worker's processes, where it has one that was told to stop here."""
        mark = self.shared / "paused"
        return [int(pid) for pid in mark.read_text().split()] if mark.exists() else []

    def runs(self) -> bool:
        """Whether both members have begun."""
        return {path.name.split("-")[1] for path in self.shared.glob("up-*")} >= {"0", "1"}

    def waits(self) -> bool:
        """Whether its task has begun to wait for it, or has come to where it is to be struck."""
        return bool(self.paused) if self.pause == "defer" else self.state == "deferred"

    def release(self) -> None:
        """Let its members have a node, and come to their end."""
        if not self.placed:
            self.installation.bed.kubectl("label", "node", "--all", "--overwrite", f"{_PLACE}{self.name}=yes")
        (self.shared / "go").touch()

    def result(self, fault: str, moment: str, witness: Witness, since: float) -> Result:
        """Wait for its run's end, and then for an orderly namespace, and tell."""
        rest = self.installation.rest
        with suppress(Unavailable):
            rest.wait("gang", self.run, _ENDS)
        state, tries = rest.run("gang", self.run).state, int(rest.task("gang", self.run, "gang")["try_number"])
        left = self._left()
        gangs, at_once = len(witness.gangs.get(self.name, ())), witness.at_once.get(self.name, 0)
        ended = round(time.monotonic() - since, 1)
        return Result(
            fault, moment, self.seen, self.wanted, state, tries, gangs, self.most, at_once, tuple(left), ended
        )

    def _left(self) -> list[str]:
        def mine() -> list[str]:
            return [thing for thing in self.installation.leaks() if self.name in thing]

        with suppress(AssertionError):
            until("nothing is left", lambda: not mine(), 30)
        return mine()


def parts_round(installation: Installation, part: str) -> list[Result]:
    """Strike a part once, with a gang at each of the four moments."""
    gangs = _at_moments(installation, part)
    with witnessed(installation.bed) as witness:
        for moment in ("pending", "first step", "end"):
            gangs[moment].start()
        until("one waits for a node", lambda: "waits for a node" in gangs["pending"].detail)
        until("two train", lambda: gangs["first step"].runs() and gangs["end"].runs())
        until("their tasks wait", lambda: all(gangs[m].waits() for m in ("pending", "first step", "end")))
        gangs["starting"].start()
        if part == "worker":
            gangs["end"].release()
            until("it takes the result back", lambda: bool(gangs["end"].paused))
            until("it has just begun", lambda: bool(gangs["starting"].paused), 60)
        else:
            until("its Job is there", lambda: gangs["starting"].detail != "absent", 60)
            gangs["end"].release()
        for gang in gangs.values():
            gang.seen = gang.detail
        since = time.monotonic()
        _strike(installation, part, list(gangs.values()))
        for gang in gangs.values():
            gang.release()
        return [gangs[moment].result(part, moment, witness, since) for moment in MOMENTS]


def _at_moments(installation: Installation, part: str) -> dict[str, Gang]:
    found = {}
    for moment in MOMENTS:
        name = f"{_word(part)}-{_word(moment)}"
        pause = ("finish" if moment == "end" else "defer") if part == "worker" else None
        found[moment] = Gang(installation, name, name, pause, placed=moment != "pending")
    return found


def _strike(installation: Installation, part: str, gangs: Sequence[Gang]) -> None:
    if part == "worker":
        for pid in (pid for gang in gangs for pid in gang.paused):
            with suppress(psutil.NoSuchProcess):
                psutil.Process(pid).send_signal(signal.SIGKILL)
    elif part.startswith("kube"):
        installation.bed.ctl("stop", part, SIG="KILL")
        time.sleep(_DOWN)
        installation.bed.ctl("start", part)
        until("the cluster answers", lambda: installation.bed.answers())
    else:
        installation.parts.kill({"airflow's API server": "airflow-api-server"}.get(part, f"airflow-{part}"))


def acts_round(installation: Installation, acts: Sequence[str]) -> list[Result]:
    """Do what people and bad luck do to tasks and gangs, each to a gang at its first step."""
    gangs = {act: _for_act(installation, act) for act in acts}
    second = Gang(installation, "two-again", "two-tries-at-once")
    with witnessed(installation.bed) as witness:
        for gang in gangs.values():
            gang.start()
        for act, gang in gangs.items():
            until(f"{act}: it trains", lambda gang=gang: gang.runs() and gang.state == "deferred", 180)
            gang.seen = gang.detail
        since = time.monotonic()
        for act, gang in gangs.items():
            _act(installation, act, gang, second)
        for act, gang in gangs.items():
            _until_it_shows(act, gang, witness, second)
            if gang.wanted == "success" and act != "task marked success":
                gang.release()
        found = [gang.result(act, "first step", witness, since) for act, gang in gangs.items()]
        if "two tries at once" in acts:
            found.append(second.result("two tries at once", "the second", witness, since))
        return found


def _for_act(installation: Installation, act: str) -> Gang:
    gang = Gang(installation, _word(act), _word(act))
    if act in ("task cleared", "Job deleted", "deferral timed out"):
        gang.most = 2
    if act == "run marked failed":
        gang.wanted = "failed"
    if act == "deferral timed out":
        gang.timeout = 20.0
    return gang


def _act(installation: Installation, act: str, gang: Gang, second: Gang) -> None:
    rest = installation.rest
    if act == "task cleared":
        rest.clear("gang", gang.run, "gang")
    elif act == "run marked failed":
        rest.mark("gang", gang.run, "failed")
    elif act == "task marked success":
        rest.mark("gang", gang.run, "success", "gang")
    elif act == "two tries at once":
        second.start()
    elif act == "Job deleted":
        installation.bed.kubectl("delete", "job", gang.name, "--wait=false")


def _until_it_shows(act: str, gang: Gang, witness: Witness, second: Gang) -> None:
    """Wait until what was done has had its effect, before the members are let go."""
    if act == "two tries at once":
        until("the second waits too", lambda: second.state == "deferred")
    elif act in ("Job deleted", "deferral timed out"):
        until(f"{act}: there is a second gang", lambda: len(witness.gangs[gang.name]) == 2)
    elif act == "task cleared":
        rest = gang.installation.rest
        until(
            "it waits again",
            lambda: rest.task("gang", gang.run, "gang")["try_number"] == 2 and gang.state == "deferred",
        )


def _word(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text.lower())


def table(results: Sequence[Result]) -> Table:
    """Return the table that is printed at the end."""
    made = Table(title="faults of gangs", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for title in (
        "fault",
        "moment",
        "the gang when struck",
        "run",
        "tries",
        "gangs",
        "at once",
        "left",
        "seconds",
        "well",
    ):
        made.add_column(title)
    for each in results:
        made.add_row(
            each.fault, each.moment, each.seen[:60], each.state, str(each.tries), str(each.gangs), str(each.at_once),
            ", ".join(each.left) or "nothing", f"{each.seconds:.0f}", "yes" if each.is_well else "NO",
        )  # fmt: skip
    return made


def rounds(asked: Sequence[str]) -> Mapping[str, Callable[[Installation], list[Result]]]:
    """Return the rounds by their names: a part each, `acts` and `more acts`."""
    every: dict[str, Callable[[Installation], list[Result]]] = {
        part: lambda place, part=part: parts_round(place, part) for part in PARTS
    }
    every["acts"] = lambda place: acts_round(place, ACTS)
    every["more acts"] = lambda place: acts_round(place, MORE_ACTS)
    return {name: play for name, play in every.items() if not asked or name in asked}


@contextmanager
def _placed() -> Iterator[Installation]:
    with started() as kube, installed(kube) as found:
        yield found


def main(asked: Sequence[str]) -> int:
    """Play the rounds, print the table and what is left at the end; return 0 if all is well."""
    console = Console(width=200)
    results: list[Result] = []
    with _placed() as installation:
        for name, play in rounds(asked).items():
            results += play(installation)
            console.print(f"{name}: {sum(each.is_well for each in results)} of {len(results)} well so far")
        console.print(table(results))
        with suppress(AssertionError):
            until("what has ended is gone", lambda: not installation.bed.left(), KEEP + 60)
        console.print(
            "kubectl get jobs,pods,services: " + (installation.bed.kubectl("get", "jobs,pods,services") or "(empty)")
        )
    return 0 if all(each.is_well for each in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
