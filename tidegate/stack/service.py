"""What the stack knows of one service: how to prepare it, run it and tell that it is ready."""

from __future__ import annotations

import http.client
import json
import socket
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tidegate.stack.supervision import Program

_ANSWER_S = 5.0  # seconds that one readiness probe may take


def nothing() -> None:
    """Do nothing: the default of a service that needs no preparation."""


@dataclass(frozen=True)
class Service:
    """A node of the start-up graph: a supervised program, or a step that runs once (no program)."""

    name: str
    version: Callable[[], str]
    """Asked for after `prepare`: what is fetched tells its version only then."""
    needs: tuple[str, ...] = ()
    """Services that must be ready first."""
    ports: tuple[str, ...] = ()
    """Names of the ports it listens on; the first one is shown to people."""
    prepare: Callable[[], None] = nothing
    """Writes configuration and fetches programs; runs without waiting for `needs`."""
    before: Callable[[], None] = nothing
    """Runs when `needs` are ready, before the program starts."""
    program: Callable[[], Program] | None = None
    """The program, asked for after `prepare`."""
    ready: Callable[[float], bool] = lambda _: True
    """Whether it serves now; gets the Unix time at which its process started."""
    after: Callable[[], None] = nothing
    """Runs once it serves, before others that need it start."""
    timeout_s: float = 120.0
    """Longest time from start to ready."""


def listens(port: int) -> bool:
    """Whether something accepts connections on 127.0.0.1:port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_S):
            return True
    except OSError:
        return False


def get(url: str) -> bytes | None:
    """The body of an HTTP answer of status 200; None if there is no such answer (yet)."""
    try:
        with urllib.request.urlopen(url, timeout=_ANSWER_S) as answer:  # noqa: S310  # our own loopback addresses
            return bytes(answer.read()) if answer.status == 200 else None
    except (OSError, http.client.HTTPException):  # URLError is an OSError
        return None


def answers(url: str) -> bool:
    """Whether an HTTP GET gets status 200."""
    return get(url) is not None


def get_json(url: str) -> Any:
    """The JSON of an HTTP answer of status 200; None if there is no such answer (yet)."""
    body = get(url)
    return None if body is None else json.loads(body)
