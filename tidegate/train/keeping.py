"""A training's state in checkpoints: written by all members together, stored by the chief, restored by all."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn, Self

import tensorflow as tf

from tidegate.errors import DataError, Retryable, TidegateError, Unavailable
from tidegate.train.checkpoints import Publisher, Saved, Store
from tidegate.workload import log

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tidegate.train.collective import Gang

_FILE = "state"
_END = 30.0  # seconds for the last checkpoint to be stored, where training has ended well
_STORING = 0.8  # share of a preemption's grace that may go into storing the checkpoint
_UNDER_WAY = 5.0  # seconds more for what is being written while it should have ended


class Keeper:
    """The checkpoints of one member.

    tf.train.Checkpoint with the step beside it, rather than tf_keras' BackupAndRestore: the step must be known before
    the data pipeline is made. As TensorFlow asks of multi-worker training every member writes, because what is summed
    over the gang is summed while it is written; all but the chief's files are thrown away.

    Args:
        gang: whose state is kept.
        store: where checkpoints lie.
        scratch: a folder of this machine.
        grace: seconds for the last checkpoint to be stored, where training fails.
        beside: called with each checkpoint, once it is stored; may raise as `Store.publish` does.
    """

    def __init__(self, gang: Gang, store: Store, scratch: Path, grace: float, beside: Callable[[], None] | None = None):
        self._gang, self._store, self._scratch = gang, store, scratch
        self._grace, self._beside = grace, beside
        self._publisher = Publisher(self._publish) if gang.place.is_chief else None
        self._state: Any = None

    def _publish(self, saved: Saved) -> None:
        self._store.publish(saved)
        if self._beside is not None:
            self._beside()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._close(_END if kind is None else self._grace)

    def find(self) -> Saved | None:
        """Return the newest checkpoint that the chief finds whole, fetched, or None; all members must call this.

        Raises:
            Unavailable: the storage is away; or a member does not see what the chief does.
        """
        to = self._scratch / "restored"
        found = self._store.newest(to) if self._gang.place.is_chief else None
        said = self._gang.all_say(json.dumps(found.step if found else None).encode())
        step = json.loads(said[0])
        return found or (None if step is None else self._fetched(step, to))

    def keep(self, saved: Saved | None, **parts: Any) -> None:
        """Keep these parts (models, optimisers, metrics) from now on, and set them back to what was found."""
        self._state = tf.train.Checkpoint(**parts)
        if saved is not None:
            self._state.read(str(saved.folder / _FILE)).assert_existing_objects_matched()

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

    def stop(self, told: bool, step: int, total: int) -> NoReturn:
        """End the gang after a step at which it was agreed to; `told` is whether this member was asked to.

        Every member must call this at the same point, with the state saved.

        Raises:
            Retryable: always; it says who was asked, and whether the state is stored.
        """
        reason = self._settle(_STORING * self._grace)
        asked = [str(rank) for rank, said in enumerate(self._gang.all_say(b"1" if told else b"")) if said]
        state = f"its checkpoint was not stored: {reason}" if reason else "its checkpoint is stored"
        raise Retryable(
            f"member {', '.join(asked)} was told to end (SIGTERM) after step {step} of {total}; {state}; "
            "start the gang again to go on"
        )

    def _settle(self, seconds: float) -> str:
        """Wait until the chief has stored the last checkpoint, and return the reason where it could not, or ''."""
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
