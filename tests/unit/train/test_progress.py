"""Where the time of a training went, and what is told of it."""

from __future__ import annotations

import pytest

from tests.unit.train.test_tracking import TASK
from tidegate.train import progress
from tidegate.train.cluster import Place, Steps
from tidegate.train.progress import Progress, Spent


class Call:
    """As of the stepper."""

    def __init__(self, talked=0.5):
        self.steps, self.seconds, self.waited, self.talked = 10, 2.0, 0.1, talked


class Nothing:
    """A member without a GPU."""

    def read(self, step):
        return {}


class Summaries:
    """Remembers scalars."""

    def __init__(self):
        self.written = []

    def write(self, step, scalars):
        self.written.append((step, scalars))


def account(summaries=None):
    return Progress(TASK.model_copy(update={"epochs": 3}), Place(0, 2), Steps(20, 8), summaries, Nothing())


def test_shares_are_of_the_time_that_was_spent():
    spent = Spent()
    spent.add(Call())
    spent.add(Call())
    assert spent.figures(rows=16) == {"rows_per_s": 80.0, "waiting": 0.05, "communication": 0.25}


def test_where_the_exchange_cannot_be_timed_nothing_is_said_of_it():
    spent = Spent()
    spent.add(Call(talked=None))
    spent.add(Call())
    assert spent.figures(rows=16) == {"rows_per_s": 80.0, "waiting": 0.05}


def test_an_epoch_is_told_once_with_its_figures(capsys):
    summaries = Summaries()
    told = account(summaries)
    told.count(10, Call(), 0.7)
    told.count(20, Call(), 0.6)
    told.end_epoch(20, {"loss": 0.65, "auc": 0.8})
    line = capsys.readouterr().out
    assert "epoch 1/3 rank=0 steps_done=20 loss=0.65 auc=0.8 rows_per_s=80 waiting=0.05 communication=0.25" in line
    assert told.epochs[0].figures["train_auc"] == 0.8
    ((step, scalars),) = summaries.written
    assert step == 20
    assert scalars["epochs/waiting"] == pytest.approx(0.05)


def test_an_epoch_that_was_broken_off_goes_on_with_what_it_had_spent():
    first = account()
    first.count(10, Call(), 0.7)
    again = account()
    again.resume(first.about())
    again.count(20, Call(), 0.6)
    again.end_epoch(20, {"loss": 0.65})
    assert again.epochs[0].figures["rows_per_s"] == 80.0


def test_within_an_epoch_the_chief_tells_where_it_is_once_in_a_while(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    summaries = Summaries()
    told = account(summaries)
    for step in (5, 10, 15, 25):
        now[0] += 6.0
        told.count(step, Call(), 0.7)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" ")[2] for line in lines] == [
        "epoch 1/3 step 10/20 steps_done=10 loss=0.7 rows_per_s=80 waiting=0.05 communication=0.25",
        "epoch 2/3 step 5/20 steps_done=25 loss=0.7 rows_per_s=80 waiting=0.05 communication=0.25",
    ]
    assert [step for step, _ in summaries.written] == [10, 25]
