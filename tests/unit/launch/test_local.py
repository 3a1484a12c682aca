"""The local launcher, with tiny Python modules as workloads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tidegate.delivery.pods import PodsSpec
from tidegate.errors import Conflict, Permanent, Retryable, SetupError, SpecError
from tidegate.launch import State, Workload, launcher
from tidegate.launch.files import GangFiles, Process
from tidegate.launch.local import LocalLauncher

# A member that notes its pid, then does what the handoff asks of it.
MEMBER = """
    import argparse, json, os, pathlib, sys, time
    parser = argparse.ArgumentParser()
    parser.add_argument("--handoff"); parser.add_argument("--out")
    args = parser.parse_args()
    task = json.load(open(args.handoff))
    cluster = json.loads(os.environ.get("TF_CONFIG", '{"task": {"index": 0}}'))
    rank = cluster["task"]["index"]
    with open("pids", "a") as pids:
        pids.write(f"{os.getpid()}\\n")
    print(f"2026-01-01T00:00:0{rank}.000Z member {rank} is here", flush=True)
    if task.get("fail") == rank:
        pathlib.Path(os.environ["TIDEGATE_TERMINATION_LOG"]).write_text("DataError: too few rows")
        sys.exit(task.get("code", 65))
    if task.get("wait"):
        pathlib.Path(f"up-{rank}").touch()
        time.sleep(600)
    if rank == 0:
        pathlib.Path(args.out).write_text(json.dumps({"config": cluster, "variables": dict(os.environ)}))
"""


@pytest.fixture
def local(tmp_path: Path) -> LocalLauncher:
    code = tmp_path / "code"
    code.mkdir()
    (code / "member.py").write_text(textwrap.dedent(MEMBER))
    return LocalLauncher(tmp_path / "gangs", {"here": sys.executable}, {"PYTHONPATH": str(code)})


def work(name: str = "w", members: int = 1, handoff: str = "{}") -> Workload:
    return Workload(name=name, module="member", environment="here", handoff=handoff, members=members)


def ended(local: LocalLauncher, name: str = "w") -> State:
    def over() -> bool:
        return local.poll(name).phase != "running"

    until(over)
    return local.poll(name)


def until(true, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)  # the launcher's interface is polled, by its contract


def members_up(local: LocalLauncher, folder: Path, count: int) -> None:
    until(lambda: all((folder / f"up-{rank}").exists() for rank in range(count)))


def pids(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "pids").read_text().split()]


def gone(pid: int) -> bool:
    return Process.of(pid) is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "gangs" / "w"


def test_a_workload_hands_back_its_result(local):
    assert local.poll("w").phase == "absent"
    local.start(work())
    state = ended(local)
    assert state.phase == "succeeded"
    assert state.error() is None
    assert '"config"' in (state.result or "")


def test_what_pods_would_need_and_who_asked_makes_no_other_workload_of_processes(local):
    pods, origin = PodsSpec(image="train:1"), {"dag": "retrain__flights", "try": "1"}
    asked = replace(work(handoff='{"say": "hello"}'), pods=pods, origin=origin)
    local.start(asked)
    first = ended(local)
    local.start(replace(asked, origin={**origin, "try": "2"}))
    assert local.poll("w") == first


def test_only_the_try_that_asked_last_stops_a_gang(local, folder):
    first = replace(work(handoff='{"wait": true}'), origin={"run": "r1", "try": "1"})
    second = replace(first, origin={"run": "r1", "try": "2"})
    local.start(first)
    members_up(local, folder, 1)
    local.start(second)
    local.stop("w", first.origin)
    assert local.poll("w").phase == "running"
    local.stop("w", second.origin)
    assert local.poll("w").phase == "failed"


def test_members_see_no_secret_of_the_caller_but_those_of_the_lake(local, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://lake.example:9000")
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://hunter2")
    local.start(work())
    result = ended(local).result or ""
    assert "hunter2" not in result
    assert "http://lake.example:9000" in result
    assert '"TF_USE_LEGACY_KERAS": "1"' in result


def test_starting_a_running_name_again_joins_it(local, folder):
    local.start(work(handoff='{"wait": 1}'))
    members_up(local, folder, 1)
    local.start(work(handoff='{"wait": 1}'))
    assert len(pids(folder)) == 1
    local.stop("w")


def test_starting_a_name_that_succeeded_does_nothing(local, folder):
    local.start(work())
    ended(local)
    local.start(work())
    assert local.poll("w").phase == "succeeded"
    assert len(pids(folder)) == 1


def test_starting_a_name_that_failed_tries_anew(local, folder):
    local.start(work(handoff='{"fail": 0}'))
    assert ended(local).phase == "failed"
    local.start(work())
    assert ended(local).phase == "succeeded"
    assert len(pids(folder)) == 2


def test_another_workload_may_not_take_a_running_name(local, folder):
    local.start(work(handoff='{"wait": 1}'))
    with pytest.raises(Conflict):
        local.start(work(handoff='{"wait": 2}'))
    local.stop("w")


def test_a_failing_member_ends_the_gang_and_says_why(local, folder):
    local.start(work(members=3, handoff='{"fail": 1, "wait": 1}'))
    state = ended(local)
    assert (state.phase, state.failed_member, state.exit_code) == ("failed", 1, 65)
    assert "too few rows" in state.reason
    assert "member 1 is here" in state.log_tail
    assert isinstance(state.error(), Permanent)
    assert all(gone(pid) for pid in pids(folder))


def test_a_failure_to_be_tried_again_is_retryable(local):
    local.start(work(handoff='{"fail": 0, "code": 75}'))
    assert isinstance(ended(local).error(), Retryable)


def test_a_killed_member_is_named_with_its_signal(local, folder):
    local.start(work(members=2, handoff='{"wait": 1}'))
    members_up(local, folder, 2)
    os.kill(pids(folder)[0], signal.SIGKILL)
    state = ended(local)
    assert "SIGKILL" in state.reason
    assert state.exit_code == 128 + signal.SIGKILL
    assert all(gone(pid) for pid in pids(folder))


def test_when_the_leader_is_killed_the_gang_has_failed_and_no_member_is_left(local, folder):
    local.start(work(members=2, handoff='{"wait": 1}'))
    members_up(local, folder, 2)
    leader = GangFiles(folder).leader()
    assert leader is not None
    os.kill(leader.pid, signal.SIGKILL)
    state = ended(local)
    assert "leader died" in state.reason
    assert isinstance(state.error(), Retryable)
    until(lambda: all(gone(pid) for pid in pids(folder)))


def test_stop_leaves_no_process(local, folder):
    local.start(work(members=2, handoff='{"wait": 1}'))
    members_up(local, folder, 2)
    leader = GangFiles(folder).leader()
    assert leader is not None
    local.stop("w")
    assert all(gone(pid) for pid in [leader.pid, *pids(folder)])
    assert "stopped" in local.poll("w").reason


def test_stop_of_what_has_ended_or_never_was_changes_nothing(local):
    local.stop("w")
    assert local.poll("w").phase == "absent"
    local.start(work())
    ended(local)
    local.stop("w")
    assert local.poll("w").phase == "succeeded"


def test_members_of_a_gang_share_a_cluster_on_loopback(local):
    local.start(work(members=2))
    result = ended(local).result or ""
    assert '"worker": ["127.0.0.1:' in result
    assert '"task": {"type": "worker", "index": 0}' in result


def test_logs_interleave_members_by_time(local):
    local.start(work(members=2))
    ended(local)
    assert local.logs("w").splitlines() == [
        "[0] 2026-01-01T00:00:00.000Z member 0 is here",
        "[1] 2026-01-01T00:00:01.000Z member 1 is here",
    ]


def test_every_call_may_come_from_another_process(local, tmp_path, folder):
    code = f"""
from pathlib import Path
from tidegate.launch import Workload
from tidegate.launch.local import LocalLauncher
launcher = LocalLauncher(Path({str(tmp_path / "gangs")!r}), {{"here": {sys.executable!r}}}, {local._variables!r})
launcher.start(Workload("w", "member", "here", '{{"wait": 1}}'))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    members_up(local, folder, 1)
    assert local.poll("w").phase == "running"
    local.stop("w")
    assert all(gone(pid) for pid in pids(folder))


def test_a_pid_given_to_another_process_is_not_taken_for_the_leader(local, folder):
    folder.mkdir(parents=True)
    me = Process.of(os.getpid())
    assert me is not None
    GangFiles(folder).write_leader(Process(me.pid, "another boot:1"))
    assert local.poll("w").phase == "failed"
    local.stop("w")  # and this process is not ended for it


def test_an_interpreter_that_is_missing_is_an_error_with_its_remedy(tmp_path):
    with pytest.raises(SetupError, match="cannot be run"):
        LocalLauncher(tmp_path, {"here": str(tmp_path / "python")}).start(work())


def test_an_unknown_environment_or_launcher_is_refused(local, tmp_path):
    with pytest.raises(SpecError, match="known: here"):
        local.start(Workload("w", "member", "elsewhere", "{}"))
    with pytest.raises(SpecError, match="known: local"):
        launcher("kubernetes", tmp_path, {})
    with pytest.raises(SpecError):
        work(name="../up")
