"""A gang as Kubernetes objects: an Indexed Job and the headless Service its members find each other by. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

from tidegate.errors import Permanent, SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tidegate.delivery.pods import PodsSpec
    from tidegate.launch import Workload

MANAGED_BY = "tidegate"
PREFIX = "tidegate.dev/"
MEMBER = "member"  # the container's name
NAME, DIGEST, WITHIN, MEMORY = f"{PREFIX}workload", f"{PREFIX}digest", f"{PREFIX}within", f"{PREFIX}memory"
INDEX = "batch.kubernetes.io/job-completion-index"
JOB_NAME = "batch.kubernetes.io/job-name"
QUEUE = "kueue.x-k8s.io/queue-name"
PORT = 2222
_QUEUE_PRIORITY = "kueue.x-k8s.io/priority-class"
_TERMINATION_LOG = "/dev/termination-log"
_LONGEST = 50  # characters: "-<index>-<random>" follows, and a host name has 63
_HANDOFF_BYTES = 120 * 1024  # one variable of a process holds 128 KiB on Linux
# Members that end otherwise are not started again: they would end so again. 137 and 143 are SIGKILL and SIGTERM.
_AGAIN = (75, 137, 143)


def object_name(workload: str) -> str:
    """Return the name of a workload's objects: the same for the same workload, a DNS label of at most 50 characters.

    What DNS does not allow is replaced, and a digest of the whole name keeps apart what would then be alike.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", workload.lower()).strip("-")
    if plain == workload and len(plain) <= _LONGEST and plain[:1].isalpha():
        return plain
    digest = hashlib.sha256(workload.encode()).hexdigest()[:8]
    if not plain[:1].isalpha():
        plain = f"w-{plain}"
    return f"{plain[: _LONGEST - 9].rstrip('-')}-{digest}"


def digest_of(workload: Workload) -> str:
    """Return what tells two workloads of one name apart: a digest of all that they are asked to do."""
    fields = {"module": workload.module, "handoff": workload.handoff, "members": workload.members}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def job(workload: Workload) -> dict[str, Any]:
    """Return the Indexed Job of a workload.

    Any member that ends with an error ends the gang, unless it says that it may be tried again (exit code 75, SIGKILL,
    SIGTERM) and has restarts left; a pod taken away by the cluster (eviction, preemption, a drained node) is replaced
    and not counted. See Kubernetes' "Pod failure policy" and "Backoff limit per index".

    Raises:
        SpecError: the workload says nothing of its pods.
        Permanent: its handoff is longer than a process's variable can be.
    """
    pods = workload.pods
    if pods is None:
        raise SpecError(f"workload {workload.name} has no pods; write train.pods in the delivery, with an image")
    if len(workload.handoff) > _HANDOFF_BYTES:
        raise Permanent(
            f"the handoff of {workload.name} has {len(workload.handoff)} bytes; a pod takes {_HANDOFF_BYTES}; "
            "train on fewer windows, or on longer ones"
        )
    name = object_name(workload.name)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "labels": {**_labels(workload), **_queue(pods)},
            "annotations": {
                NAME: workload.name,
                DIGEST: digest_of(workload),
                WITHIN: f"{pods.within:g}",
                MEMORY: pods.memory,
                **{f"{PREFIX}{key}": value for key, value in sorted(workload.origin.items())},
            },
        },
        "spec": {
            "completionMode": "Indexed",
            "completions": workload.members,
            "parallelism": workload.members,
            "backoffLimitPerIndex": pods.restarts,
            "maxFailedIndexes": 0,
            "activeDeadlineSeconds": round(workload.timeout_s),
            "podReplacementPolicy": "Failed",
            "ttlSecondsAfterFinished": round(pods.keep),
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    {
                        "action": "FailJob",
                        "onExitCodes": {"containerName": MEMBER, "operator": "NotIn", "values": list(_AGAIN)},
                    },
                ]
            },
            "template": {"metadata": _about(workload, pods), "spec": _pod(name, workload, pods)},
        },
    }


def service(owner: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headless Service by which members of a gang find each other, owned by its Job as the API gave it."""
    metadata = owner["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": metadata["name"],
            "labels": {"app.kubernetes.io/managed-by": MANAGED_BY},
            "ownerReferences": [
                {
                    "apiVersion": "batch/v1",
                    "kind": "Job",
                    "name": metadata["name"],
                    "uid": metadata.get("uid", ""),
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,  # members look for each other before any of them is ready
            "selector": {JOB_NAME: metadata["name"]},
            "ports": [{"name": "members", "port": PORT}],
        },
    }


def laid_over(base: Any, over: Any) -> Any:
    """Return `base` with `over` laid over it: mappings by key, lists one after the other, all else replaced."""
    if isinstance(base, dict) and isinstance(over, dict):
        return {key: laid_over(base.get(key), over[key]) if key in over else base[key] for key in {**base, **over}}
    if isinstance(base, list) and isinstance(over, list):
        return [*base, *over]
    return over


def _labels(workload: Workload) -> dict[str, str]:
    origin = {
        f"{PREFIX}{key}": _label(value) for key, value in workload.origin.items() if key in ("delivery", "run", "try")
    }
    return {"app.kubernetes.io/managed-by": MANAGED_BY, **dict(sorted(origin.items()))}


def _about(workload: Workload, pods: PodsSpec) -> dict[str, Any]:
    annotations = {"annotations": dict(pods.annotations)} if pods.annotations else {}
    return {"labels": _labels(workload), **annotations}


def _label(value: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", value)[:63].strip("-._")


def _queue(pods: PodsSpec) -> dict[str, str]:
    wanted = {QUEUE: pods.queue, _QUEUE_PRIORITY: pods.queue_priority}
    return {label: value for label, value in wanted.items() if value}


def _pod(name: str, workload: Workload, pods: PodsSpec) -> dict[str, Any]:
    wanted = {
        "restartPolicy": "Never",
        "subdomain": name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": round(pods.grace),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": pods.user,
            "runAsGroup": pods.user,
            "fsGroup": pods.user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "serviceAccountName": pods.service_account,
        "priorityClassName": pods.priority_class,
        "nodeSelector": dict(pods.node_selector),
        "tolerations": list(pods.tolerations),
        "affinity": _together(name, pods.together),
        "topologySpreadConstraints": _spread(name, pods.spread),
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": pods.scratch}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": pods.shared_memory}},
        ],
        "containers": [laid_over(_container(name, workload, pods), pods.container)],
    }
    pod: dict[str, Any] = laid_over(
        {field: value for field, value in wanted.items() if value not in (None, {}, [])}, pods.pod
    )
    return pod


def _container(name: str, workload: Workload, pods: PodsSpec) -> dict[str, Any]:
    gpus = {pods.gpu: str(pods.gpus)} if pods.gpus else {}
    variables = {
        "HOME": "/tmp",  # noqa: S108 (a volume of the pod alone)
        "TMPDIR": "/tmp",  # noqa: S108
        "PYTHONUNBUFFERED": "1",
        "TF_USE_LEGACY_KERAS": "1",  # Keras 3 cannot fit under MultiWorkerMirroredStrategy (keras#20585)
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TIDEGATE_TERMINATION_LOG": _TERMINATION_LOG,
        "TIDEGATE_GRACE": f"{pods.grace:g}",
        "TIDEGATE_HANDOFF": workload.handoff,
        **pods.env,
    }
    place = ["--gang", name, "--members", str(workload.members), "--within", f"{pods.within:g}"]
    return {
        "name": MEMBER,
        "image": pods.image,
        "command": [pods.python, "-m", "tidegate.launch.pod", *place, workload.module],
        "env": [{"name": key, "value": value} for key, value in variables.items()],
        "resources": {
            "requests": {"cpu": pods.cpu, "memory": pods.memory, **gpus},
            "limits": {"memory": pods.memory, **gpus},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePath": _TERMINATION_LOG,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "shm", "mountPath": "/dev/shm"}],  # noqa: S108
    }


def _together(name: str, key: str | None) -> dict[str, Any]:
    if key is None:
        return {}
    term = {"labelSelector": {"matchLabels": {JOB_NAME: name}}, "topologyKey": key}
    return {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def _spread(name: str, key: str | None) -> list[dict[str, Any]]:
    if key is None:
        return []
    return [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {JOB_NAME: name}},
        }
    ]
