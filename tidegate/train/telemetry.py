"""Scalars and traces of a training for TensorBoard, and what its GPUs hold and do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf

from tidegate.lake.storage import Storage
from tidegate.train.collective import gpus
from tidegate.train.leak import suspected
from tidegate.workload import log

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tidegate.handoff import TrainTask

FOLDER = "tensorboard"
_READINGS = 512  # of memory that are looked at
# what tf.summary.scalar writes; that function is in the package tensorboard, which training does not need
_SCALAR = tf.compat.v1.SummaryMetadata(
    plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"),
    data_class=1,  # DATA_CLASS_SCALAR
)


class Summaries:
    """Scalars and traces of one member: written on this machine, copied into the run's folder by `push`."""

    def __init__(self, task: TrainTask, scratch: Path):
        self._storage = Storage(task.work)
        self._profile = range(*task.profile) if task.profile else range(0)
        self._is_tracing = False
        self._folder = scratch / FOLDER
        self._pushed: dict[Path, int] = {}
        self._writer = tf.summary.create_file_writer(str(self._folder))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write scalars of a step, by tag."""
        with self._writer.as_default():
            for tag, value in scalars.items():
                tf.summary.write(tag, tf.constant(value, tf.float32), step=step, metadata=_SCALAR)
        self._writer.flush()

    def trace(self, step: int, *, is_end: bool = False) -> None:
        """Record what the processors do from the first step that the task names to its last, or the training's end."""
        if self._is_tracing and (is_end or step not in self._profile):
            tf.profiler.experimental.stop()
            self._is_tracing = False
        elif not self._is_tracing and not is_end and step in self._profile:
            tf.profiler.experimental.start(str(self._folder))
            self._is_tracing = True

    def push(self) -> None:
        """Copy what is new into the run's folder.

        Raises:
            Unavailable, NoSpace: the storage is away or full.
        """
        for path in sorted(path for path in self._folder.rglob("*") if path.is_file()):
            size = path.stat().st_size
            if self._pushed.get(path) != size:
                self._storage.put(path, f"{FOLDER}/{path.relative_to(self._folder).as_posix()}")
                self._pushed[path] = size


class GpuWatch:
    """Memory and utilisation of this member's GPUs over the steps; a member without any reads nothing."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._names = [f"GPU:{number}" for number in range(len(gpus()))]
        self._steps: list[int] = []
        self._held: dict[str, list[float]] = {name: [] for name in self._names}
        self._told: set[str] = set()

    def read(self, step: int) -> dict[str, float]:
        """Read each GPU, and return scalars by tag; the log tells, once for each, of memory that rises steadily."""
        if not self._names:
            return {}
        scalars = _utilisation()
        self._steps = [*self._steps, step][-_READINGS:]
        for name in self._names:
            memory = tf.config.experimental.get_memory_info(name)
            scalars[f"{name.lower()}/memory_bytes"] = memory["current"]
            scalars[f"{name.lower()}/memory_peak_bytes"] = memory["peak"]
            self._held[name] = [*self._held[name], memory["current"]][-_READINGS:]
            self._tell(name)
        return scalars

    def _tell(self, name: str) -> None:
        leak = suspected(self._steps, self._held[name])
        if leak is None or name in self._told:
            return
        self._told.add(name)
        log(
            "memory rises steadily: a leak is suspected",
            rank=self._rank,
            device=name,
            bytes_per_step=leak.slope,
            bytes=leak.grown,
            over_steps=leak.steps,
        )


def _utilisation() -> dict[str, float]:
    """Return the share of time each GPU was busy, by NVIDIA's own library; nothing where it does not answer."""
    import pynvml  # of a member with GPUs only

    try:
        pynvml.nvmlInit()
        count: int = pynvml.nvmlDeviceGetCount()
        found: dict[str, Any] = {
            f"gpu:{number}/utilisation": pynvml.nvmlDeviceGetUtilizationRates(
                pynvml.nvmlDeviceGetHandleByIndex(number)
            ).gpu
            / 100
            for number in range(count)
        }
    except pynvml.NVMLError:
        return {}
    return found
