"""The faults themselves: each is struck on entering, and lifted on leaving, its context."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.faults import stand_ins
from tests.faults.callers import Outage
from tests.faults.moments import Sight, await_moment
from tests.faults.parts import PARTS, SERVERS, wait_until
from tests.faults.place import DELIVERY, LEASE_S, Place, fill
from tidegate.delivery import delivery_named
from tidegate.errors import TidegateError
from tidegate.rollout import actions
from tidegate.stack import services

FREEZE_S = LEASE_S + 3.0
HOLD_S = 100.0
FULL_S = 20.0
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
_BACK_S = 60.0
_SLACK_S = 0.5


@dataclass
class Scene:
    """One case under way."""

    place: Place
    champion: str
    candidate: str
    sight: Sight
    outages: list[Outage] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    """What the fault itself saw that must not be."""

    def program(self, part: str) -> str:
        """Return the supervised program of a part."""
        servers = {"champion's server": f"triton-{self.champion}", "candidate's server": f"triton-{self.candidate}"}
        return servers.get(part) or PARTS[part]

    def outcome(self) -> str | None:
        """Return how the rollout ended, or None while it is open (or nobody can say)."""
        with suppress(TidegateError):
            known = self.place.ledger.rollout(self.sight.rollout_id)
            return known.outcome if known else None
        return None

    def hold(self, seconds: float = HOLD_S) -> None:
        """Let a fault last until the rollout is over."""
        wait_until(lambda: self.outcome() is not None, seconds, 0.3)


Fault = Callable[[Scene], AbstractContextManager[None]]


def kill(part: str) -> Fault:
    """Kill a part with SIGKILL; the supervisor starts it again."""

    @contextmanager
    def struck(scene: Scene) -> Iterator[None]:
        at = time.time()
        if not scene.place.parts.kill(scene.program(part)):
            scene.complaints.append(f"{part} did not run, so it could not be killed")
        wait_until(lambda: _back(scene, part), _BACK_S)
        scene.outages += _outage(scene, part, at)
        yield

    return struck


def freeze(part: str) -> Fault:
    """Stop a part where it stands (SIGSTOP) for longer than the lease lasts, then let it go on (SIGCONT)."""

    @contextmanager
    def struck(scene: Scene) -> Iterator[None]:
        at = time.time()
        if not scene.place.parts.freeze(scene.program(part)):
            scene.complaints.append(f"{part} did not run, so it could not be frozen")
        try:
            time.sleep(FREEZE_S)  # the fault's own length
        finally:
            scene.place.parts.thaw()
        wait_until(lambda: _back(scene, part), _BACK_S)
        scene.outages += _outage(scene, part, at)
        yield

    return struck


def kill_again_and_again(part: str) -> Fault:
    """Kill a part whenever it runs, until the rollout is over."""

    @contextmanager
    def struck(scene: Scene) -> Iterator[None]:
        at = time.time()
        until = time.monotonic() + HOLD_S
        while scene.outcome() is None and time.monotonic() < until:
            scene.place.parts.kill(scene.program(part))
            time.sleep(1.0)
        scene.outages += _outage(scene, part, at)
        yield

    return struck


def prometheus(kind: str) -> Fault:
    """Put a Prometheus in the real one's place that answers stale, nan or 500, until the rollout is over."""

    @contextmanager
    def struck(scene: Scene) -> Iterator[None]:
        url, control = scene.place.cfg.url("prometheus"), scene.place.parts.control
        kept = stand_ins.samples(url, [scene.champion, scene.candidate])
        control.stop("prometheus")
        with stand_ins.serving(scene.place.cfg.ports["prometheus"], stand_ins.prometheus(kind, kept)):
            scene.hold()
        control.restart("prometheus")
        yield

    return struck


def candidate(kind: str) -> Fault:
    """Put a server in the candidate's place that answers slow, with 500, or closes connections."""

    @contextmanager
    def struck(scene: Scene) -> Iterator[None]:
        at, endpoint = time.time(), scene.place.hands.servers.endpoints()[scene.candidate]
        scene.place.parts.control.stop(f"triton-{scene.candidate}")
        with stand_ins.serving(endpoint.port, stand_ins.model_server(kind)):
            scene.hold()
        scene.outages += _outage(scene, "candidate's server", at)
        yield

    return struck


def clock_off(part: str) -> Fault:
    """Start a part anew with a clock that is an hour ahead, by libfaketime, until the rollout is over."""

    @contextmanager
    def struck(scene: Scene) -> Iterator[None]:
        control, program = scene.place.parts.control, _program_of(scene, part)
        ahead = {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME": "+3600s",
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        control.add(replace(program, env={**program.env, **ahead}))
        try:
            if not wait_until(lambda: _back(scene, part), _BACK_S):
                scene.complaints.append(f"{part} does not serve with its clock an hour ahead")
            yield
        finally:
            control.add(program)

    return struck


def disk_full(which: str) -> Fault:
    """Fill the disk under the serving folder, or under the traffic's record, for a while."""

    @contextmanager
    def struck(scene: Scene) -> Iterator[None]:
        paths = scene.place.cfg.paths
        folder = {"serving": paths.serving, "traffic": paths.xds.parent}[which]
        filler = fill(folder)
        try:
            if which == "traffic":
                scene.hold(FULL_S)
            else:
                yield
                return
        finally:
            filler.unlink()
        yield

    return struck


def second_rollout() -> Fault:
    """Start a second rollout, by Airflow and straight at the ledger, while the first has its candidate on trial."""

    @contextmanager
    def struck(scene: Scene) -> Iterator[None]:
        place = scene.place
        other = place.new_version()
        name, run_id = f"{DELIVERY}-v{other}", f"second-{other}"
        place.airflow.trigger(f"rollout__{DELIVERY}", {"version": other}, run_id)
        at = time.time()
        spec = delivery_named(DELIVERY).rollout
        try:
            actions.begin(place.hands, DELIVERY, name, f"by-hand-{other}", f"by-hand-{other}", spec, "a person")
            scene.complaints.append("a second rollout took the lease beside the first")
        except TidegateError as refused:
            said = type(refused).__name__
            if said not in ("LeaseLost", "Conflict"):
                scene.complaints.append(f"the second rollout was refused with {said}, not with LeaseLost: {refused}")
        wait_until(lambda: {"baking", "rolled_back"} & scene.sight.kinds() != set(), HOLD_S, 0.3)
        end_run(place, f"rollout__{DELIVERY}", run_id)
        if any(answer.version == name for answer in place.callers.between(at, time.time())):
            scene.complaints.append(f"{name} of the second rollout had traffic while the first was under way")
        yield

    return struck


def edit_routes() -> Fault:
    """Edit the weights in the file that Envoy reads, as a hand would: the candidate gets 90%."""

    @contextmanager
    def struck(scene: Scene) -> Iterator[None]:
        target = scene.place.cfg.paths.xds / "rds.yaml"
        content = json.loads(target.read_text(encoding="utf-8"))
        for share in _shares(content):
            share["weight"] = 90 if share["name"] == scene.candidate else 10
        _put(target, content)
        yield

    return struck


def edit_record() -> Fault:
    """Edit the weights in the traffic's own record, state.json: the candidate gets 60%."""

    @contextmanager
    def struck(scene: Scene) -> Iterator[None]:
        target = scene.place.cfg.paths.xds.parent / "traffic" / "state.json"
        content = json.loads(target.read_text(encoding="utf-8"))
        content[DELIVERY]["weights"] |= {scene.candidate: 60, scene.champion: 40}
        _put(target, content)
        yield

    return struck


@contextmanager
def nothing(scene: Scene) -> Iterator[None]:
    """Strike nothing: the fault lies in the candidate's bundle."""
    yield


def make_candidate_fail(scene: Scene) -> None:
    """Kill the candidate's server again and again, so that callers see 503, until the judge has taken its traffic."""
    at, until = time.time(), time.monotonic() + HOLD_S
    while time.monotonic() < until:
        scene.place.parts.kill(f"triton-{scene.candidate}")
        if await_moment(scene.sight, "aborting", 0.5):
            break
    scene.outages.append(Outage(at, time.time() + _SLACK_S, scene.candidate))


def end_run(place: Place, dag_id: str, run_id: str) -> None:
    """Mark a DAG run as failed, as a person may in Airflow's UI; what it has running is ended."""
    place.airflow._call("PATCH", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}", json={"state": "failed"})


def _back(scene: Scene, part: str) -> bool:
    """Whether a part serves again, or is no longer wanted: a version's server that was retired."""
    program, parts = scene.program(part), scene.place.parts
    if not program.startswith("triton-"):
        return parts.serves(program)
    name = program.removeprefix("triton-")
    return program not in parts.control.states() or scene.place.hands.servers.ready(name)


def _outage(scene: Scene, part: str, at: float) -> list[Outage]:
    if part == "Envoy":
        return [Outage(at, time.time() + _SLACK_S)]
    if part in SERVERS:
        return [Outage(at, time.time() + _SLACK_S, scene.program(part).removeprefix("triton-"))]
    return []


def _program_of(scene: Scene, part: str) -> Any:
    (service,) = [one for one in services.every(scene.place.cfg) if one.name == PARTS[part]]
    assert service.program is not None
    return service.program()


def _shares(table: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for resource in table["resources"]:
        for host in resource["virtual_hosts"]:
            for route in host["routes"]:
                yield from route.get("route", {}).get("weighted_clusters", {}).get("clusters", [])


def _put(target: Path, content: Any) -> None:
    aside = target.with_name(f".{target.name}.edited")
    aside.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
    os.replace(aside, target)
