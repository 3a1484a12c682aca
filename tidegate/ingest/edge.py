"""What every source's edge needs: is somebody there, and an answer in time."""

from __future__ import annotations

import queue
import socket
import threading
from typing import TYPE_CHECKING, TypeVar

from tidegate.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def probe(service: str, host: str, port: int, timeout: float) -> None:
    """Open and close one connection.

    Raises:
        Unavailable: nobody answers at the address within `timeout` seconds.
    """
    try:
        socket.create_connection((host, port), timeout=timeout).close()
    except OSError as error:
        raise away(service, f"{host}:{port}", timeout, error) from error


def away(service: str, address: str, timeout: float, why: object) -> Unavailable:
    """Return the error of a service that does not answer: it names the address and the time-out."""
    return Unavailable(
        f"{service} at {address} did not answer: {why} (time-out {timeout:g} s); start it, or mend the connection"
    )


def within(timeout: float, call: Callable[[], T], late: Callable[[], Exception]) -> T:
    """Return what `call` returns, or raise `late()` after `timeout` seconds.

    The call runs in a daemon thread: a client that blocks for minutes inside native code can be neither interrupted
    nor waited for, and must not keep the process alive.
    """
    answers: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue()

    def run() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:  # handed to the waiting thread, which raises it
            answers.put((None, error))

    threading.Thread(target=run, name="tidegate-within", daemon=True).start()
    try:
        value, error = answers.get(timeout=timeout)
    except queue.Empty:
        raise late() from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]  # None only where T allows it
