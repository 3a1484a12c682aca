"""Whether one feature tells the label by itself, and whether held-out rows stand in training too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tidegate.dataset.engine import quoted
from tidegate.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tidegate.dataset.engine import Engine
    from tidegate.delivery import DatasetSpec

_LEAST = 20  # held-out rows of either label; by fewer nothing is said


def strengths(engine: Engine, choices: Mapping[str, str], label: str) -> dict[str, float] | None:
    """Return feature -> the AUC with which it alone tells the label of the held-out rows, 0.5 to 1.

    Of two ways the better one: by the rank of a number (missing ones below or above all others), and by the share of
    ones among the training rows of each value. None where there are fewer than 20 held-out rows of either label.
    """
    y = quoted(label)
    positive, negative = engine.one(f"SELECT count(*) FILTER ({y} = 1), count(*) FILTER ({y} = 0) FROM test")
    if min(positive, negative) < _LEAST:
        return None
    found = {}
    for name, encoding in choices.items():
        ways = [_auc(engine, _by_training(name, label))]
        if encoding == "standardise":
            ways.append(_auc(engine, f"SELECT {quoted(name)}::DOUBLE + 0.0 AS v, {y} AS y FROM test"))
        found[name] = round(max(ways), 6)
    return found


def refuse_leaks(found: Mapping[str, float], spec: DatasetSpec) -> None:
    """Refuse a feature that tells the label by itself.

    Raises:
        DataError: it names the features, their AUC and the limit.
    """
    leaks = {name: auc for name, auc in found.items() if auc >= spec.leakage.auc and name not in spec.leakage.allow}
    if leaks:
        listed = ", ".join(f"{name} (AUC {auc:.4f})" for name, auc in sorted(leaks.items(), key=lambda item: -item[1]))
        raise DataError(
            f"{spec.sql}: {listed} tells the label {spec.label!r} of the held-out rows by itself; the limit is "
            f"{spec.leakage.auc:g} (dataset.leakage.auc). It is made of the label, or known only with it: take it out, "
            f"or, if it is known at {spec.event_time}, write dataset.leakage.allow: [{', '.join(leaks)}]"
        )


def repeated(engine: Engine, columns: Sequence[str]) -> int:
    """Return how many held-out rows have the same columns as a training row, compared by a hash of 64 bits."""
    row = f"hash({', '.join(map(quoted, columns))})"
    query = f"SELECT count(*) FROM test SEMI JOIN (SELECT DISTINCT {row} AS h FROM train) AS k ON {row} = k.h"
    return int(engine.one(query)[0])


def _by_training(name: str, label: str) -> str:
    v, y = quoted(name), quoted(label)
    return (
        f"WITH k AS (SELECT {v} AS v, avg({y}) AS m FROM train GROUP BY v) "
        f"SELECT coalesce(k.m, (SELECT avg({y}) FROM train), 0.5) AS v, t.{y} AS y "
        f"FROM test AS t LEFT JOIN k ON t.{v} IS NOT DISTINCT FROM k.v"
    )


def _auc(engine: Engine, rows: str) -> float:
    """Return the AUC of values v for labels y, upwards or downwards, in whole numbers until the last division."""
    wins, p, q, p_missing, q_missing = engine.one(
        f"WITH r AS (SELECT CASE WHEN isfinite(v) THEN v END AS v, y FROM ({rows})), "
        "g AS (SELECT v, count(*) FILTER (y = 1) AS p, count(*) FILTER (y = 0) AS q FROM r GROUP BY v), "
        "c AS (SELECT p, q, sum(q) OVER (ORDER BY v) - q AS below FROM g WHERE v IS NOT NULL) "
        "SELECT (SELECT coalesce(sum(2 * p * below + p * q), 0) FROM c), sum(p), sum(q), "
        "coalesce(sum(p) FILTER (v IS NULL), 0), coalesce(sum(q) FILTER (v IS NULL), 0) FROM g"
    )
    tied = p_missing * q_missing
    lowest, highest = wins + 2 * (p - p_missing) * q_missing + tied, wins + 2 * p_missing * (q - q_missing) + tied
    ways: list[Any] = [lowest, highest, 2 * p * q - lowest, 2 * p * q - highest]
    return float(max(ways)) / float(2 * p * q)
