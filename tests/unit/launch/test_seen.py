"""What a gang's objects mean, in the words a user reads."""

from __future__ import annotations

from typing import Any

import pytest

from tidegate.errors import Permanent, Retryable
from tidegate.launch.seen import Seen, blamed, finished, newest, seconds, state

AT = "2026-01-01T00:00:00Z"
NOW = seconds(AT) + 10


def job(
    *conditions: str, suspend: bool = False, within: str = "600", members: int = 2, **condition: str
) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "gang",
            "labels": {"kueue.x-k8s.io/queue-name": "team"},
            "annotations": {
                "tidegate.dev/workload": "train-flights-1",
                "tidegate.dev/within": within,
                "tidegate.dev/memory": "4Gi",
            },
        },
        "spec": {"completions": 2, "suspend": suspend},
        "status": {
            "startTime": AT,
            "conditions": [{"type": kind, "status": "True", **condition} for kind in conditions],
        },
    }


def pod(rank: int, phase: str = "Running", made: str = AT, node: str | None = "n1", **more: Any) -> dict[str, Any]:
    container = more.pop("container", {})
    return {
        "metadata": {
            "name": f"gang-{rank}-{made[-4:]}",
            "creationTimestamp": made,
            "labels": {"batch.kubernetes.io/job-completion-index": str(rank)},
        },
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": phase, "containerStatuses": [{"name": "member", "state": container}], **more},
    }


def ended(rank: int, code: int, reason: str = "Error", message: str = "", at: str = AT, **more: Any) -> dict[str, Any]:
    terminated = {"exitCode": code, "reason": reason, "message": message, "finishedAt": at}
    phase = "Failed" if code else "Succeeded"
    return pod(rank, phase, container={"terminated": terminated}, **more)


def unscheduled(rank: int, message: str, made: str = AT) -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return pod(rank, "Pending", made, node=None, conditions=[condition])


def admission(message: str = "", evicted: tuple[str, str] | None = None, active: bool = True) -> dict[str, Any]:
    conditions = [{"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": message}]
    if evicted:
        conditions.append({"type": "Evicted", "status": "True", "reason": evicted[0], "message": evicted[1]})
    return {"spec": {"active": active}, "status": {"conditions": conditions}}


def starting(rank: int, reason: str, message: str = "") -> dict[str, Any]:
    return pod(rank, "Pending", container={"waiting": {"reason": reason, "message": message}})


def test_a_gang_that_nobody_made_is_absent_and_can_be_tried_again():
    found = state(Seen(None), NOW)
    assert found.phase == "absent"
    assert isinstance(found.error(), Retryable)


def test_the_result_is_what_member_0_left_in_its_last_words():
    pods = [ended(0, 0, message='{"a": 1}'), ended(1, 0, message='{"b": 2}')]
    assert state(Seen(job("Complete"), pods), NOW).result == '{"a": 1}'
    assert state(Seen(job("Complete"), []), NOW).result is None
    cut = state(Seen(job("Complete"), [ended(0, 0, message='{"a": "' + "x" * 4089)]), NOW)
    assert (cut.phase, cut.exit_code) == ("failed", 65)
    assert "is 4096 bytes and no JSON; Kubernetes keeps 4096" in cut.reason


@pytest.mark.parametrize(
    ("pods", "member", "words", "kind"),
    [
        ([ended(0, 75), ended(1, 65, message="DataError: too few")], 1, "exit code 65: DataError: too few", Permanent),
        ([ended(0, 75), ended(1, 137)], 1, "was killed by SIGKILL", Retryable),
        ([ended(0, 143, at="2026-01-01T00:00:09Z"), ended(1, 70)], 1, "ended with exit code 70", Retryable),
        ([ended(1, 70, at="2026-01-01T00:00:02Z"), ended(0, 65, at="2026-01-01T00:00:03Z")], 1, "code 70", Retryable),
        ([ended(0, 137, "OOMKilled"), ended(1, 75)], 0, "its limit of 4Gi (OOMKilled)", Permanent),
        ([pod(0, "Failed", reason="Evicted", message="disk"), ended(1, 75)], 0, "evicted by its node: disk", Retryable),
    ],
)
def test_the_member_that_ended_the_gang_is_named(pods, member, words, kind):
    found = state(Seen(job("Failed"), pods), NOW)
    assert (found.phase, found.failed_member) == ("failed", member)
    assert words in found.reason
    assert isinstance(found.error(), kind)


def test_a_member_taken_away_by_the_cluster_is_blamed_last():
    taken = ended(0, 143, conditions=[{"type": "DisruptionTarget", "status": "True", "message": "preempted"}])
    assert blamed([taken, ended(1, 75)])["metadata"]["name"].startswith("gang-1")
    assert "was taken away by the cluster (preempted)" in state(Seen(job("Failed"), [taken]), NOW).reason


def test_a_job_that_failed_without_a_pod_says_the_cluster_s_reason():
    found = state(Seen(job("Failed", reason="DeadlineExceeded", message="too long"), []), NOW)
    assert found.reason == "the Job of train-flights-1 failed: DeadlineExceeded: too long"
    assert isinstance(found.error(), Retryable)


def test_out_of_memory_ends_the_gang_though_kubernetes_would_try_again():
    found = state(Seen(job(), [pod(0), ended(1, 137, "OOMKilled")]), NOW)
    assert (found.phase, found.failed_member) == ("failed", 1)


def test_a_restarted_member_whose_peer_has_ended_well_ends_the_gang():
    pods = [ended(0, 0), ended(1, 75), pod(1, made="2026-01-01T00:00:05Z")]
    assert "its peers had ended" in state(Seen(job(), pods), NOW).reason
    assert state(Seen(job(), [pod(0), *pods[1:]]), NOW).phase == "running"
    between = [ended(0, 0), ended(1, 75)]  # its next pod is not made yet
    assert "its peers had ended" in state(Seen(job(), between), NOW).reason


def test_a_restarted_member_that_met_its_peers_may_end_after_them():
    last = ended(0, 0, at="2026-01-01T00:00:09Z")
    pods = [last, ended(1, 75), pod(1, made="2026-01-01T00:00:05Z")]
    assert state(Seen(job(), pods), NOW).phase == "running"


def test_a_restarted_member_is_its_newest_pod():
    pods = [pod(1, made="2026-01-01T00:00:05Z"), ended(1, 75), pod(0)]
    assert [each["status"]["phase"] for each in newest(pods).values()] == ["Running", "Running"]


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (Seen(job(), [pod(0), pod(1)]), "2 of 2 members run"),
        (Seen(job(), [pod(0), ended(1, 75)]), "1 of 2 members run, 1 ended and start again"),
        (Seen(job(), []), "its pods are being made"),
        (Seen(job(), [], None, [{"reason": "FailedCreate", "message": "over quota"}]), "refused: over quota"),
        (Seen(job(), [pod(0), unscheduled(1, "0/3 nodes")]), "member 1 waits for a node: 0/3"),
        (Seen(job(), [pod(0), starting(1, "ContainerCreating")]), "member 1 is being started on n1"),
        (Seen(job(), [pod(0), starting(1, "ErrImagePull", "401")]), "member 1 waits: ErrImagePull: 401"),
        (Seen(job(suspend=True)), "waits for Kueue to see it in queue 'team'"),
        (Seen(job(suspend=True), (), admission("2 more needed")), "waits in queue 'team': 2 more needed"),
        (
            Seen(job(suspend=True), (), admission("", ("Preempted", "made way"))),
            "waits in queue 'team' again: made way",
        ),
    ],
)
def test_a_gang_that_waits_says_for_what(seen, words):
    found = state(seen, NOW)
    assert found.phase == "running"
    assert words in found.detail


def test_a_gang_that_is_partly_placed_is_withdrawn_whole_once_its_time_is_over():
    seen = Seen(job(within="60"), [pod(0), unscheduled(1, "no room")])
    assert state(seen, seconds(AT) + 59).phase == "running"
    late = state(seen, seconds(AT) + 61)
    assert (
        "no place for all members within 60 s, so it is withdrawn whole: member 1 waits for a node: no room"
        in late.reason
    )
    assert state(Seen(job(within="60"), [pod(0), pod(1)]), seconds(AT) + 1e6).phase == "running"
    again = unscheduled(1, "no room", made="2026-01-01T00:05:00Z")
    assert state(Seen(job(within="60"), [pod(0), ended(1, 75), again]), seconds(AT) + 350).phase == "running"
    assert state(Seen(job(within="60"), [pod(0), ended(1, 75), again]), seconds(AT) + 365).phase == "failed"
    assert state(Seen(job(within="60", suspend=True), (), admission("busy")), seconds(AT) + 1e6).phase == "running"


@pytest.mark.parametrize(
    "reason", ["ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError"]
)
def test_what_time_does_not_mend_ends_the_gang(reason):
    found = state(Seen(job(), [pod(0), starting(1, reason, "its words")]), NOW)
    assert (found.phase, found.failed_member) == ("failed", 1)
    assert "its words; mend train.pods" in found.reason
    assert isinstance(found.error(), Permanent)


@pytest.mark.parametrize(
    ("workload", "words", "kind"),
    [
        (admission("LocalQueue team doesn't exist"), "can never start: LocalQueue team", Permanent),
        (admission("request (5) > maximum capacity (4)"), "maximum capacity (4)", Permanent),
        (
            admission("", ("DeactivatedDueToRequeuingLimitExceeded", ""), active=False),
            "gave up train-flights-1: Deact",
            Retryable,
        ),
    ],
)
def test_what_kueue_will_not_admit_ends_the_gang(workload, words, kind):
    found = state(Seen(job(suspend=True), (), workload), NOW)
    assert words in found.reason
    assert isinstance(found.error(), kind)


def test_a_job_has_ended_when_no_pod_of_it_runs():
    assert finished(job("Complete"))
    assert finished(job("FailureTarget", "Failed"))
    assert not finished(job("FailureTarget"))
