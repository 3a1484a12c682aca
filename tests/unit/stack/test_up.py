"""In which order services start, and what happens when one does not."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from tidegate.errors import SetupError, Unavailable
from tidegate.stack import up
from tidegate.stack.config import StackConfig
from tidegate.stack.service import Service
from tidegate.stack.supervision import Program, State


class FakeSupervision:
    """Programs are in the state that the test says, as soon as they are added."""

    def __init__(self, state: str = "RUNNING"):
        self.state = state
        self.added: list[str] = []

    def add(self, program: Program) -> None:
        self.added.append(program.name)

    def states(self) -> dict[str, State]:
        return {name: State(name, self.state, 1, 0, "") for name in self.added}


@pytest.fixture
def cfg(tmp_path: Path) -> StackConfig:
    return StackConfig.load(tmp_path / "var")


def service(cfg: StackConfig, name: str, *needs: str, **changes: Any) -> Service:
    made = Program(name, ("true",), cfg.paths.var, cfg.paths.logs / f"{name}.log")
    return Service(name, lambda: "1", needs=needs, program=lambda: made, **changes)


def run(cfg: StackConfig, fake: FakeSupervision, *every: Service) -> tuple[list[up.Started], list[tuple[str, str]]]:
    told: list[tuple[str, str]] = []
    control: Any = fake
    return up._Run(cfg, control, lambda name, phase: told.append((name, phase)), 0.0).all(every), told


def test_a_service_starts_only_when_what_it_needs_is_ready_and_finished(cfg: StackConfig) -> None:
    order: list[str] = []
    first = service(cfg, "first", after=lambda: order.append("databases made"))
    second = service(cfg, "second", "first", before=lambda: order.append("second"))
    started, told = run(cfg, FakeSupervision(), first, second)
    assert order == ["databases made", "second"]
    assert [one.name for one in started] == ["first", "second"]
    assert told.index(("first", "ready")) < told.index(("second", "starting"))


def test_services_that_need_nothing_start_at_once_together(cfg: StackConfig) -> None:
    together = threading.Barrier(2, timeout=5)
    run(cfg, FakeSupervision(), *(service(cfg, name, before=lambda: together.wait() and None) for name in "ab"))
    assert not together.broken


def test_a_service_that_ends_again_and_again_is_told_with_its_log(cfg: StackConfig) -> None:
    cfg.paths.logs.mkdir()
    (cfg.paths.logs / "kafka.log").write_text("first\nno space left\n")
    with pytest.raises(Unavailable, match=r"(?s)kafka ended at once.*no space left"):
        run(cfg, FakeSupervision("FATAL"), service(cfg, "kafka"))


def test_a_service_that_never_gets_ready_is_told_with_its_time_out(cfg: StackConfig) -> None:
    with pytest.raises(Unavailable, match=r"kafka was not ready within 0\.1 s"):
        run(cfg, FakeSupervision(), service(cfg, "kafka", ready=lambda _: False, timeout_s=0.1))


def test_the_cause_is_raised_not_its_consequences_and_nothing_more_starts(cfg: StackConfig) -> None:
    def fail() -> None:
        raise SetupError("the disk is full")

    fake = FakeSupervision()
    with pytest.raises(SetupError, match="the disk is full"):
        run(
            cfg,
            fake,
            service(cfg, "postgres", before=fail),
            service(cfg, "airflow", "postgres"),
            service(cfg, "slow", ready=lambda _: False, timeout_s=60),
        )
    assert "airflow" not in fake.added


def test_what_ran_already_keeps_its_own_times(cfg: StackConfig) -> None:
    whole = up.UpReport(60.0, (up.Started("kafka", "4", 5.0, 6.0), up.Started("envoy", "1", 1.0, 2.0)))
    up._remember(cfg, whole, running=set())
    again = up.UpReport(1.0, (up.Started("kafka", "4", 0.1, 0.2), up.Started("envoy", "1", 0.7, 0.8)))
    up._remember(cfg, again, running={"kafka"})
    kept = up.remembered(cfg)
    assert kept is not None
    assert kept.wall_s == 60.0
    assert {one.name: one.ready_s for one in kept.services} == {"kafka": 5.0, "envoy": 0.7}
