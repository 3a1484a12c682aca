"""Does the next work while the last is used: an iterator runs in a thread of its own, a few items ahead."""

from __future__ import annotations

import queue
import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

T = TypeVar("T")
_LOOK = 0.2  # seconds between two looks whether somebody still reads


class Ahead(Generic[T]):
    """An iterator that runs in a daemon thread, at most `depth` items ahead of the one who reads it.

    The thread is not waited for: a client that blocks for minutes inside native code can be neither interrupted nor
    waited for, and must not keep the process alive.
    """

    def __init__(
        self,
        items: Callable[[], Iterator[T]],
        depth: int,
        timeout: float | None = None,
        late: Callable[[], Exception] = TimeoutError,
    ):
        self._given: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
        self._is_left = threading.Event()
        self._timeout, self._late = timeout, late
        self._items = items
        threading.Thread(target=self._run, name="tidegate-ahead", daemon=True).start()

    def _run(self) -> None:
        try:
            for item in self._items():
                if not self._put(item, None):
                    return
            self._put(None, StopIteration())
        except BaseException as error:  # raised where the items are read
            self._put(None, error)

    def _put(self, item: T | None, error: BaseException | None) -> bool:
        while not self._is_left.is_set():
            try:
                self._given.put((item, error), timeout=_LOOK)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """Return the next item, raise what the iterator raised, or `late()` after the time-out, seconds."""
        try:
            item, error = self._given.get(timeout=self._timeout)
        except queue.Empty:
            self.close()
            raise self._late() from None
        if error is not None:
            self._given.put((None, error))  # as often as it is asked for
            raise error
        return item  # type: ignore[return-value]  # None only where T allows it

    def close(self) -> None:
        """Let the thread end at its next item."""
        self._is_left.set()


def in_order(jobs: Sequence[Callable[[], Iterator[T]]], side_by_side: int, depth: int = 2) -> Generator[T, None, None]:
    """Yield the items of all jobs, one job's after another's, while the next jobs already run.

    At most `side_by_side` run at once, each no more than `depth` items ahead.
    """
    running: deque[Ahead[T]] = deque()
    waiting = deque(jobs)
    try:
        while running or waiting:
            while waiting and len(running) < side_by_side:
                running.append(Ahead(waiting.popleft(), depth))
            yield from running[0]
            running.popleft()
    finally:
        for each in running:
            each.close()
