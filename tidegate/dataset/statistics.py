"""What the rows of a dataset look like, feature by feature, in training and in test: exact, and the same each time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tidegate.dataset.encode import moments
from tidegate.dataset.engine import quoted

if TYPE_CHECKING:
    from tidegate.contract.encodings import Encodings
    from tidegate.dataset.engine import Engine

_FORMAT = 1
_QUANTILES = {"p1": 0.01, "p5": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}
_TOP = 20  # values listed of a vocabulary


def describe(engine: Engine, encodings: Encodings, label: str) -> dict[str, Any]:
    """Return counts, moments and quantiles of each number, the most frequent values of each vocabulary.

    Quantiles are values that occur (the least with that share of rows at or below it). `unseen` counts the held-out
    rows whose category no training row has. Values that are not finite are counted, and in no other figure.
    """
    return {
        "format": _FORMAT,
        "parts": {part: _part(engine, part, label) for part in ("train", "test")},
        "features": {
            each.name: {
                part: _categories(engine, part, each.name)
                if each.encoding == "vocabulary"
                else _numbers(engine, part, each.name)
                for part in ("train", "test")
            }
            for each in encodings.features
        },
    }


def not_finite(statistics: dict[str, Any]) -> dict[str, int]:
    """Return feature -> how many of its values are NaN or infinite, in both parts, where there are any."""
    found = {
        name: sum(part.get("not_finite", 0) for part in parts.values())
        for name, parts in statistics["features"].items()
    }
    return {name: count for name, count in found.items() if count}


def _part(engine: Engine, part: str, label: str) -> dict[str, int]:
    rows, positive = engine.one(f"SELECT count(*), count(*) FILTER ({quoted(label)} = 1) FROM {part}")
    return {"rows": rows, "positive": positive}


def _numbers(engine: Engine, part: str, name: str) -> dict[str, Any]:
    value = f"{quoted(name)}::DOUBLE"
    count, nulls, odd, least, most = engine.one(
        "SELECT count(v), count(*) - count(v), count(*) FILTER (NOT isfinite(v)), "
        "min(v) FILTER (isfinite(v)), max(v) FILTER (isfinite(v)) "
        f"FROM (SELECT {value} AS v FROM {part})"
    )
    mean, std = moments(engine, part, name)
    asked = ", ".join(f"min(v) FILTER (upto >= {share} * total)" for share in _QUANTILES.values())
    found = engine.one(
        f"WITH g AS (SELECT {value} + 0.0 AS v, count(*) AS n FROM {part} WHERE isfinite({value}) GROUP BY 1), "
        "c AS (SELECT v, sum(n) OVER (ORDER BY v) AS upto, (SELECT sum(n) FROM g) AS total FROM g) "
        f"SELECT {asked} FROM c"
    )
    figures = {"count": count, "nulls": nulls, "not_finite": odd, "mean": mean, "std": std, "min": least, "max": most}
    return {**figures, "quantiles": dict(zip(_QUANTILES, found, strict=True))}


def _categories(engine: Engine, part: str, name: str) -> dict[str, Any]:
    column = quoted(name)
    count, nulls, distinct = engine.one(
        f"SELECT coalesce(sum(n) FILTER (v IS NOT NULL), 0)::BIGINT, coalesce(sum(n) FILTER (v IS NULL), 0)::BIGINT, "
        f"count(v) FROM (SELECT {column} AS v, count(*) AS n FROM {part} GROUP BY v)"
    )
    top = engine.connection.execute(
        f"SELECT {column} AS v, count(*) AS n FROM {part} WHERE {column} IS NOT NULL GROUP BY 1 "
        f"ORDER BY n DESC, v LIMIT {_TOP}"
    ).fetchall()
    figures = {"count": count, "nulls": nulls, "distinct": distinct, "top": [[value, times] for value, times in top]}
    if part == "train":
        return figures
    unseen = engine.one(
        f"SELECT count(*) FROM test AS t ANTI JOIN (SELECT DISTINCT {column} FROM train) AS k "
        f"ON t.{column} = k.{column} WHERE t.{column} IS NOT NULL"
    )[0]
    return {**figures, "unseen": unseen, "unseen_share": round(unseen / count, 6) if count else 0.0}
