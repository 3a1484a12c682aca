"""What a gang's objects, as the API server shows them, mean: how it goes, what it waits for, who is to blame. Pure.

Objects are JSON as the API gives it (batch/v1 Job, v1 Pod, v1 Event, Kueue's Workload); times are Unix seconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tidegate.errors import Permanent, Retryable
from tidegate.launch import State
from tidegate.launch.manifests import INDEX, MEMBER, MEMORY, NAME, QUEUE, WITHIN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_KILLED, _TERMINATED = 137, 143
_MESSAGE_BYTES = 4096  # the kubelet keeps no more of a termination message
# What a container waits for that time does not mend; the kubelet would try for ever.
_HOPELESS = {
    "ErrImageNeverPull": "the image is not on the node, and may not be pulled",
    "InvalidImageName": "the image's name is not valid",
    "ImagePullBackOff": "the image cannot be pulled",
    "CreateContainerConfigError": "the container cannot be made",
    "CreateContainerError": "the container cannot be made",
    "RunContainerError": "the container cannot be started",
}
_NEVER = ("LocalQueue", "maximum capacity", "doesn't match ClusterQueue")  # Kueue's words for what waiting cannot mend


@dataclass(frozen=True)
class Seen:
    """All that a cluster shows of one gang; `workload` is Kueue's, `events` are those of the Job and its pods."""

    job: Mapping[str, Any] | None
    pods: Sequence[Mapping[str, Any]] = ()
    workload: Mapping[str, Any] | None = None
    events: Sequence[Mapping[str, Any]] = field(default_factory=tuple)


def state(seen: Seen, now: float) -> State:
    """Return how the gang goes; while it runs, `detail` says what it waits for in a user's words."""
    job = seen.job
    if job is None:
        return State("absent")
    ended = {condition["type"]: condition for condition in conditions(job)}
    if "Complete" in ended:
        return _succeeded(seen)
    failed = ended.get("Failed") or ended.get("FailureTarget")
    culprit = blamed(seen.pods)
    if failed is not None:
        return _failed(seen, culprit) if culprit else _without_culprit(seen, failed)
    if culprit and (hopeless := _out_of_memory(culprit, seen) or _left_alone(culprit, seen)):
        return hopeless
    return _stuck(seen) or _unplaced(seen, now) or _refused(seen) or State("running", detail=detail(seen))


def detail(seen: Seen) -> str:
    """Return what a gang that has not ended waits for, or how many of its members run."""
    job = seen.job or {}
    members = int(job["spec"]["completions"])
    if job["spec"].get("suspend"):
        return _queued(seen)
    if not seen.pods:
        return _no_pods(seen.events)
    parts = [_waits(pod) for pod in newest(seen.pods).values()]
    waiting = [part for part in parts if part]
    if waiting:
        return "; ".join(dict.fromkeys(waiting))
    running = sum(pod["status"].get("phase") in ("Running", "Succeeded") for pod in newest(seen.pods).values())
    again = sum(1 for pod in seen.pods if _code(pod)) if running < members else 0
    return f"{running} of {members} members run" + (f", {again} ended and start again" if again else "")


def finished(job: Mapping[str, Any]) -> bool:
    """Whether a Job has ended, and no pod of it runs any more."""
    return any(condition["type"] in ("Complete", "Failed") for condition in conditions(job))


def conditions(thing: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return an object's conditions that are true."""
    found = thing.get("status", {}).get("conditions") or []
    return [condition for condition in found if condition.get("status") == "True"]


def rank(pod: Mapping[str, Any]) -> int:
    """Return a member's rank: its pod's completion index."""
    labels, annotations = pod["metadata"].get("labels", {}), pod["metadata"].get("annotations", {})
    return int(labels.get(INDEX, annotations.get(INDEX, 0)))


def newest(pods: Iterable[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """Return the newest pod of each rank, by rank: a member that was started again has several."""
    ordered = sorted(pods, key=lambda pod: (pod["metadata"].get("creationTimestamp", ""), pod["metadata"]["name"]))
    found = {rank(pod): pod for pod in ordered}
    return dict(sorted(found.items()))


def blamed(pods: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the pod that ended the gang, or None.

    A member that says "try again" is often only the peer of the one that really failed, and one that was taken away or
    told to end (SIGTERM) was ended, so others come first; among equals, the one that ended first.
    """
    failed = [pod for pod in pods if _code(pod)]
    lesser = (Retryable.exit_code, _TERMINATED)
    return min(
        failed,
        key=lambda pod: (_disrupted(pod) is not None, _code(pod) in lesser, _ended_at(pod), rank(pod)),
        default=None,
    )


def _succeeded(seen: Seen) -> State:
    chiefs = [pod for pod in seen.pods if rank(pod) == 0 and _terminated(pod).get("exitCode") == 0]
    said = _terminated(chiefs[0]).get("message", "") if chiefs else ""
    if not said:
        return State("succeeded", exit_code=0)
    try:
        json.loads(said)
    except ValueError:
        reason = f"what {_name(seen)} hands back is {len(said)} bytes and no JSON; Kubernetes keeps {_MESSAGE_BYTES}"
        return State("failed", exit_code=Permanent.exit_code, reason=reason, failed_member=0)
    return State("succeeded", exit_code=0, result=said)


def _failed(seen: Seen, pod: Mapping[str, Any]) -> State:
    return _out_of_memory(pod, seen) or State(
        "failed",
        exit_code=_exit_code(pod),
        reason=f"member {rank(pod)} of {_name(seen)} {_ending(pod)}",
        failed_member=rank(pod),
    )


def _exit_code(pod: Mapping[str, Any]) -> int:
    code = _code(pod)
    return Retryable.exit_code if code in (_KILLED, _TERMINATED) else code


def _ending(pod: Mapping[str, Any]) -> str:
    code, ended = _code(pod), _terminated(pod)
    why = str(ended.get("message") or pod["status"].get("message") or "").strip()
    disruption = _disrupted(pod)
    if disruption is not None:
        how = f"was taken away by the cluster ({disruption})"
    elif pod["status"].get("reason") == "Evicted":
        how = "was evicted by its node"
    elif code in (_KILLED, _TERMINATED):
        how = f"was killed by {'SIGKILL' if code == _KILLED else 'SIGTERM'}"
    else:
        how = f"ended with exit code {code}"
    return how + (f": {why}" if why else "")


def _out_of_memory(pod: Mapping[str, Any], seen: Seen) -> State | None:
    if _terminated(pod).get("reason") != "OOMKilled":
        return None
    limit = (seen.job or {})["metadata"].get("annotations", {}).get(MEMORY, "unknown")
    return State(
        "failed",
        exit_code=Permanent.exit_code,
        reason=f"member {rank(pod)} of {_name(seen)} needed more memory than its limit of {limit} (OOMKilled); raise "
        "train.pods.memory, or lower train.batch",
        failed_member=rank(pod),
    )


def _left_alone(pod: Mapping[str, Any], seen: Seen) -> State | None:
    """A member that starts again finds no peers where one has ended already: the whole gang is to start again."""
    members = newest(seen.pods)
    own = members.pop(rank(pod))
    ends = [_ended_at(each) for each in members.values() if each["status"].get("phase") == "Succeeded"]
    met = own["status"].get("phase") != "Failed" and str(own["metadata"]["creationTimestamp"]) <= min(ends, default="~")
    if not ends or met:
        return None
    reason = (
        f"member {rank(pod)} of {_name(seen)} {_ending(pod)}; its peers had ended, so the gang starts again as a whole"
    )
    return State("failed", exit_code=_exit_code(pod), reason=reason, failed_member=rank(pod))


def _without_culprit(seen: Seen, condition: Mapping[str, Any]) -> State:
    why = f"{condition.get('reason', 'Failed')}: {condition.get('message', '')}".rstrip(": ")
    return State("failed", exit_code=Retryable.exit_code, reason=f"the Job of {_name(seen)} failed: {why}")


def _stuck(seen: Seen) -> State | None:
    for number, pod in newest(seen.pods).items():
        waiting = _waiting(pod)
        what = _HOPELESS.get(waiting.get("reason", ""))
        if what:
            reason = f"member {number} of {_name(seen)}: {what}: {waiting.get('message', waiting['reason'])}"
            remedy = "mend train.pods (image, user, container), then clear this task"
            return State("failed", Permanent.exit_code, f"{reason}; {remedy}", failed_member=number)
    return None


def _unplaced(seen: Seen, now: float) -> State | None:
    """A gang that is only partly placed holds what it has and does nothing with it: it is withdrawn whole."""
    job = seen.job or {}
    within = float(job["metadata"].get("annotations", {}).get(WITHIN, "inf"))
    began = job.get("status", {}).get("startTime")
    unplaced = {number: pod for number, pod in newest(seen.pods).items() if not pod["spec"].get("nodeName")}
    if job["spec"].get("suspend") or began is None or (seen.pods and not unplaced):
        return None
    # a member that starts again long after the gang began has as long as any other
    since = min((pod["metadata"]["creationTimestamp"] for pod in unplaced.values()), default=began)
    if now - max(seconds(began), seconds(since)) < within:
        return None
    why = detail(seen)
    return State(
        "failed",
        exit_code=Retryable.exit_code,
        reason=f"{_name(seen)} had no place for all members within {within:g} s, so it is withdrawn whole: {why}",
        failed_member=min(unplaced, default=None),
    )


def _refused(seen: Seen) -> State | None:
    """What Kueue will never admit, or has given up."""
    workload = seen.workload
    if workload is None or not (seen.job or {})["spec"].get("suspend"):
        return None
    if workload.get("spec", {}).get("active") is False:
        evicted = _condition(workload, "Evicted")
        why = f"{evicted.get('reason', 'deactivated')}: {evicted.get('message', '')}".rstrip(": ")
        return State("failed", Retryable.exit_code, f"Kueue gave up {_name(seen)}: {why}")
    message = _condition(workload, "QuotaReserved").get("message", "")
    if any(word in message for word in _NEVER):
        remedy = "mend train.pods.queue and its resources, or the queue's quota, then clear this task"
        return State("failed", Permanent.exit_code, f"{_name(seen)} can never start: {message}; {remedy}")
    return None


def _queued(seen: Seen) -> str:
    queue = (seen.job or {})["metadata"].get("labels", {}).get(QUEUE, "")
    if seen.workload is None:
        return f"waits for Kueue to see it in queue {queue!r}; if it stays so, its priority class may be unknown"
    evicted = _condition(seen.workload, "Evicted")
    message = _condition(seen.workload, "QuotaReserved").get("message", "")
    if evicted.get("status") == "True":
        return f"waits in queue {queue!r} again: {evicted.get('message', evicted.get('reason', ''))}"
    return f"waits in queue {queue!r}: {message}" if message else f"waits in queue {queue!r}"


def _no_pods(events: Sequence[Mapping[str, Any]]) -> str:
    refused = [event for event in events if event.get("reason") == "FailedCreate"]
    if refused:
        return f"its pods are refused: {refused[-1].get('message', '')}"
    return "its pods are being made"


def _waits(pod: Mapping[str, Any]) -> str:
    """Return what a pod waits for, or nothing where it runs or has ended."""
    if pod["status"].get("phase") != "Pending":
        return ""
    who = f"member {rank(pod)}"
    for condition in pod["status"].get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return f"{who} waits for a node: {condition.get('message') or condition.get('reason', '')}"
    waiting = _waiting(pod)
    reason = waiting.get("reason", "")
    if reason in ("", "ContainerCreating", "PodInitializing"):
        return f"{who} is being started on {pod['spec'].get('nodeName', 'a node')}"
    return f"{who} waits: {reason}: {waiting.get('message', '')}".rstrip(": ")


def _waiting(pod: Mapping[str, Any]) -> dict[str, str]:
    return dict(_container(pod).get("state", {}).get("waiting") or {})


def _terminated(pod: Mapping[str, Any]) -> dict[str, Any]:
    return dict(_container(pod).get("state", {}).get("terminated") or {})


def _container(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    statuses = pod.get("status", {}).get("containerStatuses") or []
    return next((status for status in statuses if status.get("name") == MEMBER), {})


def _code(pod: Mapping[str, Any]) -> int:
    """Return a failed pod's exit code, from 1; 0 where it has not failed."""
    code = int(_terminated(pod).get("exitCode", 0))
    return code or (_KILLED if pod["status"].get("phase") == "Failed" else 0)


def _disrupted(pod: Mapping[str, Any]) -> str | None:
    found = next((each for each in conditions(pod) if each["type"] == "DisruptionTarget"), None)
    return None if found is None else str(found.get("message") or found.get("reason", ""))


def _condition(thing: Mapping[str, Any], kind: str) -> dict[str, Any]:
    found = thing.get("status", {}).get("conditions") or []
    return next((dict(condition) for condition in found if condition.get("type") == kind), {})


def _ended_at(pod: Mapping[str, Any]) -> str:
    return str(_terminated(pod).get("finishedAt") or "~")  # texts of RFC 3339 sort by time; ~ comes after all


def _name(seen: Seen) -> str:
    metadata = (seen.job or {})["metadata"]
    return str(metadata.get("annotations", {}).get(NAME, metadata["name"]))


def seconds(text: str) -> float:
    """Return Unix seconds of a time as the API writes it (RFC 3339)."""
    return datetime.fromisoformat(text).timestamp()
