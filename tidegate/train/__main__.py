"""Trains as one member of a gang: python -m tidegate.train --handoff in.json --out out.json."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tidegate import workload
from tidegate.delivery import project_root
from tidegate.handoff import TrainTask
from tidegate.train.member import train

if TYPE_CHECKING:
    from tidegate.handoff import Trained


def _here(task: TrainTask) -> Trained | None:
    """Train with the project's files as this machine has them: an image has its own root."""
    root = project_root()
    files = {"model_file": str(root / task.model_file), "lock": str(root / task.lock)}
    return train(task.model_copy(update=files))


if __name__ == "__main__":
    sys.exit(workload.main(TrainTask, _here))
