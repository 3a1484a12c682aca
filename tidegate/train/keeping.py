"""A training's state in checkpoints: written by all members together, stored by the chief, restored by all."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Self

import tensorflow as tf

from tidegate.errors import DataError, TidegateError, Unavailable
from tidegate.train.checkpoints import Publisher, Saved, Store
from tidegate.workload import log

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tidegate.train.collective import Gang
    from tidegate.train.stepping import Stepper

_FILE = "state"
_END = 30.0  # seconds for the last checkpoint to be stored, where training has ended well
_UNDER_WAY = 5.0  # seconds more for what is being written while it should have ended


class Keeper:
    """The checkpoints of one member.

    tf.train.Checkpoint with the step beside it, rather than tf_keras' BackupAndRestore: the step must be known before
    the data pipeline is made. As TensorFlow asks of multi-worker training every member writes, because what is summed
    over the gang is summed while it is written; all but the chief's files are thrown away.

    Args:
        gang: whose state is kept.
        stepper: whose model, optimiser and metrics are kept.
        store: where checkpoints lie.
        scratch: a folder of this machine.
        grace: seconds for the last checkpoint to be stored, where training fails.
        beside: called with each checkpoint, once it is stored; may raise as `Store.publish` does.
    """

    def __init__(
        self,
        gang: Gang,
        stepper: Stepper,
        store: Store,
        scratch: Path,
        grace: float,
        beside: Callable[[], None] | None = None,
    ):
        self._gang, self._store, self._scratch = gang, store, scratch
        self._state = tf.train.Checkpoint(model=stepper.model, optimizer=stepper.optimizer, **stepper.metrics)
        self._grace, self._beside = grace, beside
        self._publisher = Publisher(self._publish) if gang.place.is_chief else None

    def _publish(self, saved: Saved) -> None:
        self._store.publish(saved)
        if self._beside is not None:
            self._beside()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._close(_END if kind is None else self._grace)

    def restore(self) -> Saved | None:
        """Go back to the newest checkpoint that the chief finds whole; return it, or None where there is none.

        Raises:
            Unavailable: the storage is away; or a member does not see what the chief does.
        """
        to = self._scratch / "restored"
        found = self._store.newest(to) if self._gang.place.is_chief else None
        said = self._gang.all_say(json.dumps(found.step if found else None).encode())
        step = json.loads(said[0])
        if step is None:
            return None
        if found is None:
            found = self._fetched(step, to)
        self._state.read(str(found.folder / _FILE)).assert_existing_objects_matched()
        return found

    def _fetched(self, step: int, to: Path) -> Saved:
        try:
            return self._store.at(step, to)
        except DataError as error:
            raise Unavailable(f"member {self._gang.place.rank} does not see the chief's checkpoint: {error}") from error

    def save(self, step: int, about: dict[str, Any]) -> None:
        """Write a checkpoint, and have it published; every member must call this at the same point."""
        folder = self._scratch / f"step-{step}"
        folder.mkdir(exist_ok=True)
        self._state.write(str(folder / _FILE))
        if self._publisher is not None:
            self._publisher.offer(Saved(step, about, folder))
        else:
            for file in folder.iterdir():
                file.unlink()

    def settle(self, seconds: float) -> str:
        """Wait until the chief has stored the last checkpoint, and return the reason where it could not, or ''.

        Every member must call this at the same point; all get the chief's answer.
        """
        reason = ""
        if self._publisher is not None:
            try:
                self._publisher.flush(seconds)
            except TidegateError as error:
                reason = str(error)
        return self._gang.all_say(reason.encode())[0].decode()

    def _close(self, seconds: float) -> None:
        """Wait for the chief's last checkpoint to be stored; the log tells if it was not. Then publish nothing more."""
        if self._publisher is None:
            return
        try:
            self._publisher.flush(seconds)
        except TidegateError as error:
            log("last checkpoint not stored", reason=str(error))
        self._publisher.close(_UNDER_WAY)
