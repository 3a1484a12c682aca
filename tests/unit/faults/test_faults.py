"""What the faults' own measure counts, and which cases there are: judged without any stack."""

from __future__ import annotations

import pytest

from tests.faults import cases
from tests.faults.__main__ import chosen
from tests.faults.agreement import _last_change
from tests.faults.callers import Outage, tally
from tidegate.clients.records import Event
from tidegate.gate.load import Answer
from tidegate.units import utc

GOOD = Answer(10.0, 0.01, 200, "flights-v1", True)


@pytest.mark.parametrize(
    ("answer", "counted"),
    [
        (Answer(12.0, 0.01, 503, "flights-v2", False), "failed_by_fault"),  # its server was dead
        (Answer(10.9, 0.30, 503, "flights-v2", False), "failed_by_fault"),  # on its way when the server died
        (Answer(12.0, 0.01, 503, "flights-v1", False), "failed_by_switching"),  # the other one was well
        (Answer(15.1, 0.01, 503, "flights-v2", False), "failed_by_switching"),  # it was back by then
        (Answer(12.0, 0.01, 404, None, False), "failed_by_switching"),  # no route
        (Answer(12.0, 5.00, 0, None, False), "failed_by_switching"),  # no answer, and the proxy was well
        (Answer(12.0, 0.01, 500, "flights-v2", True), "failed_in_model"),  # its own server said so
    ],
)
def test_a_failure_counts_against_whoever_caused_it(answer: Answer, counted: str) -> None:
    seen = tally([GOOD, answer], [Outage(11.0, 15.0, "flights-v2")])
    figures = {name: getattr(seen, name) for name in ("failed_by_fault", "failed_by_switching", "failed_in_model")}
    assert figures == {name: int(name == counted) for name in figures}
    assert (seen.requests, seen.last_failure_at) == (2, pytest.approx(answer.scheduled_at + answer.latency_s))


def test_a_dead_proxy_explains_no_answer_but_never_a_wrong_one() -> None:
    silent, wrong = Answer(12.0, 0.1, 0, None, False), Answer(12.0, 0.1, 503, "flights-v1", False)
    frozen, early = Answer(10.9, 11.0, 504, "flights-v1", False), Answer(10.9, 0.2, 504, "flights-v1", False)
    seen = tally([silent, wrong, frozen, early], [Outage(11.0, 22.0)])
    assert (seen.failed_by_fault, seen.failed_by_switching) == (2, 2)


def test_there_are_sixty_cases_each_under_its_own_name_and_every_part_is_killed_and_frozen() -> None:
    every = cases.every()
    assert len(every) >= 60
    assert len({case.name for case in every}) == len(every)
    parts = {*cases.PARTS, *cases.SERVERS}
    assert len(parts) == 11
    assert {(case.part, case.kind) for case in every} >= {(p, k) for p in parts for k in ("killed", "frozen")}
    assert {case.moment for case in every} >= set(cases.MOMENTS)


def test_the_same_seed_chooses_the_same_cases() -> None:
    first = [case.name for case in chosen(sample=8, seed=5)]
    assert first == [case.name for case in chosen(sample=8, seed=5)]
    assert first != [case.name for case in chosen(sample=8, seed=6)]
    assert {case.part for case in chosen(only=["mlflow"])} == {"MLflow"}


@pytest.mark.parametrize(
    ("weights", "said"),
    [({"flights-v1": 0, "flights-v2": 100}, "flights-v2"), ({"a": 90, "b": 10}, "{'a': 90, 'b': 10}")],
)
def test_the_last_change_in_the_log_is_the_newest_event_that_tells_of_traffic(
    weights: dict[str, int], said: str
) -> None:
    def event(kind: str, **detail: object) -> Event:
        at = utc("2013-01-01")
        return Event(rollout_id="r", delivery="flights", at=at, kind=kind, actor="t", fence=1, detail=detail)

    old = event("shifted", weights={"old": 100})
    assert _last_change([old, event("shifted", weights=weights), event("aliases_moved")]) == said
