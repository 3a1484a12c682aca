"""Asks a server the recorded rows of its bundle: first for the right numbers, then at concurrency, to warm it up."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx

from tidegate.errors import DataError, Unavailable
from tidegate.served import OWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidegate.clients.model_server import Endpoint
    from tidegate.handoff import Feature
    from tidegate.recorded import RecordedAnswers

WARM_REQUESTS, WARM_AT_ONCE, WARM_SECONDS = 400, 8, 5.0
_TIMEOUT = 5.0  # seconds for one answer


def client() -> httpx.Client:
    """Return what asks servers of this machine: no proxy between."""
    return httpx.Client(timeout=_TIMEOUT, trust_env=False)


def probe(
    ask: httpx.Client, endpoint: Endpoint, version: int, features: Sequence[Feature], recorded: RecordedAnswers
) -> float:
    """Send every recorded row by itself and return the largest absolute difference to its recorded probability.

    Raises:
        DataError: a row is refused, is answered by another version, or by a number over the limit.
        Unavailable: a row has no answer in time.
    """
    sent = zip(recorded.rows, _bodies(endpoint, features, recorded), strict=True)
    answered = [_answer(ask, endpoint, version, row, body) for row, body in sent]
    return recorded.compare(endpoint.name, answered)


def warm_up(
    ask: httpx.Client,
    endpoint: Endpoint,
    version: int,
    features: Sequence[Feature],
    recorded: RecordedAnswers,
    requests: int = WARM_REQUESTS,
    at_once: int = WARM_AT_ONCE,
    at_most_s: float = WARM_SECONDS,
) -> int:
    """Send recorded rows from several threads, until `requests` are answered or `at_most_s` seconds passed.

    Returns:
        How many were answered.

    Raises:
        DataError, Unavailable: see `probe`; a server that fails here would fail its first users.
    """
    bodies = _bodies(endpoint, features, recorded)
    turns, deadline = itertools.count(), time.monotonic() + at_most_s  # next() of a count is atomic in CPython

    def one_caller() -> int:
        answered = 0
        while (turn := next(turns)) < requests and time.monotonic() < deadline:
            at = turn % len(bodies)
            _answer(ask, endpoint, version, recorded.rows[at], bodies[at])
            answered += 1
        return answered

    with ThreadPoolExecutor(at_once) as pool:
        callers = [pool.submit(one_caller) for _ in range(at_once)]
    return sum(caller.result() for caller in callers)


def _bodies(endpoint: Endpoint, features: Sequence[Feature], recorded: RecordedAnswers) -> list[bytes]:
    try:
        return endpoint.wire.bodies(features, recorded.columns, OWN)
    except KeyError as error:
        raise DataError(f"the recorded rows have no column {error}, a feature; register the model again") from error


def _answer(ask: httpx.Client, endpoint: Endpoint, version: int, row: int, body: bytes) -> float:
    url = endpoint.predict_url
    try:
        response = ask.post(url, content=body, headers={"Content-Type": "application/json"})
    except httpx.HTTPError as error:
        raise Unavailable(
            f"{url} gave no answer to recorded row {row} within {_TIMEOUT:g} s ({error!r}); see the server's log"
        ) from error
    if response.status_code != httpx.codes.OK:
        raise DataError(
            f"{endpoint.name} answered recorded row {row} with status {response.status_code}, not 200: "
            f"{response.text[:300]}; it must serve what the trained model served: see its log, register the model again"
        )
    try:
        found = endpoint.wire.predictions(response.json())
        probability = found.probabilities[0]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise DataError(f"{url} answered recorded row {row} with no prediction: {response.text[:300]}") from error
    if found.version not in (None, str(version)):  # None: only this version answers at its address
        raise DataError(
            f"{url} answered recorded row {row} by version {found.version}, not {version}: another server has its "
            f"port; retire {endpoint.name} and deploy it again"
        )
    return probability
