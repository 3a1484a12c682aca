"""What a member tells of its training: lines in the log, scalars in the summaries, figures per epoch."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tidegate.train.tracking import Epoch
from tidegate.workload import log

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tidegate.handoff import TrainTask
    from tidegate.train.cluster import Place, Steps
    from tidegate.train.stepping import Call
    from tidegate.train.telemetry import GpuWatch, Summaries

_PERIOD = 10.0  # seconds between two lines within an epoch


@dataclass
class Spent:
    """Where the time of some steps went, in seconds; None where that cannot be told."""

    steps: int = 0
    seconds: float = 0.0
    waited: float | None = 0.0
    talked: float | None = 0.0

    def add(self, call: Call) -> None:
        """Count a call."""
        self.steps += call.steps
        self.seconds += call.seconds
        self.waited = _sum(self.waited, call.waited)
        self.talked = _sum(self.talked, call.talked)

    def figures(self, rows: int) -> dict[str, float]:
        """Return rows/s and the shares of time that are known, for so many rows in a step."""
        seconds = max(self.seconds, 1e-9)
        shares = {"waiting": self.waited, "communication": self.talked}
        known = {name: value / seconds for name, value in shares.items() if value is not None}
        return {"rows_per_s": self.steps * rows / seconds, **known}


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


class Progress:
    """One member's account: `spent` since the epoch began, and the epochs that are done."""

    def __init__(self, task: TrainTask, place: Place, steps: Steps, summaries: Summaries | None, gpus: GpuWatch):
        self._task, self._place, self._steps = task, place, steps
        self._rows = steps.local * place.workers
        self._summaries, self._gpus = summaries, gpus
        self._told = time.monotonic()
        self._lately = Spent()
        self.spent = Spent()
        self.epochs: list[Epoch] = []

    def resume(self, about: Mapping[str, Any]) -> None:
        """Go on from what `about` gave, in a checkpoint."""
        self.epochs = [Epoch(**epoch) for epoch in about["epochs"]]
        self.spent = Spent(**about["spent"])

    def about(self) -> dict[str, Any]:
        """Return what is to be kept in a checkpoint, as JSON data."""
        return {"epochs": [asdict(epoch) for epoch in self.epochs], "spent": asdict(self.spent)}

    def trace(self, step: int, *, is_end: bool = False) -> None:
        """Begin or end the trace that the task asks for, where it begins or ends at this step."""
        if self._summaries is not None:
            self._summaries.trace(step, is_end=is_end)

    def count(self, step: int, call: Call, loss: float) -> None:
        """Count a call that ended at `step`; at times the chief tells of it, with the gang's `loss` of late."""
        self.spent.add(call)
        self._lately.add(call)
        if time.monotonic() - self._told < _PERIOD:
            return
        figures = {"loss": loss, **self._lately.figures(self._rows)}
        self._told, self._lately = time.monotonic(), Spent()
        scalars = {**figures, **self._gpus.read(step)}
        if self._summaries is None:
            return
        self._summaries.write(step, {f"steps/{name}": value for name, value in scalars.items()})
        epoch, within = divmod(step - 1, self._steps.count)
        shown = f"epoch {epoch + 1}/{self._task.epochs} step {within + 1}/{self._steps.count}"
        log(shown, steps_done=step, **_shown(figures))

    def end_epoch(self, step: int, metrics: dict[str, float]) -> None:
        """Close an epoch with the gang's metrics, and tell of it."""
        number = step // self._steps.count
        figures = self.spent.figures(self._rows)
        trained = {f"train_{name}": value for name, value in metrics.items()}
        self.epochs.append(Epoch(number, time.time(), {**trained, **figures}))
        self.spent = Spent()
        if self._summaries is not None:
            scalars = {**metrics, **figures, **self._gpus.read(step)}
            self._summaries.write(step, {f"epochs/{name}": value for name, value in scalars.items()})
        log(f"epoch {number}/{self._task.epochs}", rank=self._place.rank, steps_done=step, **metrics, **_shown(figures))


def _shown(figures: dict[str, float]) -> dict[str, float]:
    """Return figures rounded, for the log."""
    return {name: round(value) if name == "rows_per_s" else round(value, 4) for name, value in figures.items()}
