"""The gang that trains a delivery's model, as its file says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegate.launch import Workload

if TYPE_CHECKING:
    from tidegate.delivery import Delivery


def training(delivery: Delivery, request_id: str, handoff: str) -> Workload:
    """Return the gang of one request; `handoff` is its TrainTask as JSON text."""
    return Workload(
        name=f"train-{delivery.delivery}-{request_id}",
        module="tidegate.train",
        environment="train",
        handoff=handoff,
        members=delivery.train.workers,
        timeout_s=delivery.train.timeout,
        pods=delivery.train.pods,
    )
