"""The loop of a training: calls of some steps, and between them what the gang has agreed on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tidegate.train.pace import call_length, until_mark
from tidegate.train.stepping import Wishes

if TYPE_CHECKING:
    from tidegate.handoff import TrainTask
    from tidegate.train.cluster import Steps
    from tidegate.train.collective import Gang
    from tidegate.train.interrupt import StopSign
    from tidegate.train.keeping import Keeper
    from tidegate.train.progress import Progress
    from tidegate.train.stepping import Call, Stepper

_FIRST_CALL = 4  # steps, before it is known how long one takes


class Training:
    """One member's way through the steps.

    Members must do the same at the same step, or they wait for each other for ever. So nothing is done on a member's
    own clock or signal: it wishes, all wishes are summed at the start of the next call, and are obeyed at its end.
    """

    def __init__(
        self,
        task: TrainTask,
        gang: Gang,
        steps: Steps,
        stepper: Stepper,
        keeper: Keeper,
        progress: Progress,
        sign: StopSign,
    ):
        self._task, self._gang, self._steps = task, gang, steps
        self._is_chief = gang.place.is_chief
        self._stepper, self._keeper, self._progress, self._sign = stepper, keeper, progress, sign
        self._length = _FIRST_CALL
        self._saved, self._saved_at = -1, time.monotonic()

    def run(self, first: int, total: int, rows: Any) -> None:
        """Run from step `first` up to `total`, on the rows of a distributed iterator.

        Raises:
            Retryable: a member was told to end; the state is stored.
        """
        self._saved = first
        step, wishes = first, Wishes(length=self._length if self._is_chief else 0)
        marks = self._task.profile or ()
        while step < total:
            count = until_mark(step, self._length, self._steps.count, self._task.checkpoint_steps, marks)
            self._progress.trace(step)
            call = self._stepper.call(rows, count, wishes)
            step += count
            self._length = round(call.agreed.length)
            self._progress.count(step, call, call.agreed.loss / self._gang.place.workers)
            self._after(step, total, call.agreed)
            wishes = self._wishes(call)

    def _after(self, step: int, total: int, agreed: Wishes) -> None:
        self._progress.trace(step, is_end=step == total)
        is_end = step % self._steps.count == 0
        if is_end:
            self._progress.end_epoch(step, self._stepper.figures())
            self._stepper.reset()
        every = self._task.checkpoint_steps
        if is_end or agreed.save or agreed.stop or (every is not None and step % every == 0):
            self._save(step)
        if agreed.stop:
            self._keeper.stop(self._sign.is_up, step, total)

    def _save(self, step: int) -> None:
        if step != self._saved:
            self._keeper.save(step, self._progress.about())
            self._saved, self._saved_at = step, time.monotonic()

    def _wishes(self, call: Call) -> Wishes:
        seconds = self._task.checkpoint_seconds
        is_due = seconds is not None and time.monotonic() - self._saved_at >= seconds
        return Wishes(
            stop=self._sign.is_up,
            save=is_due and self._is_chief,
            length=call_length(call.steps, call.seconds, self._length) if self._is_chief else 0,
            loss=call.loss,
        )
