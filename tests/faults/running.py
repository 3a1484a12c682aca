"""Runs one case: a rollout through Airflow, the fault at its moment, what production has come to; then clears up."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx

from tests.faults import agreement, faults
from tests.faults.callers import Tally, tally
from tests.faults.cases import BEFORE, Case
from tests.faults.faults import Scene, end_run
from tests.faults.moments import Sight, await_moment
from tests.faults.parts import wait_until
from tests.faults.place import DELIVERY, Place
from tidegate.clients.records import open_of
from tidegate.errors import TidegateError
from tidegate.rollout import actions

ROLLOUT, ROLLBACK = f"rollout__{DELIVERY}", f"rollback__{DELIVERY}"
MOMENT_S, LIMIT_S = 120.0, 240.0
BEFORE_S = 60.0
"""How long a fault that was there before the rollout is given to be got over; then it is lifted."""
STEADY_S = 2.5
_LOOK_S = 0.4
_RUN_ENDS_S = 10.0


@dataclass
class Result:
    """What came of a case."""

    name: str
    part: str
    kind: str
    moment: str
    passed: bool = False
    skipped: str = ""
    """Why it was not tried."""
    failed_by_switching: int = 0
    failed_by_fault: int = 0
    """While the struck part was dead and nobody could have answered."""
    failed_in_model: int = 0
    requests: int = 0
    recovered_s: float | None = None
    """From the fault until callers had one healthy version, all records agreed and the rollout was over."""
    one_version_s: float | None = None
    """From the fault to the last answer of another version than the final one."""
    callers_s: float | None = None
    """From the fault to the end of the last failed answer; 0 if none failed."""
    outcome: str | None = None
    by: str = ""
    """Who gave the champion its traffic back, or promoted."""
    seconds: float = 0.0
    final: dict[str, Any] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    """Why it did not pass."""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return asdict(self)


def run(place: Place, case: Case) -> Result:
    """Run a case to its end and clear up after it."""
    result = Result(case.name, case.part, case.kind, case.moment)
    result.skipped = case.possible(place)
    if result.skipped:
        return result
    begun = time.time()
    sight: Sight | None = None
    try:
        version = place.new_version(case.bundle)
        run_id = f"{re.sub('[^a-z0-9]+', '-', case.name.lower()).strip('-')}-v{version}"
        sight = Sight(place, f"{ROLLOUT}/{run_id}", f"{DELIVERY}-v{version}")
        scene = Scene(place, place.traffic.read(DELIVERY).champion or "", sight.candidate, sight)
        _play(case, scene, run_id, result)
    except Exception as error:  # whatever it is, the other cases go on
        result.reasons.append(f"the case itself failed: {type(error).__name__}: {error}")
    finally:
        result.reasons += clear_up(place, sight)
    result.passed = not result.reasons
    result.seconds = round(time.time() - begun, 1)
    return result


def _play(case: Case, scene: Scene, run_id: str, result: Result) -> None:
    place, begun = scene.place, time.time()
    with ExitStack() as stack:
        struck_at = begun
        if case.moment == BEFORE:
            stack.enter_context(case.fault(scene))
        place.airflow.trigger(ROLLOUT, {"version": int(scene.candidate.rpartition("-v")[2])}, run_id)
        if case.moment != BEFORE:
            if case.fails_first and await_moment(scene.sight, "judging", MOMENT_S):
                faults.make_candidate_fail(scene)
            if not await_moment(scene.sight, case.moment, MOMENT_S):
                result.reasons.append(f"the moment did not come: {case.moment}")
            struck_at = time.time()
            stack.enter_context(case.fault(scene))
        final, settled_at = _settle(scene, LIMIT_S if case.moment != BEFORE else BEFORE_S)
    if case.moment == BEFORE:
        final, settled_at = _settle(scene, LIMIT_S)
    _measure(case, scene, result, final, begun, struck_at, settled_at)


def _settle(scene: Scene, limit_s: float) -> tuple[agreement.Final, float]:
    """Return what all say once they have agreed for a while, and since when; or what they say when time is up."""
    deadline, since = time.monotonic() + limit_s, 0.0
    while True:
        seen_at = time.time()
        final = agreement.look(scene.place, scene.sight.rollout_id)
        since = (since or seen_at) if final.agreed else 0.0
        if since and time.time() - since >= STEADY_S:
            return final, since
        if time.monotonic() > deadline:
            return final, 0.0
        time.sleep(_LOOK_S)


def _measure(
    case: Case, scene: Scene, result: Result, final: agreement.Final, begun: float, struck_at: float, settled_at: float
) -> None:
    place = scene.place
    answers = place.callers.between(begun, settled_at or time.time())
    seen: Tally = tally(answers, scene.outages)
    result.requests, result.failed_in_model = seen.requests, seen.failed_in_model
    result.failed_by_switching, result.failed_by_fault = seen.failed_by_switching, seen.failed_by_fault
    result.final = final.said
    result.outcome = final.said.get("outcome")
    result.callers_s = round(max(seen.last_failure_at - struck_at, 0.0), 1)
    champion = final.said.get("champion")
    others = [a.scheduled_at + a.latency_s for a in answers if a.version and a.version != champion]
    result.one_version_s = round(max([0.0, *(at - struck_at for at in others)]), 1)
    if settled_at:
        result.recovered_s = round(max(settled_at - struck_at, result.one_version_s), 1)
    else:
        result.reasons += [f"after {LIMIT_S:.0f} s: {each}" for each in final.disagreements]
    if seen.failed_by_switching:
        result.reasons += [f"{seen.failed_by_switching} requests failed by switching", *seen.examples]
    if result.outcome not in case.outcomes:
        result.reasons.append(f"the rollout was {result.outcome}, not {' or '.join(case.outcomes)}")
    if not case.gets_traffic and any(answer.version == scene.candidate for answer in answers):
        result.reasons.append(f"{scene.candidate} had traffic")
    result.reasons += scene.complaints
    with suppress(TidegateError):
        events = place.ledger.events(DELIVERY, scene.sight.rollout_id)
        deciders = [event for event in place.ledger.events(DELIVERY) if event.at >= events[0].at] if events else []
        result.by = next((e.actor for e in deciders if e.kind in ("aborted", "promoted", "rolled_back")), "")


def clear_up(place: Place, sight: Sight | None) -> list[str]:
    """Bring the stack back to one champion and nothing under way; return what could not be mended."""
    place.parts.thaw()
    problems = [f"{name} does not serve, even after a restart" for name in place.parts.await_all()]
    with suppress(TidegateError, httpx.HTTPError):
        for dag_id in (ROLLOUT, ROLLBACK):
            _end_runs(place, dag_id)
    problems += _close_rollouts(place)
    if not place.callers.alive:
        problems.append("the callers have stopped")
    champion = place.traffic.read(DELIVERY).champion or ""
    if not wait_until(lambda: place.hands.servers.ready(champion), 60):
        problems.append(f"the server of {champion} does not answer")
    return problems


def _end_runs(place: Place, dag_id: str) -> None:
    """Wait for a DAG's runs to end by themselves, then end them."""
    running = [run for run in place.airflow.runs(dag_id)[:5] if not run.ended]
    for run in running:
        ended = wait_until(lambda run=run: place.airflow.run(dag_id, run.run_id).ended, _RUN_ENDS_S, 0.5)
        if not ended:
            end_run(place, dag_id, run.run_id)


def _close_rollouts(place: Place) -> list[str]:
    """Roll back what is still open, by hand."""
    problems: list[str] = []
    for _ in range(5):
        with suppress(TidegateError):
            left = open_of(place.ledger.rollouts(DELIVERY))
            if left is None:
                place.traffic.confirm(DELIVERY, place.traffic.read(DELIVERY).weights)
                return problems
            problems.append(f"rollout {left.id} had to be rolled back by hand")
            actions.rollback(place.hands, DELIVERY, f"faults/{left.id}", "faults", "clearing up", rollout_id=left.id)
        time.sleep(2)
    return [*problems, "production could not be brought back to one version"]
