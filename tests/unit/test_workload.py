"""The way into every workload: exit codes, the handoff back, the reason left behind."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tidegate import workload
from tidegate.errors import DataError, NeedsGpu, Retryable, Unavailable
from tidegate.handoff import Window

WINDOW = Window(start="2013-01-01", end="2013-02-01")


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("TIDEGATE_TERMINATION_LOG", str(tmp_path / "end"))
    (tmp_path / "in.json").write_text(WINDOW.to_json())
    before = signal.getsignal(signal.SIGTERM)

    def call(work):
        return workload.main(
            Window, work, ["--handoff", str(tmp_path / "in.json"), "--out", str(tmp_path / "out.json")]
        )

    yield call
    signal.signal(signal.SIGTERM, before)


def raising(error):
    def work(_task):
        raise error

    return work


def test_what_the_work_returns_is_handed_back(run, tmp_path):
    assert run(lambda task: task) == 0
    assert Window.model_validate_json((tmp_path / "out.json").read_text()) == WINDOW
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_member_that_returns_nothing_writes_nothing(run, tmp_path):
    assert run(lambda _task: None) == 0
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("error", "code"), [(DataError("few"), 65), (NeedsGpu("none"), 65), (Unavailable("away"), 75), (KeyError("x"), 70)]
)
def test_errors_become_exit_codes_and_leave_their_reason(run, tmp_path, error, code):
    assert run(raising(error)) == code
    assert type(error).__name__ in (tmp_path / "end").read_text()
    assert not (tmp_path / "out.json").exists()


def test_a_handoff_that_is_not_one_is_permanent(run, tmp_path):
    (tmp_path / "in.json").write_text('{"begin": "2013-01-01"}')
    assert run(lambda task: task) == 65


def test_sigterm_means_try_again(run, tmp_path):
    def work(_task):
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

    assert run(work) == Retryable.exit_code
    assert "SIGTERM" in (tmp_path / "end").read_text()


def test_a_log_line_is_one_line(capsys):
    workload.log("seen", text='a "b"\nc', share=0.123456789, nothing=None)
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert line.endswith('seen text="a \\"b\\"\\nc" share=0.12346\n')


def test_with_json_asked_for_a_log_line_is_an_object_that_tells_who_speaks(capsys, monkeypatch):
    monkeypatch.setenv("TIDEGATE_LOG", "json")
    monkeypatch.setattr(workload, "_always", {})
    workload.log_always(rank=1, trace_id="r1")
    workload.log("epoch 1/3", steps_done=40, loss=float("nan"), nothing=None)
    found = json.loads(capsys.readouterr().out)
    assert found.pop("at").endswith("Z")
    assert found == {"event": "epoch 1/3", "rank": 1, "trace_id": "r1", "steps_done": 40, "loss": "nan"}


def test_a_text_line_is_as_short_as_ever(capsys, monkeypatch):
    monkeypatch.setattr(workload, "_always", {"rank": 1, "trace_id": "r1"})
    workload.log("seen", rank=1)
    assert capsys.readouterr().out.endswith("Z seen rank=1\n")
