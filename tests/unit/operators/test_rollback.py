"""A rollback that an alert asks for: about its candidate, or about nothing."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from operators import rollback
from operators.rollback import RollbackOperator
from tidegate.clients.records import FakeLedger, Rollout
from tidegate.clients.traffic import FakeTraffic


@pytest.fixture
def hands(monkeypatch):
    made = SimpleNamespace(ledger=FakeLedger(), traffic=FakeTraffic())
    for number in (1, 2):
        made.traffic.route("flights", f"flights-v{number}", f"127.0.0.1:{number}")
    made.traffic.write("flights", {"flights-v1": 100}, champion="flights-v1", expected=2, fence=1)
    monkeypatch.setattr(rollback, "the_hands", lambda delivery: made)
    return made


@pytest.fixture
def asked(monkeypatch):
    from tidegate.rollout import actions

    calls = []

    def called(*arguments, **_):
        calls.append(arguments[1])
        return SimpleNamespace(sentence="done", model_dump=lambda mode: {"outcome": "rolled_back"})

    monkeypatch.setattr(actions, "rollback", called)
    return calls


def begun(candidate, phase):
    return Rollout(
        id="r", delivery="flights", champion="flights-v1", candidate=candidate, weights=(10, 100), phase=phase,
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip


def run(**params):
    context = {"params": params, "dag_run": SimpleNamespace(dag_id="rollback__flights", run_id="alert__1")}
    return RollbackOperator(task_id="rollback", delivery="flights").execute(context)["outcome"]


def test_an_alert_about_a_candidate_with_traffic_rolls_it_back_without_the_ledger_being_asked(hands, asked):
    hands.traffic.write(
        "flights", {"flights-v1": 90, "flights-v2": 10}, champion="flights-v1", expected=3, fence=1, cause="test"
    )
    hands.ledger.away = RuntimeError("must not be asked")
    assert run(candidate="flights-v2") == "rolled_back"
    assert asked == ["flights"]


def test_a_retry_goes_on_after_the_traffic_has_gone_back(hands, asked):
    hands.ledger.begin_rollout(begun("flights-v2", "aborted"))
    assert run(candidate="flights-v2") == "rolled_back"


@pytest.mark.parametrize("late", ["flights-v1", "flights-v2", "flights-v9"])
def test_an_alert_that_comes_late_touches_neither_the_champion_nor_another_candidate(hands, asked, late):
    assert run(candidate=late) == "nothing"
    hands.ledger.begin_rollout(begun("flights-v3", "staged"))
    assert run(candidate=late) == "nothing"
    assert asked == []


def test_a_person_need_not_name_a_candidate(hands, asked):
    assert run(candidate=None) == "rolled_back"
