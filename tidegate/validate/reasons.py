"""What a reason says: the columns it is about, the value in question, and the reasons of most rows in words."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from tidegate.contract.arrow import BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tidegate.contract import Contract
    from tidegate.handoff import Example

SHOWN = 80
"""Characters of a value in an example or in quarantine; the whole one stands in the raw row."""
TOP = 3
"""Reasons that an alert names."""
_OF_TYPE = re.compile(r"undecodable:(.+)_is_no_[a-z0-9_]+?$")


def columns_of(reason: str, contract: Contract) -> tuple[str, ...]:
    """Return the columns that a reason is about, by their paths: none where a row could not be read at all."""
    name, _, rule = reason.partition(":")
    if name == "undecodable":
        found = _OF_TYPE.match(reason)
        known = found is not None and contract.column(_top(found[1])) is not None
        return (found[1],) if found and known else ()
    if name == "row":
        return next((each.columns for each in contract.row_rules if each.name == rule), ())
    return tuple(name.split("+"))


def value_of(row: Mapping[str, Any], reason: str, columns: tuple[str, ...]) -> str:
    """Return the value for which a raw row broke a rule, at most SHOWN characters of it; `columns` as by columns_of.

    Of several columns it is `a=1, b=2`; of a row that could not be read it is the field that was of another type, or
    else the row's bytes, with \\x before those that are no UTF-8.
    """
    if reason.startswith("undecodable:"):
        return _undecoded(row.get(BYTES), columns)
    if len(columns) != 1:
        return shortened(", ".join(f"{column}={row.get(_top(column))}" for column in columns))
    value = row.get(_top(columns[0]))
    return shortened(value if isinstance(value, str) else repr(value))


def shortened(text: str) -> str:
    """Return a text's first characters, marked where there are more."""
    text = text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode()  # half of a surrogate pair is JSON and no UTF-8


def printable(text: str) -> str:
    """Return a text without what a terminal or a log would obey: control characters are written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def told(reasons: Mapping[str, int], examples: Mapping[str, Example], most: int = TOP) -> str:
    """Return the reasons of most rows in words, each with an example."""
    told_ones = []
    for reason, rows in top(reasons, most):
        example = examples.get(reason)
        such = f", such as {example.position}: {printable(example.value)}" if example else ""
        told_ones.append(f"{rows} rows for {reason}{such}")
    left = len(reasons) - len(told_ones)
    return "; ".join([*told_ones, *([f"and {left} more reasons"] if left else [])])


def top(reasons: Mapping[str, int], most: int = TOP) -> list[tuple[str, int]]:
    """Return the reasons of most rows, these first, with their numbers of rows."""
    return sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:most]


def _undecoded(data: bytes | None, columns: tuple[str, ...]) -> str:
    if data is None:
        return "nothing"
    if columns:
        try:
            value = json.loads(data)[_top(columns[0])]
            return shortened(value if isinstance(value, str) else json.dumps(value))
        except (ValueError, KeyError, TypeError, RecursionError):
            pass  # not the JSON that the reason speaks of: a CSV's column may have such a name
    return shortened(data[: 4 * SHOWN].decode("utf-8", "backslashreplace"))


def _top(path: str) -> str:
    return path.split(".")[0].removesuffix("[]")
