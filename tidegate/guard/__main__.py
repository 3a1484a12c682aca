"""The guard's process: settings in, one thread that looks at the traffic, one that asks the ledger.

Environment: TIDEGATE_DB (libpq address of the ledger), TIDEGATE_ENVOY_XDS (the folder that Envoy watches),
TIDEGATE_GUARD_STATE (the file in which it keeps what it knows), TIDEGATE_GUARD_PORT and TIDEGATE_GUARD_TOKEN_FILE
(of /metrics), TIDEGATE_GUARD_PATIENCE (seconds without a word from the ledger after which candidates lose their
traffic; default 15), TIDEGATE_GUARD_LONGEST_LEASE (seconds that any lease may run unrenewed; default 120).
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.core import CollectorRegistry

from tidegate.clients.envoy import EnvoyTraffic
from tidegate.clients.exporter import Exporter
from tidegate.clients.ledger import Ledger
from tidegate.errors import SetupError, TidegateError, Unavailable
from tidegate.guard.core import Rules
from tidegate.guard.figures import Figures
from tidegate.guard.loop import Guard
from tidegate.guard.memory import Memory, boot_clock, boot_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidegate.clients.traffic import Split

_log = logging.getLogger("tidegate.guard")
_EVERY_S = 1.0


def main() -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        SetupError: a setting is missing or no number, or the port is taken.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    traffic = EnvoyTraffic(Path(_setting("TIDEGATE_ENVOY_XDS")))
    ledger = Ledger(_setting("TIDEGATE_DB"))
    guard = Guard(
        traffic,
        Memory(Path(_setting("TIDEGATE_GUARD_STATE")), boot_id()),
        Rules(
            patience_s=_seconds("TIDEGATE_GUARD_PATIENCE", Rules.patience_s),
            longest_s=_seconds("TIDEGATE_GUARD_LONGEST_LEASE", Rules.longest_s),
        ),
        boot_clock,
        time.time,
        lambda delivery, split, why: _in_background(_log_abort, ledger, delivery, split, why),
    )
    registry = CollectorRegistry()
    registry.register(Figures(guard))
    token = Path(_setting("TIDEGATE_GUARD_TOKEN_FILE")).read_text(encoding="utf-8").strip()
    with Exporter(registry, int(_setting("TIDEGATE_GUARD_PORT")), token) as exporter:
        _log.info("guarding %s; figures on 127.0.0.1:%d/metrics", traffic.xds, exporter.port)
        _in_background(_ask, ledger, guard, stop)
        while not stop.wait(_EVERY_S):
            try:
                guard.step()
            except (TidegateError, OSError):
                _log.exception("this look failed; the next one tries again")
    _log.info("stopped")


def _ask(ledger: Ledger, guard: Guard, stop: threading.Event) -> None:
    """Ask the ledger every second, in a thread of its own: a ledger that hangs must not hold up the switch."""
    away = False
    while not stop.is_set():
        asked_at = boot_clock()
        try:
            guard.heard(asked_at, ledger.leases())
            guard.quarantined = ledger.quarantined()
        except Exception as error:  # an answer that is none, whatever it is, counts as silence
            guard.unheard(asked_at)
            if not away:
                _log.warning("the ledger gives no answer; leases are counted down without it: %s", error)
            away = True
        else:
            if away:
                _log.info("the ledger answers again")
            away = False
        stop.wait(_EVERY_S)


def _log_abort(ledger: Ledger, delivery: str, split: Split, why: str) -> None:
    detail = {"revision": split.revision, "weights": dict(split.weights), "reason": why}
    try:
        ledger.log(delivery, "aborted", "guard", fence=split.fence, detail=detail)
    except Unavailable as error:
        _log.warning("the abort of %s is logged later, by reconcile: %s", delivery, error)


def _in_background(function: Callable[..., None], *args: object) -> None:
    threading.Thread(target=function, args=args, daemon=True).start()


def _setting(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise SetupError(f"{name} is not set; `tidegate up` sets it, or see the head of tidegate/guard/__main__.py")
    return value


def _seconds(name: str, default: float) -> float:
    text = os.environ.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise SetupError(f"{name} is {text!r}, not a number of seconds above 0; write one, as in {name}={default:g}")
    return value


if __name__ == "__main__":
    main()
