"""Open-loop load: requests leave by a schedule that no answer can delay, and latency counts from that schedule.

A closed loop waits for a slow answer before it sends again, and so leaves out just the requests that would have
waited: coordinated omission (G. Tene, "How NOT to Measure Latency", 2013). Here a request's latency starts at the
moment it was due, whether or not the generator, the connection pool or the server was ready for it.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from typing import TYPE_CHECKING, NamedTuple

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

NO_ANSWER = 0
_VERSION, _UPSTREAM = "x-tidegate-version", "x-envoy-upstream-service-time"
_HEADERS = {"Content-Type": "application/json"}


class Answer(NamedTuple):
    """What became of one request."""

    scheduled_at: float
    """When it was due, Unix seconds."""
    latency_s: float
    """From when it was due to the last byte of its answer, or to giving up."""
    status: int
    """HTTP status; 0 for none (no connection, or a time-out)."""
    version: str | None
    """The version that answered, as the proxy names it; None without a proxy."""
    upstream: bool
    """Whether a version's own server answered; False for what the proxy said by itself, and without a proxy."""


def fixed(rate: float, seconds: float | None = None) -> Iterator[float]:
    """Yield the instants, in seconds from the start, of evenly spaced requests; for ever if `seconds` is None."""
    for number in itertools.count():
        at = number / rate
        if seconds is not None and at >= seconds:
            return
        yield at


def poisson(rate: float, seconds: float | None = None, seed: int = 0) -> Iterator[float]:
    """Yield the instants of a Poisson stream, as many independent callers make it; the same seed, the same instants."""
    chance = random.Random(seed)  # noqa: S311  # a schedule, not a secret
    at = chance.expovariate(rate)
    while seconds is None or at < seconds:
        yield at
        at += chance.expovariate(rate)


async def drive(
    rows: Sequence[bytes],
    url: str,
    schedule: Iterable[float],
    on_answer: Callable[[Answer], None],
    stop: asyncio.Event | None = None,
    *,
    in_flight: int = 256,
    timeout_s: float = 5.0,
) -> None:
    """POST the rows in turn (from the first again after the last) by a schedule; return when all are answered.

    Args:
        rows: request bodies, made beforehand.
        url: where to send them.
        schedule: ascending instants in seconds from the start.
        on_answer: told of every request once, in the order of the answers; must not block.
        stop: when set, nothing more is sent, and what is on its way is awaited.
        in_flight: most requests at once; one that has to wait for its turn is sent late, and its latency counts that.
        timeout_s: for one answer, from its sending.
    """
    stop = stop or asyncio.Event()
    stopped = asyncio.ensure_future(stop.wait())
    turn = asyncio.Semaphore(in_flight)
    connector = aiohttp.TCPConnector(limit=in_flight, keepalive_timeout=30)
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    skip = ("User-Agent", "Accept", "Accept-Encoding")
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        skip_auto_headers=skip,
        headers=_HEADERS,
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        start, wall = time.monotonic(), time.time()

        async def ask(body: bytes, due: float) -> None:
            try:
                status, version, upstream = await _post(session, url, body)
            finally:
                turn.release()
            on_answer(Answer(wall + due, time.monotonic() - start - due, status, version, upstream))

        try:
            async with asyncio.TaskGroup() as group:
                for body, due in zip(itertools.cycle(rows), schedule, strict=False):
                    early = start + due - time.monotonic()
                    await asyncio.wait((stopped,), timeout=max(early, 0.0))
                    if stop.is_set():
                        break
                    await turn.acquire()
                    group.create_task(ask(body, due))
        finally:
            stopped.cancel()


async def _post(session: aiohttp.ClientSession, url: str, body: bytes) -> tuple[int, str | None, bool]:
    try:
        async with session.post(url, data=body) as response:
            await response.read()
            return response.status, response.headers.get(_VERSION), _UPSTREAM in response.headers
    except (aiohttp.ClientError, TimeoutError, OSError):
        return NO_ANSWER, None, False
