"""Paths that name the window they hold: `/events/dt={start:%Y-%m-%d}` is one path for each day of a window."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tidegate.units import add_window

if TYPE_CHECKING:
    from datetime import datetime

_FIELD = re.compile(r"\{(start|end):([^{}]+)\}")
_UNITS = {"Y": "year", "m": "month", "d": "day", "j": "day", "H": "hour"}
_NEEDS = {"month": "Y", "day": "Ym", "hour": "Yd"}
_STEP = {"hour": "1 hour", "day": "1 day", "month": "1 month", "year": "12 months"}
_HOURS = {"hour": 1, "day": 24, "week": 168, "month": 28 * 24, "year": 365 * 24}


def checked(template: str) -> str:
    """Return the template.

    Raises:
        ValueError: it is none; the message says why, and the remedy.
    """
    example = "Remedy: write {start:%Y-%m-%d}, or {end:%Y%m%dT%H}, for a part of the window; the rest as it is"
    if re.search(r"[{}]", _FIELD.sub("", template)):
        raise ValueError(f"a brace that opens or closes no {{start:...}} and no {{end:...}} {example}")
    if ".." in template.split("/"):
        raise ValueError("'..' in a path Remedy: write the path from the root on")
    letters = [letter for _, form in _FIELD.findall(template) for letter in re.findall(r"%(.?)", form)]
    unknown = [letter for letter in letters if letter not in _UNITS]
    if unknown:
        raise ValueError(
            f"%{unknown[0]} is no part of a window here; %Y, %m, %d, %j (day of the year) and %H are {example}"
        )
    if _FIELD.search(template) and not letters:
        raise ValueError(f"a part of the window without a form {example}")
    missing = set(_NEEDS.get(_finest(letters), "") if letters else "") - set(letters)
    if "j" in letters:
        missing -= {"m", "d"}
    if missing:
        raise ValueError(f"without %{min(missing)} the path is the same for several windows {example}")
    return template


def is_windowed(template: str) -> bool:
    """Whether a path depends on the window: files of another path are reference data, read whole for each."""
    return _FIELD.search(template) is not None


def unit(template: str) -> str | None:
    """Return what one path holds: an hour, day, month or year; None if it holds a whole window, or reference data."""
    if not is_windowed(template) or _names_whole(template):
        return None
    return _finest(re.findall(r"%(.)", template))


def misfit(template: str, window: str) -> str | None:
    """Return why the paths do not fit windows of a length ('1 hour'), or None.

    A path that holds more than a window would be read for several, and its rows of the others be put aside.
    """
    held = unit(template)
    if held is None:
        return None
    count, _, length = window.partition(" ")
    if _HOURS[held] <= int(count) * _HOURS[length.rstrip("s")]:
        return None
    return (
        f"path {template!r} holds a {held}, and windows are {window} Remedy: name a shorter time in the path, as by "
        f"%{'H' if length.startswith('hour') else 'd'}, or make the window 1 {held}"
    )


def paths(template: str, start: datetime, end: datetime) -> list[str]:
    """Return the paths of a window [start, end), in the order of time; each may be a pattern still.

    By `{start}` or `{end}` alone there is one for each of the template's own units, whose start or end it names; by
    both there is one, which names the window. Times are UTC.
    """
    if not is_windowed(template):
        return [template]
    step = unit(template)
    if step is None:
        return [_filled(template, start, end)]
    found, moment = [], _floor(start, step)
    while moment < end:
        following = add_window(moment, _STEP[step])
        found.append(_filled(template, moment, following))
        moment = following
    return found


def _names_whole(template: str) -> bool:
    return len({name for name, _ in _FIELD.findall(template)}) == 2


def _filled(template: str, start: datetime, end: datetime) -> str:
    return _FIELD.sub(lambda match: (start if match[1] == "start" else end).strftime(match[2]), template)


def _finest(letters: list[str]) -> str:
    return min((_UNITS[letter] for letter in letters), key=lambda each: _HOURS[each])


def _floor(moment: datetime, step: str) -> datetime:
    fields = {"minute": 0, "second": 0, "microsecond": 0}
    if step != "hour":
        fields["hour"] = 0
    if step in ("month", "year"):
        fields["day"] = 1
    if step == "year":
        fields["month"] = 1
    return moment.replace(**fields)  # type: ignore[arg-type]  # none of them is the zone
