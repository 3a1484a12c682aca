"""Rollouts at a terminal: what is drawn, and that every command says what it did or why it cannot."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tidegate import rollout_cli
from tidegate.cli import app
from tidegate.clients.records import FakeLedger, Lease, Rollout
from tidegate.clients.traffic import FakeTraffic
from tidegate.errors import DataError
from tidegate.rollout import actions, show

BEGAN = datetime(2013, 4, 1, tzinfo=UTC)


def drawn(renderable) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(renderable)
    return console.export_text()


@pytest.fixture
def ledger(monkeypatch):
    found = FakeLedger()
    found.begin_rollout(
        Rollout(
            id="rollout__flights/r2", delivery="flights", champion="flights-v1", candidate="flights-v2",
            weights=(0, 10, 100), mirrors=(100, 0, 0), phase="begun", started_at=BEGAN,
        )
    )  # fmt: skip
    found.update_rollout("rollout__flights/r2", "staged", 10, stage=1)
    found.wait(12)
    monkeypatch.setattr(rollout_cli, "_cfg", lambda: None)
    monkeypatch.setattr(rollout_cli, "_ledger", lambda cfg: Listed(found))
    return found


class Listed:
    """The fake ledger with the two calls that only the real one has."""

    def __init__(self, ledger):
        self._ledger = ledger

    def __getattr__(self, name):
        return getattr(self._ledger, name)

    def rollouts(self, delivery=None, limit=20):
        return self._ledger.rollouts(delivery or "flights", limit)

    def events(self, delivery, rollout_id=None):
        return []


def call(*words):
    return CliRunner().invoke(app, words, env={"COLUMNS": "200"})


def test_an_open_rollout_shows_its_stage_its_holder_and_its_deadline(ledger):
    lease = Lease(delivery="flights", holder="run", fence=3, expires_at=BEGAN + timedelta(hours=1), remaining_s=9.0)
    text = drawn(show.detail(ledger.rollout("rollout__flights/r2"), lease, []))
    assert "flights-v2 beside flights-v1: staged at 10%, 12 s" in text
    assert "lease of run, fence 3, 9 s left; deadline in 3588 s" in text
    assert "○ mirror 100%" in text
    assert "● 10%" in text
    assert "○ bake" in text


def test_a_rollout_that_nobody_holds_says_what_happens(ledger):
    text = drawn(show.detail(ledger.rollout("rollout__flights/r2"), None, []))
    assert "nobody holds the lease: the traffic goes back by itself" in text


def test_rollouts_are_listed_as_a_table_and_as_json(ledger):
    assert "staged at 10%" in call("rollouts").output
    (one,) = json.loads(call("rollouts", "--json").output)
    assert one["candidate"] == "flights-v2"


@pytest.mark.parametrize("which", ["rollout__flights/r2", "r2", "flights", "flights-v2"])
def test_a_rollout_is_found_by_id_its_end_its_delivery_or_its_version(ledger, which):
    assert json.loads(call("rollouts", "show", which, "--json").output)["rollout"]["id"] == "rollout__flights/r2"


def test_an_unknown_rollout_is_named_with_the_remedy(ledger):
    told = call("rollouts", "show", "nowhere")
    assert told.exit_code == DataError.exit_code


def test_pause_resume_and_promote_are_on_record_with_who_asked(ledger):
    assert "no stage passes until `tidegate resume`" in call("pause", "flights").output
    assert "at a terminal" in ledger.rollout("rollout__flights/r2").paused_by
    assert "paused by" in call("rollouts").output
    assert "goes on" in call("resume", "flights").output
    assert ledger.rollout("rollout__flights/r2").paused_by is None
    assert "an alarm still takes it back" in call("promote", "flights").output
    assert "at a terminal" in ledger.rollout("rollout__flights/r2").promote_by


def test_there_is_nothing_to_pause_where_no_rollout_is_open(ledger):
    ledger.update_rollout("rollout__flights/r2", "rolled_back", 0, "rolled_back")
    assert call("pause", "flights").exit_code == DataError.exit_code


def test_an_abort_by_hand_moves_the_traffic_at_once_and_twice_changes_nothing(ledger, monkeypatch):
    from tidegate.stack import hands as at_hand

    traffic = FakeTraffic()
    for number in (1, 2):
        traffic.route("flights", f"flights-v{number}", f"127.0.0.1:{number}")
    split = traffic.write(
        "flights", {"flights-v1": 90, "flights-v2": 10}, champion="flights-v1", expected=2, fence=1, cause="test"
    )
    made = actions.Hands(ledger, traffic, traffic, None, None, lambda *_: None)
    monkeypatch.setattr(at_hand, "hands", lambda cfg, name: made)
    for _ in range(2):
        assert "flights-v1 has all traffic; flights-v2 has none" in call("abort", "flights").output
    after = traffic.read("flights")
    assert after.weights == {"flights-v1": 100, "flights-v2": 0}
    assert after.fence > split.fence
