"""Durations, shares, rates and factors as users write them, with their units, parsed once at the edge."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

_SECONDS = {
    "ms": 0.001,
    "s": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "day": 86400.0,
    "week": 604800.0,
}
_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|days?|d|weeks?)\s*$")
_INSTANT = re.compile(r"^\d{4}-\d\d-\d\d([T ].*)?$")
_WINDOW = re.compile(r"^\s*(\d+)\s*(hour|day|week|month)s?\s*$")
_SHARE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*%\s*$")
_RATE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*/\s*s\s*$")
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(KB|MB|GB)\s*$")
_STEPS = re.compile(r"^\s*(\d+)\s*steps?\s*$")
_EVERY = re.compile(rf"{_DURATION.pattern}|{_STEPS.pattern}")
_STEP_RANGE = re.compile(r"^\s*steps\s+(\d+)\s*-\s*(\d+)\s*$")
_FACTOR = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*x\s*$")


def parse_duration(value: Any) -> float:
    """Return seconds for '10m', '50ms', '30 s', '2 days'; numbers pass as seconds (from stored JSON)."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    match = _DURATION.match(str(value))
    if not match:
        raise ValueError("not a duration Remedy: write a number and a unit, as in 50ms, 20s, 10m, 2h or 1 day")
    unit = match[2].removesuffix("s") if match[2] in ("days", "weeks") else match[2]
    return float(match[1]) * _SECONDS[unit]


def _unit(pattern: re.Pattern[str], scale: float, what: str, example: str) -> Any:
    def parse(value: Any) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        match = pattern.match(str(value))
        if not match:
            raise ValueError(f"not a {what} Remedy: write it with its unit, as in {example}")
        return float(match[1]) * scale

    return parse


def _schema(pattern: re.Pattern[str], example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern.pattern, "examples": [example]}, mode="validation")


Seconds = Annotated[float, BeforeValidator(parse_duration), Field(ge=0), _schema(_DURATION, "10m")]
Share = Annotated[
    float, BeforeValidator(_unit(_SHARE, 0.01, "share", "10%")), Field(ge=0, le=1), _schema(_SHARE, "10%")
]
Rate = Annotated[float, BeforeValidator(_unit(_RATE, 1, "rate", "200/s")), Field(gt=0), _schema(_RATE, "200/s")]
Factor = Annotated[float, BeforeValidator(_unit(_FACTOR, 1, "factor", "1.5x")), Field(ge=1), _schema(_FACTOR, "1.5x")]


def parse_size(value: Any) -> int:
    """Return bytes for '25MB' (a million each), '1GB'; numbers pass as bytes (from stored JSON)."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.match(str(value))
    if not match:
        raise ValueError("not a size Remedy: write a number and KB, MB or GB, as in 25MB")
    return round(float(match[1]) * {"KB": 10**3, "MB": 10**6, "GB": 10**9}[match[2]])


def parse_every(value: Any) -> str:
    """Return an interval, written in time or in steps, as it is: '5m', '500 steps'."""
    text = str(value)
    if not _EVERY.match(text) or not any(digit in "123456789" for digit in text):
        raise ValueError("not an interval Remedy: write a time or a number of steps above zero, as in 5m or 500 steps")
    return text


def seconds_or_steps(every: str) -> tuple[float | None, int | None]:
    """Return an interval's seconds, or its steps."""
    steps = _STEPS.match(every)
    return (None, int(steps[1])) if steps else (parse_duration(every), None)


def parse_step_range(value: Any) -> tuple[int, int]:
    """Return (100, 110) for 'steps 100-110': from the first, up to but without the second."""
    if isinstance(value, list | tuple) and len(value) == 2:
        return int(value[0]), int(value[1])
    match = _STEP_RANGE.match(str(value))
    if not match or int(match[1]) >= int(match[2]):
        raise ValueError("not a range of steps Remedy: write the first and the one after the last: steps 100-110")
    return int(match[1]), int(match[2])


Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0), _schema(_SIZE, "25MB")]
Every = Annotated[str, BeforeValidator(parse_every), _schema(_EVERY, "5m")]
StepRange = Annotated[tuple[int, int], BeforeValidator(parse_step_range), _schema(_STEP_RANGE, "steps 100-110")]


def parse_window_length(value: Any) -> str:
    """Return the canonical form ('1 month', '2 days') of a window's length."""
    match = _WINDOW.match(str(value))
    if not match or int(match[1]) < 1:
        raise ValueError("not a window length Remedy: write a whole number of hours, days, weeks or months: 1 month")
    count = int(match[1])
    return f"{count} {match[2]}" + ("s" if count > 1 else "")


WindowLength = Annotated[str, BeforeValidator(parse_window_length), _schema(_WINDOW, "1 month")]


def add_window(moment: datetime, length: str, times: int = 1) -> datetime:
    """Return `moment` moved by `times` windows (negative: back), in calendar months where the unit is months."""
    match = _WINDOW.match(length)
    if match is None:
        raise ValueError(f"not a window length: {length!r}")
    count, unit = int(match[1]) * times, match[2]
    if unit != "month":
        return moment + timedelta(**{f"{unit}s": count})
    months = moment.year * 12 + moment.month - 1 + count
    return moment.replace(year=months // 12, month=months % 12 + 1)


def cron_of(length: str) -> str:
    """Return the cron expression at which windows of this length end; only single units have one.

    Raises:
        ValueError: the length has no cron form, as in '5 hours'.
    """
    forms = {"1 hour": "0 * * * *", "1 day": "0 0 * * *", "1 week": "0 0 * * 1", "1 month": "0 0 1 * *"}
    if length not in forms:
        raise ValueError(f"window {length!r} cannot be scheduled Remedy: use one of {', '.join(forms)}")
    return forms[length]


def _instant(value: object) -> datetime:
    return utc(str(value))


Instant = Annotated[datetime, BeforeValidator(_instant), _schema(_INSTANT, "2013-01-01")]


def utc(text: str) -> datetime:
    """Parse an ISO 8601 date or instant; without a zone it is UTC."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
