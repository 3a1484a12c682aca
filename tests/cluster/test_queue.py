"""Gangs in Kueue's queues: admitted whole, one after the other, preempted whole, and told why they wait."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.cluster.bed import Bed, pods_here
from tests.cluster.test_gang import ended, gang
from tests.until import until
from tidegate.errors import Permanent, Retryable
from tidegate.launch import Workload

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

API = "kueue.x-k8s.io/v1beta1"


@pytest.fixture(scope="module", autouse=True)
def kueue(kube: Bed) -> Iterator[None]:
    kube.script("kueue.sh", "up")
    yield
    kube.script("kueue.sh", "down")


@pytest.fixture
def queue(bed: Bed) -> Iterator[str]:
    """A queue with room for one gang of two members of 100m, and two priorities."""
    name = bed.access.namespace
    room = {"cpu": "250m", "memory": "9Gi"}
    flavor = {"name": name, "resources": [{"name": each, "nominalQuota": most} for each, most in room.items()]}
    things: list[dict[str, Any]] = [
        {"kind": "ResourceFlavor", "spec": {}},
        {
            "kind": "ClusterQueue",
            "spec": {
                "namespaceSelector": {},
                "preemption": {"withinClusterQueue": "LowerPriority"},
                "resourceGroups": [{"coveredResources": ["cpu", "memory"], "flavors": [flavor]}],
            },
        },
        {"kind": "LocalQueue", "spec": {"clusterQueue": name}},
        {"kind": "WorkloadPriorityClass", "value": 1000},
    ]
    given = yaml.safe_dump_all({"apiVersion": API, "metadata": {"name": name}, **thing} for thing in things)
    bed.kubectl("apply", "-f", "-", given=given)
    yield name
    for job in bed.kubectl("get", "jobs", "-o", "name").split():
        bed.kubectl("delete", job)
    bed.kubectl("delete", "clusterqueue,resourceflavor,workloadpriorityclass", name)


def queued(tmp_path: Any, queue: str, name: str, hold: float = 300, **changes: Any) -> Workload:
    return gang(pods_here(tmp_path, queue=queue, memory="1Gi", **changes), name=name, hold=hold)


def pods_of(bed: Bed, name: str) -> list[str]:
    return bed.kubectl("get", "pods", "-l", f"batch.kubernetes.io/job-name={name}", "-o", "name").split()


def test_of_two_gangs_with_room_for_one_the_second_waits_and_says_why(bed: Bed, tmp_path: Any, queue: str):
    bed.launcher.start(queued(tmp_path, queue, "one"))
    until("the first runs", lambda: "2 of 2 members run" in bed.launcher.poll("one").detail, 60)
    bed.launcher.start(queued(tmp_path, queue, "two"))
    until("the second says why", lambda: "insufficient unused quota for cpu" in bed.launcher.poll("two").detail, 60)
    assert bed.launcher.poll("two").detail.startswith(f"waits in queue {queue!r}: ")
    assert pods_of(bed, "two") == []
    (tmp_path / "go").touch()
    assert ended(bed, "one").phase == "succeeded"
    assert ended(bed, "two").phase == "succeeded"


def test_a_gang_of_lower_priority_makes_way_as_a_whole_and_comes_back(bed: Bed, tmp_path: Any, queue: str):
    bed.launcher.start(queued(tmp_path, queue, "low"))
    until("it runs", lambda: "2 of 2 members run" in bed.launcher.poll("low").detail, 60)
    bed.launcher.start(queued(tmp_path, queue, "high", queue_priority=queue))
    until("it says so", lambda: "again: Preempted to accommodate" in bed.launcher.poll("low").detail, 60)
    until("the high one runs", lambda: "2 of 2 members run" in bed.launcher.poll("high").detail, 60)
    until("the low one holds nothing", lambda: not pods_of(bed, "low"), 60)
    (tmp_path / "go").touch()
    assert ended(bed, "high").phase == "succeeded"
    assert ended(bed, "low").phase == "succeeded"


def test_a_gang_that_never_fits_is_refused(bed: Bed, tmp_path: Any, queue: str):
    bed.launcher.start(queued(tmp_path, queue, "big", cpu="200m"))
    state = ended(bed, "big", 60)
    assert "can never start" in state.reason
    assert isinstance(state.error(), Permanent)
    bed.launcher.stop("big")
    assert bed.left() == []


def test_a_queue_that_is_not_there_is_named(bed: Bed, tmp_path: Any, queue: str):
    bed.launcher.start(queued(tmp_path, "absent", "lost"))
    state = ended(bed, "lost", 60)
    assert "LocalQueue absent doesn't exist" in state.reason
    assert isinstance(state.error(), Permanent)


@pytest.mark.nightly
def test_a_stopped_kueue_is_tried_again(bed: Bed, tmp_path: Any, queue: str):
    bed.script("kueue.sh", "stop")
    try:
        with pytest.raises(Retryable, match="failed calling webhook"):
            bed.launcher.start(queued(tmp_path, queue, "early"))
    finally:
        bed.script("kueue.sh", "start")
    bed.launcher.start(queued(tmp_path, queue, "early", hold=0))
    assert ended(bed, "early").phase == "succeeded"
