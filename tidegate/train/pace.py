"""How a training is paced: how many steps run between two looks at the world, and at which learning rate; pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

_CALL = 0.5  # seconds of steps between two looks: short beside the grace of a preemption, long beside a look
_MOST = 512  # steps between two looks

Scale = Literal["none", "sqrt", "linear"]
"""How the learning rate grows with the batch."""


def call_length(steps: int, seconds: float, before: int) -> int:
    """Return how many steps the next call should have, from those of the last one; at most twice as many as before."""
    fitting = steps * _CALL / seconds if seconds > 0 else _MOST
    return max(1, min(_MOST, 2 * before, math.floor(fitting)))


def until_mark(step: int, wished: int, per_epoch: int, every: int | None, marks: Sequence[int] = ()) -> int:
    """Return how many steps to run from `step`, at most `wished`, so that no mark is run over.

    Marks are the ends of epochs (each of `per_epoch` steps), every `every`th step where that is given, and `marks`.
    """
    left = [wished, per_epoch - step % per_epoch, *(mark - step for mark in marks if mark > step)]
    if every is not None:
        left.append(every - step % every)
    return min(left)


@dataclass(frozen=True)
class Rate:
    """The learning rate at each step: a warm-up from `start` to `end` over so many steps, then `end`."""

    start: float
    end: float
    warmup: int = 0

    @classmethod
    def scaled(cls, rate: float, rule: Scale, batch: int, base_batch: int, warmup: int) -> Rate:
        """Return the rate for a batch, given the one that suits `base_batch` rows.

        linear: proportional to the batch (Goyal et al. 2017, arXiv:1706.02677), which keeps the step per row; sqrt:
        to its square root (Krizhevsky 2014, arXiv:1404.5997; Malladi et al. 2022, arXiv:2205.10287, for Adam), which
        keeps the noise of the step. Training starts at `rate`, as the first of these papers does.
        """
        factor = batch / base_batch
        grown = {"none": 1.0, "sqrt": math.sqrt(factor), "linear": factor}[rule]
        return cls(rate if rule != "none" else rate / max(1, warmup), rate * grown, warmup)

    def at(self, step: int) -> float:
        """Return the rate of a step, counted from 0."""
        if step >= self.warmup:
            return self.end
        return self.start + (self.end - self.start) * step / self.warmup
