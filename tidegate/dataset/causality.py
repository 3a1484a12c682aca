"""Whether a feature sees the future: the SELECT runs again without what came later, and must say the same of its rows.

At each cut T all source rows with an event time after T are taken away. Rows of the SELECT up to T must keep every
feature. Reference data (a contract without an event time) stay as they are; the label is not compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Any

from tidegate.dataset import tree
from tidegate.dataset.engine import quoted
from tidegate.dataset.query import VIEW, complaints
from tidegate.yamlfile import Problem, SpecProblems

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tidegate.contract import Contract
    from tidegate.contract.model import Column
    from tidegate.dataset.engine import Engine
    from tidegate.dataset.query import Query

ROWS = 1_000_000  # source rows around a cut that are looked at; all of them where there are no more
_LOOKED_AT = 500  # rows that differ, of which the reason is looked for
_PER_SECOND = {"epochMilliseconds": 1_000, "epochMicroseconds": 1}
_TIME, _SIGN, _DIFFERENT, _WHOLE = "tidegate time", "tidegate sign", "tidegate_different", "tidegate_whole"
_REMEDY = (
    "join only what is known by then: ASOF JOIN ... ON w.time <= f.time, and window frames that end at CURRENT ROW "
    "(of a time that several rows share, RANGE takes in all of them)"
)
_ROW_REMEDY = (
    "use LEFT or ASOF JOIN and no WHERE on later rows; if only the label comes later, name its source in "
    "dataset.label_from"
)


@dataclass(frozen=True)
class Cut:
    """An instant, the interval of source rows looked at around it (microseconds since 1970), and what lies in it."""

    moment: int
    first: int | None
    last: int | None
    later: int
    """Source rows in the interval after the instant."""


def check(query: Query, contracts: Mapping[str, Contract], moments: Sequence[int], rows: int = ROWS) -> dict[str, Any]:
    """Hold the SELECT to see no future at the given instants, microseconds since 1970.

    Returns:
        What was compared, for the manifest: the cuts, and the SELECT's rows up to each.

    Raises:
        SpecProblems: a feature differs without the future, or a row is there only with it, or only without it.
    """
    clocks = {
        name: (micros(clock), contracts[name])
        for name in query.engine.sources
        if (clock := contracts[name].event_time) is not None
    }
    cuts = [cut for cut in (_cut(query.engine, clocks, moment, rows) for moment in moments) if cut.later]
    compared = []
    interval: tuple[int | None, int | None] | str = "none yet"
    try:
        for cut in cuts:
            if interval != (cut.first, cut.last):
                interval = (cut.first, cut.last)
                _read_whole(query, clocks, cut)
            compared.append(_compare_all(query, clocks, cut))
    finally:
        for name in query.engine.sources:
            query.engine.show(name)
    return {
        "cuts": [_instant(cut.moment) for cut in cuts],
        "rows": compared,
        "later": [cut.later for cut in cuts],
        "around": None if all(cut.first is None for cut in cuts) else rows,
    }


def micros(clock: Column) -> str:
    """Return the expression of an event time as whole microseconds since 1970; a time without zone is in UTC."""
    if clock.clean in ("timestamp", "local_timestamp"):
        return f"epoch_us({quoted(clock.name)})"
    return f"({quoted(clock.name)}::HUGEINT * {_PER_SECOND.get(clock.cast, 1_000_000)})"


def _cut(engine: Engine, clocks: Mapping[str, tuple[str, Contract]], moment: int, rows: int) -> Cut:
    """Choose the source rows to look at: all, or as many before the instant as after it, as far as they go."""
    if not clocks:
        return Cut(moment, None, None, 0)
    every = " UNION ALL ".join(f"SELECT {us} AS t FROM {engine.rows(name)}" for name, (us, _) in clocks.items())
    total, later = engine.one(f"SELECT count(t), count(*) FILTER (t > {moment}) FROM ({every})")
    if total <= rows:
        return Cut(moment, None, None, later)
    half = f"LIMIT 1 OFFSET {rows // 2}"
    first, last, later = engine.one(  # sorts spill to disk, groups of so many instants would not
        f"WITH b AS (SELECT (SELECT t FROM ({every}) WHERE t <= {moment} ORDER BY t DESC {half}) AS before, "
        f"(SELECT t FROM ({every}) WHERE t > {moment} ORDER BY t {half}) AS beyond) "
        f"SELECT coalesce(min(t) FILTER (t <= {moment}), {moment}), coalesce(max(t), {moment}), "
        f"count(*) FILTER (t > {moment}) FROM ({every}), b "
        "WHERE (before IS NULL OR t > before) AND (beyond IS NULL OR t < beyond)"
    )
    return Cut(moment, int(first), int(last), int(later))


def _within(us: str, cut: Cut) -> str:
    return "true" if cut.first is None else f"coalesce({us} BETWEEN {cut.first} AND {cut.last}, true)"


def _read_whole(query: Query, clocks: Mapping[str, tuple[str, Contract]], cut: Cut) -> None:
    for name, (us, _) in clocks.items():
        query.engine.show(name, where=_within(us, cut))
    with complaints(query.sql):
        query.engine.connection.execute(f"CREATE OR REPLACE TEMP TABLE {_WHOLE} AS {_rows_of(query)}")


def _rows_of(query: Query) -> str:
    features = ", ".join(map(quoted, query.features))
    return f"SELECT epoch_us({quoted(query.spec.event_time)}) AS {quoted(_TIME)}, {features} FROM {VIEW}"


def _compare_all(query: Query, clocks: Mapping[str, tuple[str, Contract]], cut: Cut) -> int:
    """Compare the SELECT with and without what is later than a cut; return how many rows that were.

    Where the label comes from sources of its own, rows may be missing without their later rows. These are taken away in
    one run, kept in another, and in a third they keep their keys and times alone.
    """
    labels = set(query.spec.label_from)
    compared = 0
    for kept, emptied in ((labels, set()), (set(), set()), (set(), labels)) if labels else ((set(), set()),):
        for name, (us, contract) in clocks.items():
            later = f"coalesce({us} > {cut.moment}, false)"
            if name in emptied:
                query.engine.show(name, _emptied(contract, later), _within(us, cut))
            elif name in kept:
                query.engine.show(name, where=_within(us, cut))
            else:
                query.engine.show(name, where=f"NOT {later} AND {_within(us, cut)}")
        compared = _compare(query, cut, may_miss=bool(labels) and not kept)
    return compared


def _emptied(contract: Contract, later: str) -> str:
    clock = contract.event_time
    told = [name for name in contract.names if name not in contract.key and (clock is None or name != clock.name)]
    emptied = ", ".join(f"CASE WHEN {later} THEN NULL ELSE {quoted(name)} END AS {quoted(name)}" for name in told)
    return f"* REPLACE ({emptied})" if told else "*"


def _compare(query: Query, cut: Cut, may_miss: bool) -> int:
    one, columns, sign = query.engine.one, ", ".join(map(quoted, [_TIME, *query.features])), quoted(_SIGN)
    with complaints(query.sql):
        query.engine.connection.execute(
            f"CREATE OR REPLACE TEMP TABLE {_DIFFERENT} AS SELECT {columns}, sum({sign})::BIGINT AS {sign} FROM ("
            f"SELECT 1 AS {sign}, * FROM {_WHOLE} UNION ALL SELECT -1, * FROM ({_rows_of(query)})"
            f") WHERE {quoted(_TIME)} <= {cut.moment} GROUP BY {columns} HAVING sum({sign}) <> 0"
        )
    rows = int(one(f"SELECT count(*) FROM {_WHOLE} WHERE {quoted(_TIME)} <= {cut.moment}")[0])
    if one(f"SELECT count(*) FROM {_DIFFERENT}")[0]:
        found = _explained(query, cut, may_miss)
        if found is not None:
            raise SpecProblems([found])
    return rows


def _explained(query: Query, cut: Cut, may_miss: bool) -> Problem | None:
    """Return what a person must know of the rows that differ, or None where only roundings do."""
    examples = []
    missing: list[tuple[int, str]] = []
    for time, (whole, without) in _by_time(query):
        for row in without:
            best = _nearest(row, whole)
            if best is None:
                missing.append((time, "only without"))
                continue
            whole.remove(best)
            if names := _differing(best, row):
                examples.append((len(names), time, names, best, row))
        missing += [(time, "only with")] * len(whole)
    if examples:
        _, time, names, whole_row, row = min(examples, key=lambda example: (example[0], -example[1]))
        return _feature(query, cut, time, names, whole_row, row)
    return _row(query, cut, *missing[0]) if missing and not may_miss else None


def _by_time(query: Query) -> Iterator[tuple[int, tuple[list[Any], list[Any]]]]:
    """Yield instants with rows that differ: those only with the future there, those only without it.

    The latest instants come first, as far as some hundred rows reach: a look ahead shows nearest to the cut.
    """
    order = ", ".join(map(quoted, query.features))
    rows = query.engine.connection.execute(
        f"SELECT {quoted(_SIGN)}, {quoted(_TIME)}, {order} FROM {_DIFFERENT} "
        f"ORDER BY {quoted(_TIME)} DESC, {order} LIMIT {_LOOKED_AT}"
    ).fetchall()
    for time, group in groupby(rows, key=lambda row: row[1]):
        sides: tuple[list[Any], list[Any]] = ([], [])
        for sign, _, *values in group:
            sides[sign < 0].extend([dict(zip(query.features, values, strict=True))] * abs(sign))
        yield time, sides


def _nearest(row: Mapping[str, Any], others: Sequence[Any]) -> Any:
    """Return the row with the fewest other values, or None where there are no rows."""
    return min(others, key=lambda other: len(_differing(other, row)), default=None)


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [name for name in one if not _alike(one[name], other[name])]


def _alike(one: Any, other: Any) -> bool:
    """Whether two values are the same, or sums of the same floats in another order."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12) or (math.isnan(one) and math.isnan(other))
    return bool(one == other)


def _feature(query: Query, cut: Cut, time: int, names: list[str], with_it: Any, without: Any) -> Problem:
    name = names[0]
    also = f" (and {', '.join(names[1:4])})" if names[1:] else ""
    message = (
        f"feature {name!r}{also} sees the future: of the row at {_instant(time)} it is {with_it[name]!r}, and "
        f"{without[name]!r} without the source rows after {_instant(cut.moment)}"
    )
    return Problem(
        str(query.sql), tree.lines(query.engine, query.statement).get(name, 1), "(sql)", name, message, _REMEDY
    )


def _row(query: Query, cut: Cut, time: int, which: str) -> Problem:
    cut_at = _instant(cut.moment)
    message = f"a row at {_instant(time)} is there {which} the source rows after {cut_at}: the future selects it"
    return Problem(str(query.sql), 1, "(sql)", query.sql.name, message, _ROW_REMEDY)


def _instant(moment: int) -> str:
    found = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment)
    return found.isoformat().replace("+00:00", "Z")
