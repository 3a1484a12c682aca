"""What the champion says to a candidate's held-out rows, or why it cannot be asked, and what to know beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow.compute

from tidegate.errors import DataError
from tidegate.units import add_window, utc

if TYPE_CHECKING:
    from datetime import datetime

    from numpy.typing import NDArray

    from tidegate.evaluate.task import EvaluateTask
    from tidegate.handoff import Bundle
    from tidegate.lake import Lake

pc: Any = pyarrow.compute


@dataclass(frozen=True)
class Champion:
    """A champion that was asked, or the reason why none was."""

    name: str | None = None
    digest: str | None = None
    predictions: NDArray[Any] | None = None
    """Probabilities, [n]."""
    reason: str | None = None
    notes: list[str] = field(default_factory=list)


def champion_of(task: EvaluateTask, lake: Lake, table: Any) -> Champion:
    """Ask the task's champion for the held-out rows; that it cannot read them is said and fails nothing."""
    bundle = task.champion
    if bundle is None:
        return Champion(reason=task.reason or "there is no champion")
    if bundle.request.request_id == task.trained.request_id:
        return Champion(reason=f"the champion {bundle.name} is the model of this very request")
    if bundle.dataset.label != task.dataset.label:
        return Champion(
            reason=f"the champion {bundle.name} says {bundle.dataset.label}, the rows are labelled {task.dataset.label}"
        )
    from tidegate.evaluate.predictions import CannotRead, of_bundle

    try:
        said = of_bundle(lake, bundle, table)
    except CannotRead as error:
        return Champion(reason=f"the champion {bundle.name} {error}")
    first = pc.min(table[task.event_time]).as_py()
    return Champion(bundle.name, bundle.digest, said, notes=_notes(lake, bundle, utc(first.isoformat())))


def _notes(lake: Lake, bundle: Bundle, first: datetime) -> list[str]:
    """Say where the champion was trained on times that are held out here, which is in its favour."""
    try:
        held_out = json.loads(lake.read(bundle.key, "bundle.json", bundle.digest))["delivery"]["dataset"]["test"]
        until = add_window(bundle.dataset.window.end, held_out.removeprefix("last "), -1)
    except (DataError, KeyError, ValueError) as error:
        return [f"until when the champion {bundle.name} was trained is not known ({type(error).__name__})"]
    if until <= first:
        return []
    return [
        f"the champion {bundle.name} was trained on rows until {until:%Y-%m-%d %H:%M}, the held-out rows begin at "
        f"{first:%Y-%m-%d %H:%M}: it may have seen some of them, which is in its favour"
    ]
