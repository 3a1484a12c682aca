"""Checkpoints in a lake: whole or absent, the two newest are kept, and storage that is away stops no training."""

from __future__ import annotations

import os
import shutil
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tidegate.errors import DataError, Retryable, TidegateError, Unavailable
from tidegate.lake import Lake
from tidegate.workload import log

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FOLDER = "checkpoints"
_KEPT = 2
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds between tries to publish


@dataclass(frozen=True)
class Saved:
    """A checkpoint: how many steps are done, what else is to be known of them, and where its files lie locally."""

    step: int
    about: dict[str, Any]
    folder: Path


class Store:
    """The checkpoints of one training, below a folder of this machine, HDFS or S3; `name` tells trainings apart."""

    def __init__(self, work: str, name: str):
        self._lake = Lake(work)
        self._below = f"{FOLDER}/{name}"

    def publish(self, saved: Saved) -> None:
        """Store a checkpoint, its manifest last; then remove those before the one before it.

        Raises:
            Unavailable, NoSpace: the storage is away or full; those before are as they were.
        """
        with self._lake.publish(self._key(saved.step), step=saved.step, about=saved.about) as draft:
            for file in saved.folder.iterdir():
                os.link(file, draft.file(file.name))  # $TMPDIR holds both
        for key in self._keys()[:-_KEPT]:
            self._lake.delete(key)

    def newest(self, to: Path) -> Saved | None:
        """Fetch the newest checkpoint that is whole into a local folder, or return None; damaged ones are passed by."""
        for key in reversed(self._keys()):
            try:
                return self._fetch(key, to)
            except DataError as error:
                log("checkpoint passed by", key=key, reason=str(error))
        return None

    def at(self, step: int, to: Path) -> Saved:
        """Fetch the checkpoint of a step into a local folder.

        Raises:
            DataError: there is none, or it is damaged.
        """
        return self._fetch(self._key(step), to)

    def forget(self) -> None:
        """Remove the checkpoints of every training that was asked for with this folder."""
        self._lake.delete(FOLDER)

    def _fetch(self, key: str, to: Path) -> Saved:
        manifest = self._lake.require(key)
        folder = to / key.rpartition("/")[2]
        return Saved(manifest["step"], manifest["about"], self._lake.fetch(key, folder))

    def _keys(self) -> list[str]:
        return self._lake.keys(self._below)

    def _key(self, step: int) -> str:
        return f"{self._below}/{step:012d}"


class Publisher:
    """Publishes checkpoints beside the training: the newest that is offered, tried again until it is stored.

    Args:
        publish: stores one; raises Retryable where a later try may succeed.
    """

    def __init__(self, publish: Callable[[Saved], None]):
        self._publish = publish
        self._changed = threading.Condition()
        self._waiting: Saved | None = None
        self._under_way: Saved | None = None
        self._error: TidegateError | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
        self._thread.start()

    def offer(self, saved: Saved) -> None:
        """Have a checkpoint published; one that still waits for the storage gives way to it."""
        with self._changed:
            if self._waiting is not None:
                log("checkpoint left out", step=self._waiting.step, reason=f"step {saved.step} is newer")
                shutil.rmtree(self._waiting.folder, ignore_errors=True)
            self._waiting = saved
            self._changed.notify_all()

    def flush(self, seconds: float) -> None:
        """Wait until all that was offered is published.

        Raises:
            TidegateError: why it was not, within so many seconds.
        """
        with self._changed:
            if not self._changed.wait_for(self._is_idle, seconds):
                last = self._waiting or self._under_way
                step = last.step if last else 0
                raise self._error or Unavailable(
                    f"the checkpoint of step {step} was not stored within {seconds:.0f} s; training resumes from the "
                    "one before"
                )
            if self._error is not None:
                raise self._error

    def close(self, seconds: float) -> None:
        """Begin to publish nothing more, and wait for so many seconds until what is under way has come to its end."""
        with self._changed:
            self._closed, self._waiting = True, None
            self._changed.notify_all()
        self._thread.join(seconds)

    def _is_idle(self) -> bool:
        return self._waiting is None and self._under_way is None

    def _run(self) -> None:
        while (saved := self._next()) is not None:
            self._store(saved)
            shutil.rmtree(saved.folder, ignore_errors=True)
            with self._changed:
                self._under_way = None
                self._changed.notify_all()

    def _next(self) -> Saved | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting is not None)
            self._under_way, self._waiting = self._waiting, None
            return self._under_way

    def _store(self, saved: Saved) -> None:
        """Try until it is stored, refused for good, or there is a newer one."""
        pause, began = _FIRST_PAUSE, time.monotonic()
        while True:
            try:
                self._publish(saved)
            except Exception as error:  # this thread's edge: nothing may end the training from here
                self._error = error if isinstance(error, TidegateError) else TidegateError(repr(error))
            else:
                self._error = None
                log("checkpoint", step=saved.step, seconds=time.monotonic() - began)
                return
            log("checkpoint not stored", step=saved.step, tries_again_in=pause, reason=str(self._error))
            if self._gave_up(pause):
                return
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _gave_up(self, pause: float) -> bool:
        """Wait before the next try; return whether there is to be none."""
        with self._changed:
            return not isinstance(self._error, Retryable) or self._changed.wait_for(
                lambda: self._closed or self._waiting is not None, pause
            )


def forget(store: Store) -> None:
    """Remove what a finished training no longer needs; storage that is away keeps it, and the log says so."""
    try:
        store.forget()
    except TidegateError as error:
        log("checkpoints left behind", reason=str(error))
