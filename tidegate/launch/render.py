"""A stage's Kubernetes objects as a person reads them."""

from __future__ import annotations

import yaml

from tidegate.delivery import delivery_named
from tidegate.errors import SpecError
from tidegate.launch.manifests import job, service
from tidegate.launch.training import training

_HANDOFF = "(the request and its dataset, as JSON, once there is one)"


def text(delivery: str, stage: str) -> str:
    """Return the objects of a delivery's stage as YAML documents, with REQUEST for the request's id.

    Raises:
        SpecError: the delivery cannot be read, or this stage of it does not run in pods.
    """
    spec = delivery_named(delivery)
    if spec.train.pods is None:
        raise SpecError(
            f"{stage} of {delivery} runs as processes of one machine (train.launcher is {spec.train.launcher}), which "
            "have no Kubernetes objects; set launcher: kubernetes and pods: {image: ...} to run it in pods"
        )
    made = job(training(spec, "REQUEST", _HANDOFF))
    things = [made, service(made)] if spec.train.workers > 1 else [made]
    return str(yaml.safe_dump_all(things, sort_keys=False, width=120))
