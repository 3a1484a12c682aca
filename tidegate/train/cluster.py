"""A member's place in its gang, as TF_CONFIG tells it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tidegate.errors import DataError, Permanent

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Place:
    """Which member this is (`rank`, from 0) and of how many (`workers`)."""

    rank: int = 0
    workers: int = 1

    @property
    def is_chief(self) -> bool:
        """Whether this member writes what only one may write."""
        return self.rank == 0

    @classmethod
    def read(cls, environment: Mapping[str, str], workers: int) -> Place:
        """Read the place from TF_CONFIG; without it, the member is alone.

        Raises:
            Permanent: the cluster has another number of workers than the task asks for, or TF_CONFIG is not usable.
        """
        text = environment.get("TF_CONFIG", "")
        try:
            config = json.loads(text or '{"cluster": {"worker": [""]}, "task": {"type": "worker", "index": 0}}')
            place = cls(rank=int(config["task"]["index"]), workers=len(config["cluster"]["worker"]))
        except (KeyError, TypeError, ValueError) as error:
            raise Permanent(f"TF_CONFIG is not usable ({error!r}): {text!r}; leave it to the launcher") from error
        if place.workers != workers:
            raise Permanent(f"the gang has {place.workers} workers, the task asks for {workers}; start that many")
        return place


@dataclass(frozen=True)
class Steps:
    """How one epoch's rows are cut: `count` steps, of `local` rows on each worker."""

    count: int
    local: int

    @classmethod
    def cut(cls, rows: int, batch: int, workers: int, parts: int = 1) -> Steps:
        """Cut `rows` into whole steps of the global `batch`, the same number on every worker.

        The rows left over at the end are others in each epoch, because each epoch has its own order.

        Args:
            rows: of the training data.
            batch: rows of a step, on all workers together; rounded down to what can be shared out.
            workers: who share a step.
            parts: into how many equal parts a worker cuts its rows of a step: GPUs, times parts that are accumulated.

        Raises:
            DataError: the rows do not fill one step, or the batch does not give every part of every worker a row.
        """
        local = batch // workers // parts * parts
        if local < 1:
            shared = f"{workers} workers" + (f" with {parts} parts each" if parts > 1 else "")
            raise DataError(f"a batch of {batch} rows is too small for {shared}; set train.batch higher")
        count = rows // (local * workers)
        if count < 1:
            raise DataError(f"{rows} training rows do not fill one batch of {batch}; lower train.batch or add windows")
        return cls(count, local)
