"""The logs of a gang's members as one text: interleaved by time, each line with its member's rank."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


def interleaved(logs: Mapping[int, Sequence[tuple[str, str]]]) -> str:
    """Return all lines in the order of their times, as `[rank] line`; within a member their order stays.

    `logs` has (time, line) pairs by rank; times are texts that sort (ISO 8601). A line without a time ("") belongs to
    the one before it.
    """
    merged = heapq.merge(*(_timed(rank, lines) for rank, lines in logs.items()))
    return "\n".join(f"[{rank}] {line}" for _, rank, _, line in merged)


def dated(lines: Sequence[str]) -> list[tuple[str, str]]:
    """Return (time, line) for lines of which some begin with their own time, as workloads print it."""
    return [(line[:24] if line[:2] == "20" and line[10:11] == "T" else "", line) for line in lines]


def _timed(rank: int, lines: Sequence[tuple[str, str]]) -> Iterator[tuple[str, int, int, str]]:
    at = ""
    for number, (time, line) in enumerate(lines):
        at = max(at, time)
        yield at, rank, number, line
