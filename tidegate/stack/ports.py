"""Chooses free loopback ports once, and says who holds one that should be ours."""

from __future__ import annotations

import random
import socket
from typing import TYPE_CHECKING

import psutil

from tidegate.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Below the kernel's range for outgoing connections (32768 and up): a port remembered there could be
# taken by any client socket between `down` and `up`.
FIRST, LAST = 20000, 32000


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a connection in TIME_WAIT does not count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def choose(names: Iterable[str], taken: Iterable[int] = ()) -> dict[str, int]:
    """Pick a free port for each name, none of them in `taken`.

    Raises:
        SetupError: no free port is left between 20000 and 32000.
    """
    used = set(taken)
    candidates = iter(random.sample(range(FIRST, LAST), LAST - FIRST))
    chosen: dict[str, int] = {}
    for name in names:
        port = next((p for p in candidates if p not in used and is_free(p)), None)
        if port is None:
            raise SetupError(
                f"no free port for {name} between {FIRST} and {LAST} on 127.0.0.1. Remedy: stop other servers"
            )
        chosen[name] = port
    return chosen


def holder(port: int) -> str:
    """Name the process that listens on a port, as far as this user may know it."""
    for conn in psutil.net_connections(kind="tcp"):
        if conn.status == psutil.CONN_LISTEN and conn.laddr and conn.laddr.port == port and conn.pid:
            try:
                return f"process {conn.pid} ({psutil.Process(conn.pid).name()})"
            except psutil.NoSuchProcess:
                break
    return "another process"


def require_free(ports: Mapping[str, int]) -> None:
    """Refuse to start services whose remembered ports someone else listens on.

    Args:
        ports: port by its name, for the services that are not running.

    Raises:
        SetupError: names each port, its service, its holder and the remedy.
    """
    taken = [f"{port} of {name} is held by {holder(port)}" for name, port in ports.items() if not is_free(port)]
    if taken:
        raise SetupError(
            f"port {'; port '.join(taken)}. Remedy: stop that process, or let the stack choose its ports anew: "
            "tidegate up --new-ports"
        )
