"""All cases: each part killed and frozen at moments of a rollout, and the other ways in which things go wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.faults import faults
from tests.faults.faults import FAKETIME, Fault
from tests.faults.moments import MOMENTS, WAY_BACK
from tests.faults.parts import PARTS, SERVERS
from tests.faults.place import Place

BEFORE = "before the rollout"
ROLLED_BACK = ("rolled_back",)
EITHER = ("promoted", "rolled_back")


@dataclass(frozen=True)
class Case:
    """One fault at one moment, and what must have come of the rollout."""

    name: str
    part: str
    kind: str
    """killed, frozen, or what else was done."""
    moment: str
    fault: Fault
    outcomes: tuple[str, ...] = EITHER
    bundle: str = "good"
    gets_traffic: bool = True
    """False: not one request may reach the candidate."""
    possible: Callable[[Place], str] = lambda _: ""
    """Why it cannot be tried here; empty if it can."""

    @property
    def fails_first(self) -> bool:
        """Whether the candidate is made to fail, so that there is a way back to strike at."""
        return self.moment in WAY_BACK


# (moments at which it is killed, at which it is frozen): all where the part takes part in what happens then, some
# where it does not
_STRUCK_AT = {
    "scheduler": (("lease taken", "judging", "promoting"), ("change to 10%", "rolling back")),
    "triggerer": (("judging", "baking"), ("judging", "change to 100%")),
    "dag-processor": (("change to 50%",), ("lease taken",)),
    "api-server": (("candidate loading", "promoting"), ("judging", "aborting")),
    "Postgres": (
        ("lease taken", "change to 10%", "judging", "promoting", "rolling back"),
        ("judging", "baking", "aborting"),
    ),
    "Prometheus": (("judging", "aborting"), ("judging", "change to 100%")),
    "Envoy": (("change to 10%", "judging", "promoting", "rolling back"), ("change to 50%", "aborting")),
    "champion's server": (("judging", "change to 100%"), ("change to 10%", "rolling back")),
    "candidate's server": (
        ("candidate loading", "change to 50%", "baking"),
        ("candidate loading", "change to 10%", "promoting"),
    ),
    "guard": (("judging", "aborting"), ("change to 10%",)),
    "MLflow": (("promoting", "rolling back"), ("promoting",)),
}
_STRIKES = {"killed": faults.kill, "frozen": faults.freeze}


def struck(part: str, kind: str, moment: str) -> Case:
    """Return the case of a part killed or frozen at a moment."""
    return Case(f"{part} {kind}, {moment}", part, kind, moment, _STRIKES[kind](part))


def every() -> list[Case]:
    """Return the cases that are run; those of one part are spread over the list, so that its beginning is diverse."""
    by_part = [
        [struck(part, kind, moment) for kind, moments in zip(_STRIKES, both, strict=True) for moment in moments]
        for part, both in _STRUCK_AT.items()
    ]
    rounds = [[cases[n] for cases in by_part if n < len(cases)] for n in range(max(map(len, by_part)))]
    return [*rounds[0], *others(), *(case for later in rounds[1:] for case in later)]


def matrix() -> list[Case]:
    """Return every part killed and frozen at every moment, and the others: some hours."""
    parts = (*PARTS, *SERVERS)
    return [struck(part, kind, moment) for part in parts for kind in _STRIKES for moment in MOMENTS] + others()


def others() -> list[Case]:
    """Return the cases that are neither kill nor freeze."""
    watched = "judging"
    return [
        Case("two rollouts at once", "Airflow", "second started", watched, faults.second_rollout()),
        Case("weights edited in Envoy's file", "Envoy", "edited", watched, faults.edit_routes()),
        Case("weights edited in the traffic's record", "record", "edited", watched, faults.edit_record(), ROLLED_BACK),
        *(
            Case(f"Prometheus answers {what}", "Prometheus", what, watched, faults.prometheus(kind), ROLLED_BACK)
            for kind, what in (("stale", "stale data"), ("nan", "NaN"), ("500", "HTTP 500"))
        ),
        *(
            Case(f"candidate {what}", "candidate's server", what, watched, faults.candidate(kind), ROLLED_BACK)
            for kind, what in (
                ("slow", "answers slowly"),
                ("500", "answers 500"),
                ("closing", "closes connections"),
            )
        ),
        Case(
            "candidate dies again and again", "candidate's server", "killed again and again", watched,
            faults.kill_again_and_again("candidate's server"), ROLLED_BACK,
        ),
        Case(
            "candidate answers wrongly", "bundle", "wrong answers", BEFORE, faults.nothing, ROLLED_BACK,
            bundle="wrong", gets_traffic=False,
        ),
        Case(
            "candidate answers NaN", "bundle", "NaN", BEFORE, faults.nothing, ROLLED_BACK,
            bundle="nan", gets_traffic=False,
        ),
        Case(
            "disk full below the serving folder", "disk", "full", BEFORE, faults.disk_full("serving"), ROLLED_BACK,
            gets_traffic=False, possible=_has_small_disks,
        ),
        Case(
            "disk full below the traffic's record", "disk", "full", watched, faults.disk_full("traffic"),
            possible=_has_small_disks,
        ),
        *(
            Case(
                f"clock of the {part} an hour ahead", part, "clock off", BEFORE, faults.clock_off(part),
                possible=_has_faketime,
            )
            for part in ("guard", "triggerer", "scheduler")
        ),
    ]  # fmt: skip


def _has_small_disks(place: Place) -> str:
    return "" if place.disks else "this user may not mount a small disk (tmpfs)"


def _has_faketime(_: Place) -> str:
    return "" if FAKETIME.exists() else "libfaketime is not installed (Debian: faketime)"
