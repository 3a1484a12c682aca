"""The dead-man's switch: once a second, candidate traffic without a live lease goes back to the champion.

A process of its own that needs neither Airflow nor Prometheus. Where the ledger does not answer, nobody can renew a
lease either, so the guard counts the last known expiry down by its own monotonic clock and acts when it is reached.
What it did while the ledger was away is logged when `reconcile` next finds a traffic change that the log missed.
The HTTP server with its figures is in clients/exporter.py: only clients open sockets.

Environment: TIDEGATE_DB (libpq address of the ledger), TIDEGATE_ENVOY_XDS (the folder that Envoy watches),
TIDEGATE_GUARD_PORT and TIDEGATE_GUARD_TOKEN_FILE (of /metrics), TIDEGATE_GUARD_PATIENCE (seconds without a word from
the ledger since the start after which candidates lose their traffic; default 60).
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from prometheus_client.core import CollectorRegistry, CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from tidegate.clients.envoy import EnvoyTraffic
from tidegate.clients.exporter import Exporter
from tidegate.clients.ledger import Ledger
from tidegate.errors import SetupError, TidegateError, Unavailable
from tidegate.rollout.steps import abort

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from prometheus_client.metrics_core import Metric

    from tidegate.clients.records import Lease
    from tidegate.clients.traffic import Split, Traffic

_log = logging.getLogger("tidegate.guard")
_EVERY_S = 1.0


class Splits(Protocol):
    """Knows every delivery's split."""

    def deliveries(self) -> list[str]:
        """Return the names of deliveries with a split."""


@dataclass(frozen=True)
class Sight:
    """What the ledger said last."""

    at: float
    """Monotonic seconds when it answered; the guard's start if it never has."""
    leases: Mapping[str, Lease] | None = None
    """By delivery; None if it never answered."""
    quarantined: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    """Rows by (delivery, source, reason)."""


def verdict(split: Split, delivery: str, sight: Sight, seen_at: float, now: float, patience_s: float) -> str | None:
    """Return why a delivery's candidates must lose their traffic; None if they may keep it. Pure.

    Args:
        split: how its traffic is shared.
        delivery: its name.
        sight: what the ledger said last.
        seen_at: monotonic seconds when these candidates were first seen; what the ledger said before that may be
            older than their lease, so it says nothing against them.
        now: monotonic seconds.
        patience_s: how long candidates may go on without a word from the ledger about them.
    """
    if not split.candidates or split.champion is None:
        return None
    who = ", ".join(sorted(split.candidates))
    if sight.leases is None or sight.at < seen_at:
        silence = now - max(sight.at, seen_at)
        return (
            f"{who} has traffic, and the ledger has not answered for {silence:.0f} s" if silence > patience_s else None
        )
    lease = sight.leases.get(delivery)
    if lease is None or lease.holder is None:
        return f"{who} has traffic, but nobody holds the lease"
    silence = now - sight.at
    left = lease.remaining_s - silence
    if left > 0:
        return None
    heard = f", and the ledger has been silent for {silence:.0f} s" if silence > 3 * _EVERY_S else ""
    return f"the lease of {lease.holder} (fence {lease.fence}) expired {-left:.1f} s ago{heard}"


class Guard:
    """Looks at traffic and leases in turn; a step never blocks on the ledger.

    Args:
        traffic: reads and moves the traffic.
        splits: names the deliveries.
        patience_s: see `verdict`.
        clock: monotonic seconds.
        log: records an abort as (delivery, split, reason); called outside the step's critical part.
    """

    def __init__(
        self,
        traffic: Traffic,
        splits: Splits,
        patience_s: float,
        clock: Callable[[], float],
        log: Callable[[str, Split, str], None],
    ):
        self._traffic = traffic
        self._splits = splits
        self._patience_s = patience_s
        self._clock = clock
        self._record = log
        self._sight = Sight(at=clock())
        self._seen_at: dict[str, float] = {}
        self.aborts: dict[str, int] = {}

    @property
    def sight(self) -> Sight:
        """What the ledger said last."""
        return self._sight

    def saw(self, asked_at: float, leases: Iterable[Lease], quarantined: Mapping[tuple[str, str, str], int]) -> None:
        """Take in what the ledger said, asked at `asked_at` monotonic seconds."""
        self._sight = Sight(asked_at, {lease.delivery: lease for lease in leases}, dict(quarantined))

    def step(self) -> list[str]:
        """Take candidates whose lease is gone off the traffic; return the deliveries where that was done."""
        done = []
        for delivery in self._splits.deliveries():
            split, now = self._traffic.read(delivery), self._clock()
            if not split.candidates:
                self._seen_at.pop(delivery, None)
                continue
            seen_at = self._seen_at.setdefault(delivery, now)
            why = verdict(split, delivery, self._sight, seen_at, now, self._patience_s)
            if why is None:
                continue
            split = abort(self._traffic, delivery, f"guard: {why}")
            self.aborts[delivery] = self.aborts.get(delivery, 0) + 1
            _log.warning("%s: all traffic to %s: %s", delivery, split.champion, why)
            self._record(delivery, split, why)
            done.append(delivery)
        return done

    def weights(self) -> dict[str, Split]:
        """Return every delivery's split."""
        return {delivery: self._traffic.read(delivery) for delivery in self._splits.deliveries()}

    def lease_left_s(self) -> dict[str, float]:
        """Return the seconds until each held lease expires, as far as the ledger has said."""
        silence = self._clock() - self._sight.at
        leases = (self._sight.leases or {}).values()
        return {lease.delivery: lease.remaining_s - silence for lease in leases if lease.holder is not None}


class Figures(Collector):
    """The guard's figures for Prometheus."""

    def __init__(self, guard: Guard):
        self._guard = guard

    def collect(self) -> Iterable[Metric]:
        """Return all figures as they are now."""
        weights = GaugeMetricFamily(
            "tidegate_traffic_weight", "Share of traffic in percent.", labels=["delivery", "version"]
        )
        aborts = CounterMetricFamily(
            "tidegate_guard_aborts", "Times that the guard gave all traffic to the champion.", labels=["delivery"]
        )
        for delivery, split in self._guard.weights().items():
            aborts.add_metric([delivery], self._guard.aborts.get(delivery, 0))
            for version, weight in split.weights.items():
                weights.add_metric([delivery, version], weight)
        leases = GaugeMetricFamily(
            "tidegate_lease_expires_seconds", "Seconds until a held lease expires.", labels=["delivery"]
        )
        for delivery, left in self._guard.lease_left_s().items():
            leases.add_metric([delivery], left)
        rows = CounterMetricFamily(
            "tidegate_rows_quarantined", "Rows put aside by a contract.", labels=["delivery", "source", "reason"]
        )
        for (delivery, source, reason), count in self._guard.sight.quarantined.items():
            rows.add_metric([delivery, source, reason], count)
        yield from (weights, aborts, leases, rows)


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    traffic = EnvoyTraffic(Path(_setting("TIDEGATE_ENVOY_XDS")))
    ledger = Ledger(_setting("TIDEGATE_DB"))
    guard = Guard(
        traffic,
        traffic,
        float(os.environ.get("TIDEGATE_GUARD_PATIENCE", "60")),
        time.monotonic,
        lambda delivery, split, why: _in_background(_log_abort, ledger, delivery, split, why),
    )
    registry = CollectorRegistry()
    registry.register(Figures(guard))
    token = Path(_setting("TIDEGATE_GUARD_TOKEN_FILE")).read_text(encoding="utf-8").strip()
    with Exporter(registry, int(_setting("TIDEGATE_GUARD_PORT")), token) as exporter:
        _log.info("guarding %s; figures on 127.0.0.1:%d/metrics", traffic.xds, exporter.port)
        _in_background(_watch, ledger, guard, stop)
        while not stop.wait(_EVERY_S):
            try:
                guard.step()
            except TidegateError:
                _log.exception("this second's look failed; the next one tries again")
    _log.info("stopped")


def _watch(ledger: Ledger, guard: Guard, stop: threading.Event) -> None:
    """Ask the ledger every second, in a thread of its own: a ledger that hangs must not hold up the switch.

    Should this end in an error nobody thought of, the whole process ends with it, and its supervisor starts it anew.
    """
    away = False
    try:
        while not stop.is_set():
            asked_at = time.monotonic()
            try:
                guard.saw(asked_at, ledger.leases(), ledger.quarantined())
                if away:
                    _log.info("the ledger answers again")
                away = False
            except Unavailable as error:
                if not away:
                    _log.warning("leases are counted down without the ledger: %s", error)
                away = True
            stop.wait(_EVERY_S)
    finally:
        stop.set()


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
        raise SetupError(f"{name} is not set; `tidegate up` sets it, or see the head of tidegate/guard.py")
    return value


if __name__ == "__main__":
    main()
