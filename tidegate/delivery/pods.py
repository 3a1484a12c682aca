"""What a member's pod asks of a Kubernetes cluster, as a user writes it below `train.pods`."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from tidegate.delivery.spec import Spec
from tidegate.units import Seconds

_QUANTITY = r"^\d+(\.\d+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"
_LABEL = r"^[a-z0-9A-Z]([-a-z0-9A-Z./_]*[a-z0-9A-Z])?$"
# What the gang stands on: a template that changed it would break rendezvous, limits or safety without a word.
_POD_RESERVED = frozenset({"containers", "restartPolicy", "subdomain", "hostname", "automountServiceAccountToken"})
_CONTAINER_RESERVED = frozenset({"name", "image", "command", "args", "resources", "terminationMessagePath"})


class PodsSpec(Spec):
    """One pod per member: its image, its resources, where it may run, and how long the gang may wait for its place."""

    connection: str = Field(
        default="kubernetes",
        description="Airflow connection: extra in_cluster, or kube_config_path (and cluster_context), and namespace",
    )
    image: str = Field(
        description="with Python, TensorFlow and tidegate as docker/train has them", examples=["train:1"]
    )
    python: str = Field(default="python", description="the interpreter inside the image")
    cpu: str = Field(default="1", pattern=_QUANTITY, description="processor per member, asked for; there is no limit")
    memory: str = Field(default="4Gi", pattern=_QUANTITY, description="memory per member, asked for and the limit")
    gpus: int = Field(default=0, ge=0, le=64, description="per member; gradients then go by NCCL, else by RING")
    gpu: str = Field(default="nvidia.com/gpu", pattern=_LABEL, description="the resource that is a GPU here")
    shared_memory: str = Field(
        default="1Gi", pattern=_QUANTITY, description="size of /dev/shm, counted as the pod's memory"
    )
    scratch: str = Field(default="10Gi", pattern=_QUANTITY, description="size of the temporary folder")
    user: int = Field(default=1000, ge=1, description="numeric user and group of the members; never root")
    queue: str | None = Field(default=None, pattern=_LABEL, description="Kueue's LocalQueue: members start all or none")
    queue_priority: str | None = Field(default=None, pattern=_LABEL, description="Kueue's WorkloadPriorityClass")
    priority_class: str | None = Field(default=None, pattern=_LABEL, description="the pods' PriorityClass")
    service_account: str | None = Field(default=None, pattern=_LABEL, description="its token is not mounted")
    node_selector: dict[str, str] = Field(default_factory=dict, description="labels that a node must have")
    tolerations: list[dict[str, Any]] = Field(default_factory=list, description="as in a pod's spec")
    together: str | None = Field(
        default=None, pattern=_LABEL, description="label of nodes of which all members share one value",
        examples=["topology.kubernetes.io/zone"],
    )  # fmt: skip
    spread: str | None = Field(
        default=None, pattern=_LABEL, description="label of nodes over whose values members are spread evenly",
        examples=["kubernetes.io/hostname"],
    )  # fmt: skip
    within: Seconds = Field(
        default=600.0, description="a gang whose members do not all have a node by then is withdrawn; a queue may wait"
    )
    restarts: int = Field(default=2, ge=0, le=100, description="per member that was killed or lost its peers")
    grace: Seconds = Field(default=30.0, description="between SIGTERM and SIGKILL: time for a checkpoint")
    keep: Seconds = Field(default=600.0, description="how long the pods of an ended gang can still be looked at")
    tracking: str | None = Field(
        default=None, pattern=r"^https?://", examples=["http://mlflow.mlflow:5000"],
        description="MLflow's address as pods reach it; default: the connection's",
    )  # fmt: skip
    annotations: dict[str, str] = Field(
        default_factory=dict, description="of the pods", examples=[{"sidecar.istio.io/inject": "false"}]
    )
    env: dict[str, str] = Field(default_factory=dict, description="plain variables; secrets go by container.envFrom")
    pod: dict[str, Any] = Field(
        default_factory=dict, description="laid over the pod's spec: volumes, affinity, imagePullSecrets, ..."
    )
    container: dict[str, Any] = Field(
        default_factory=dict, description="laid over the member's container: volumeMounts, envFrom, ..."
    )

    @model_validator(mode="after")
    def _leaves_the_gang_whole(self) -> Self:
        for field, taken in (("pod", _POD_RESERVED), ("container", _CONTAINER_RESERVED)):
            wrong = sorted(taken & getattr(self, field).keys())
            if wrong:
                raise ValueError(
                    f"{field} sets {', '.join(wrong)}, which the gang stands on "
                    "Remedy: leave it out; image, python, cpu, memory, gpus and env are fields of their own"
                )
        if self.queue_priority and not self.queue:
            raise ValueError("queue_priority is of a queue Remedy: name the queue too, or leave both out")
        return self
