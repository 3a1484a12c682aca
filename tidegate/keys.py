"""Names of everything the lake holds: each a pure function of what the thing is, so that a repeated run finds it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tidegate.handoff import Window
from tidegate.units import add_window

if TYPE_CHECKING:
    from collections.abc import Iterator

_WINDOW_ID = re.compile(r"^(\d{8}T\d{6}Z)-(\d{8}T\d{6}Z)$")


def raw(delivery: str, source: str, window: Window) -> str:
    """Return the key of a slice as it was read: slices/<delivery>/<source>/<window>/raw."""
    return f"slices/{delivery}/{source}/{window.id}/raw"


def plan(delivery: str, source: str, window: Window) -> str:
    """Return the key of how a large slice is cut before it is read: slices/<delivery>/<source>/<window>/plan."""
    return f"slices/{delivery}/{source}/{window.id}/plan"


def parts(delivery: str, source: str, window: Window) -> str:
    """Return what the keys of a large slice's parts begin with; then come the plan's revision and a number."""
    return f"slices/{delivery}/{source}/{window.id}/parts"


def validated(delivery: str, source: str, window: Window) -> str:
    """Return the key of a slice after its contract: slices/<delivery>/<source>/<window>/validated."""
    return f"slices/{delivery}/{source}/{window.id}/validated"


def refused(delivery: str, source: str, window: Window) -> str:
    """Return the key of what a slice was refused for, as a whole: slices/<delivery>/<source>/<window>/refused."""
    return f"slices/{delivery}/{source}/{window.id}/refused"


def statistics(delivery: str, source: str, window: Window) -> str:
    """Return the key of a validated slice's statistics: slices/<delivery>/<source>/<window>/statistics."""
    return f"slices/{delivery}/{source}/{window.id}/statistics"


def report(delivery: str, window: Window) -> str:
    """Return the key of what was seen when a window was watched: reports/<delivery>/<window>."""
    return f"reports/{delivery}/{window.id}"


def bounds(delivery: str, source: str, window: Window | None = None) -> str:
    """Return the key of a window's bounds in a table read by key, bounds/<delivery>/<source>/<window>, or of all."""
    return f"bounds/{delivery}/{source}" + (f"/{window.id}" if window else "")


def dataset(delivery: str, window: Window) -> str:
    """Return the key of a training table: datasets/<delivery>/<window>."""
    return f"datasets/{delivery}/{window.id}"


def model(delivery: str, request_id: str) -> str:
    """Return the key of a trained SavedModel: models/<delivery>/<request_id>."""
    return f"models/{delivery}/{request_id}"


def optimised(delivery: str, request_id: str) -> str:
    """Return the key of an optimised artefact: optimised/<delivery>/<request_id>."""
    return f"optimised/{delivery}/{request_id}"


def evaluation(delivery: str, request_id: str) -> str:
    """Return the key of what was seen of a trained model on its held-out rows: evaluations/<delivery>/<request_id>."""
    return f"evaluations/{delivery}/{request_id}"


def bundle(delivery: str, version: int) -> str:
    """Return the key of a servable bundle: bundles/<delivery>/v<version>."""
    return f"bundles/{delivery}/v{version}"


def window_of(key: str) -> Window:
    """Return the window that a slice's or dataset's key carries.

    Raises:
        ValueError: no part of the key is a window id.
    """
    for part in key.split("/"):
        if match := _WINDOW_ID.match(part):
            return Window(start=_moment(match[1]), end=_moment(match[2]))
    raise ValueError(f"no window in the key {key!r}; a window id reads 20130101T000000Z-20130201T000000Z")


def windows(window: Window, length: str) -> Iterator[Window]:
    """Yield the consecutive windows of one length ('1 month') that make up `window`.

    Raises:
        ValueError: `window` is not a whole number of them.
    """
    start = window.start
    while start < window.end:
        end = add_window(start, length)
        if end > window.end:
            raise ValueError(f"{window} is not a whole number of {length} windows; move its end to {end.isoformat()}")
        yield Window(start=start, end=end)
        start = end


def _moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
