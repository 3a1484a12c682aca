"""Gangs on a real Kubernetes: how they start, end, fail, wait, and what is left of them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.bed import Bed, pods_here
from tests.until import until
from tidegate.delivery.pods import PodsSpec
from tidegate.errors import Conflict, Permanent, Retryable, SpecError
from tidegate.launch import State, Workload
from tidegate.launch.manifests import job, service

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def gang(pods: PodsSpec, name: str = "train-flights-Request.1", members: int = 2, **task: Any) -> Workload:
    shared = pods.container["volumeMounts"][-1]["mountPath"]
    origin = {"delivery": "flights", "run": "manual__2013-04-01T00:00:00+00:00", "try": "1"}
    handoff = json.dumps({"shared": shared, **task})
    return Workload(name, "tiny_member", "train", handoff, members, pods=pods, origin=origin)


def ended(bed: Bed, name: str, seconds: float = 90) -> State:
    until("the gang has ended", lambda: bed.launcher.poll(name).phase != "running", seconds)
    return bed.launcher.poll(name)


def test_a_gang_finds_its_peers_and_hands_back_what_member_0_made(bed: Bed, pods: PodsSpec):
    wanted = gang(pods, members=3)
    bed.launcher.start(wanted)
    state = ended(bed, wanted.name)
    assert state.phase == "succeeded", state
    result = json.loads(state.result or "")
    workers = result["config"]["cluster"]["worker"]
    assert [worker.split(".")[0].rpartition("-")[2] for worker in workers] == ["0", "1", "2"]
    assert result["config"]["task"] == {"type": "worker", "index": 0}
    assert (result["uid"], result["home"]) == (1000, "/tmp")
    lines = bed.launcher.logs(wanted.name).splitlines()
    assert {f"[{rank}] member {rank} is {what}" for rank in range(3) for what in ("here", "done")} <= set(lines)
    bed.launcher.start(wanted)  # what has succeeded is left as it is
    assert bed.launcher.poll(wanted.name) == state
    bed.launcher.stop(wanted.name)  # and so it is by stop: it holds nothing, and goes by itself
    assert bed.launcher.poll(wanted.name) == state
    soon = gang(pods.model_copy(update={"keep": 0.0}), name="soon")
    bed.launcher.start(soon)
    until("it is gone", lambda: not [thing for thing in bed.left() if "/soon" in thing], 60)


def test_the_api_server_takes_the_manifests_with_every_field_set(bed: Bed, tmp_path: Path):
    full = pods_here(
        tmp_path, gpus=1, gpu="example.com/gpu", queue="team", queue_priority="high", node_selector={"rack": "1"},
        tolerations=[{"key": "gpu", "operator": "Exists"}], together="topology.kubernetes.io/zone",
        spread="kubernetes.io/hostname",
    )  # fmt: skip
    body = job(gang(full))
    made = bed.ask(lambda cluster: cluster.create_job(body, dry_run=True))
    assert made["spec"]["template"]["spec"]["subdomain"] == made["metadata"]["name"]
    bed.ask(lambda cluster: cluster.create_service(service(made), dry_run=True))
    assert bed.left() == []


def test_one_failing_member_ends_the_gang_and_is_named_with_its_words_and_log(bed: Bed, pods: PodsSpec):
    wanted = gang(pods, fail=1, hold=300)
    bed.launcher.start(wanted)
    state = ended(bed, wanted.name)
    assert (state.phase, state.failed_member, state.exit_code) == ("failed", 1, 65)
    assert "member 1 of train-flights-Request.1 ended with exit code 65: DataError: too few rows" in state.reason
    assert "this is the line that matters" in state.log_tail
    assert isinstance(state.error(), Permanent)
    bed.launcher.start(gang(pods))  # what failed is tried anew
    assert ended(bed, wanted.name).phase == "succeeded"


def test_a_member_that_asks_for_it_is_started_again_and_counted(bed: Bed, pods: PodsSpec):
    wanted = gang(pods, again=1, hold=100)
    bed.launcher.start(wanted)
    assert ended(bed, wanted.name).phase == "succeeded"
    assert bed.launcher.logs(wanted.name).count("member 1 is here") == 2
    none = gang(pods.model_copy(update={"restarts": 0}), name="none", fail=0, code=75)
    bed.launcher.start(none)
    state = ended(bed, "none")
    assert (state.phase, state.failed_member) == ("failed", 0)
    assert isinstance(state.error(), Retryable)


def test_a_gang_of_which_one_has_ended_is_not_joined_again_but_ended(bed: Bed, pods: PodsSpec):
    bed.launcher.start(gang(pods, fail=1, code=75))
    state = ended(bed, "train-flights-Request.1")
    assert "its peers had ended, so the gang starts again as a whole" in state.reason
    assert isinstance(state.error(), Retryable)
    bed.launcher.start(gang(pods))
    assert ended(bed, "train-flights-Request.1").phase == "succeeded"


def test_a_member_out_of_memory_is_said_to_be_so(bed: Bed, tmp_path: Path):
    small = pods_here(tmp_path, memory="200Mi")
    bed.launcher.start(gang(small, eat=1, hold=300))
    state = ended(bed, "train-flights-Request.1")
    assert (state.phase, state.failed_member) == ("failed", 1)
    assert "needed more memory than its limit of 200Mi (OOMKilled); raise train.pods.memory" in state.reason
    assert isinstance(state.error(), Permanent)
    bed.launcher.stop("train-flights-Request.1")
    assert bed.left() == []


def test_a_gang_without_room_says_what_it_waits_for_and_is_withdrawn_whole(bed: Bed, tmp_path: Path):
    greedy = pods_here(tmp_path, gpus=1, gpu="example.com/gpu", within=4.0)
    bed.launcher.start(gang(greedy))
    until(
        "it says why", lambda: "Insufficient example.com/gpu" in bed.launcher.poll("train-flights-Request.1").detail, 60
    )
    assert "waits for a node" in bed.launcher.poll("train-flights-Request.1").detail
    state = ended(bed, "train-flights-Request.1")
    assert "had no place for all members within 4 s, so it is withdrawn whole" in state.reason
    assert isinstance(state.error(), Retryable)
    bed.launcher.stop("train-flights-Request.1")
    assert bed.left() == []


def test_an_image_that_is_missing_is_named_at_once(bed: Bed, pods: PodsSpec):
    bed.launcher.start(gang(pods.model_copy(update={"image": "local/absent:1"})))
    state = ended(bed, "train-flights-Request.1")
    assert "local/absent:1" in state.reason
    assert "mend train.pods" in state.reason
    assert isinstance(state.error(), Permanent)
    bed.launcher.stop("train-flights-Request.1")
    assert bed.left() == []


def test_a_quota_that_is_too_small_is_said(bed: Bed, tmp_path: Path):
    bed.kubectl("create", "quota", "small", "--hard=pods=0")
    bed.launcher.start(gang(pods_here(tmp_path, within=5.0)))
    until("it says why", lambda: "exceeded quota: small" in bed.launcher.poll("train-flights-Request.1").detail, 60)
    assert "exceeded quota: small" in ended(bed, "train-flights-Request.1").reason


def test_two_starts_at_once_make_one_gang(bed: Bed, pods: PodsSpec):
    wanted = gang(pods, hold=60)
    with ThreadPoolExecutor(2) as both:
        for start in [both.submit(bed.launcher.start, wanted) for _ in range(2)]:
            start.result()
    assert len(bed.kubectl("get", "jobs", "-o", "name").split()) == 1
    with pytest.raises(Conflict, match="another workload runs under the name"):
        bed.launcher.start(gang(pods, hold=61))
    bed.launcher.stop(wanted.name)
    bed.launcher.stop(wanted.name)
    assert bed.left() == []
    assert bed.launcher.poll(wanted.name).phase == "absent"


def test_only_the_try_that_asked_last_takes_a_gang_away(bed: Bed, pods: PodsSpec):
    first = gang(pods, hold=60)
    second = replace(first, origin={**first.origin, "try": "2"})
    bed.launcher.start(first)
    bed.launcher.start(second)
    bed.launcher.stop(first.name, first.origin)
    assert bed.launcher.poll(first.name).phase == "running"
    bed.launcher.stop(first.name, second.origin)
    assert bed.left() == []


def test_a_queue_without_kueue_is_refused(bed: Bed, pods: PodsSpec):
    with pytest.raises(SpecError, match="queue 'team' is Kueue's, and this cluster has none"):
        bed.launcher.start(gang(pods.model_copy(update={"queue": "team"})))
