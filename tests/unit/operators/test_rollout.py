"""Between two stages nobody watches: what was passed is judged once more before the share rises."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowFailException

from operators import rollout as operators
from tests.unit.rollout import test_watch as watched
from tidegate.clients.metrics_source import FakeMetrics

staged = watched.staged  # the second version has 10%


@pytest.fixture
def look(staged, monkeypatch):
    def again(answer, age):
        hands, rollout_id, lease = staged
        hands.ledger.wait(age)
        monkeypatch.setattr(operators.clients, "connection", lambda name: None)
        monkeypatch.setattr(operators.clients, "metrics", lambda conn: FakeMetrics([answer]))
        monkeypatch.setattr(operators, "the_delivery", lambda name: SimpleNamespace(rollout=watched.SPEC))
        shift = operators.ShiftOperator(task_id="shift", delivery="flights", begin_task="begin", stage=1)
        return shift.look_again(hands, rollout_id, lease)

    return again


def test_a_candidate_that_turned_bad_after_it_passed_is_not_raised(staged, look):
    with pytest.raises(AirflowFailException, match=r"after it had passed: .*fail"):
        look(watched.seen(20, failing=15), 20.1)
    assert watched.candidates(staged) == {}


def test_a_candidate_that_is_still_good_is(staged, look):
    assert look(watched.seen(20), 20.1) is None
    assert watched.candidates(staged) == {"flights-v2": 10}
    assert staged[0].ledger.lease("flights").remaining_s == 60
