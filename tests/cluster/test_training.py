"""TensorFlow gangs in pods: they train, and go on from a checkpoint after a member was killed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.bed import Bed, pods_here
from tests.stack.test_training import Room
from tests.until import until
from tidegate.handoff import Trained, TrainTask
from tidegate.launch import Workload

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]


@pytest.fixture
def room(tmp_path: Path) -> Room:
    found = Room(tmp_path)
    for path in [tmp_path, *tmp_path.rglob("*")]:
        path.chmod(0o777 if path.is_dir() else 0o666)  # the members are another user
    return found


def gang(room: Room, task: TrainTask, **pods: Any) -> Workload:
    wanted = pods_here(room.folder, memory="3Gi", **pods)
    return Workload(
        f"train-{task.request.request_id}", "tidegate.train", "train", task.to_json(), task.workers, pods=wanted
    )


def test_a_gang_of_two_trains_in_pods_and_goes_on_after_a_member_is_killed(bed: Bed, room: Room):
    task = room.task("killed", epochs=60)
    wanted = gang(room, task)
    bed.launcher.start(wanted)
    until("two epochs", lambda: "epoch 2/60" in bed.launcher.logs(wanted.name), 120)
    pod = bed.kubectl("get", "pods", "-l", "batch.kubernetes.io/job-completion-index=1", "-o", "name")
    bed.kill(pod.strip().removeprefix("pod/"))
    until("it has ended", lambda: bed.launcher.poll(wanted.name).phase != "running", 240)
    state = bed.launcher.poll(wanted.name)
    log = bed.launcher.logs(wanted.name)
    assert state.phase == "succeeded", (state, log)
    assert Trained.model_validate_json(state.result or "").workers == 2
    # of two epochs at the kill, the second's checkpoint may still be on its way into the lake
    assert max(int(done) for done in re.findall(r"epochs_done=(\d+)", log)) >= 1
    assert len(set(re.findall(r"trained rank=\d weights=(\w+)", log))) == 1
