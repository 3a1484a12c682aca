"""A feature that sees the future is refused, however it got at it; one that does not is let through."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidegate.contract import Column, Contract
from tidegate.contract.arrow import clean_schema
from tidegate.dataset.causality import check
from tidegate.dataset.engine import opened
from tidegate.dataset.query import prepare
from tidegate.delivery import DatasetSpec
from tidegate.errors import SpecError
from tidegate.units import utc

START = utc("2013-01-01")


def contract(name: str, *columns: Column) -> Contract:
    return Contract(name, "1", columns, f"{name}.yaml", "0" * 64)


CONTRACTS = {
    "trips": contract(
        "trips",
        Column("id", "int32", "int32", key=1),
        Column("t", "timestamp", "timestamp", required=True, event_time=True),
        Column("line", "string", "string"),
        Column("delay", "int32", "int32"),
    ),
    "weather": contract(
        "weather",
        Column("line", "string", "string", key=1),
        Column("s", "string", "int64", required=True, event_time=True, key=2, cast="epochSeconds"),
        Column("temp", "float64", "float64"),
    ),
    "outcomes": contract(
        "outcomes",
        Column("id", "int32", "int32", key=1),
        Column("t", "timestamp", "timestamp", required=True, event_time=True, key=2),
        Column("late", "bool", "bool"),
    ),
    "lines": contract("lines", Column("line", "string", "string", key=1), Column("length", "float64", "float64")),
}


def hour(number: float) -> datetime:
    return START + timedelta(hours=number)


def tables(trips: int = 60) -> dict[str, Any]:
    """Three trips an hour on two lines, weather on the hour, the outcome of a trip two hours after it."""
    rows = {
        "trips": [
            {"id": n, "t": hour(n // 3), "line": "AB"[n % 2], "delay": (n * 37) % 50 - 10 if n % 7 else None}
            for n in range(trips)
        ],
        "weather": [
            {"line": line, "s": int(hour(n).timestamp()), "temp": float((n * 13 + ord(line)) % 29)}
            for n in range(trips // 3 + 3)
            for line in "AB"
        ],
        "outcomes": [{"id": n, "t": hour(n // 3 + 2), "late": (n * 37) % 50 > 25} for n in range(trips)],
        "lines": [{"line": "A", "length": 1.5}, {"line": "B", "length": 7.0}],
    }
    return {name: pa.Table.from_pylist(rows[name], schema=clean_schema(CONTRACTS[name])) for name in rows}


def judge(
    folder: Path, sql: str, cuts: tuple[float, ...] = (5, 9, 14), rows: int = 10**6, **settings: Any
) -> dict[str, Any]:
    (folder / "d.sql").write_text(sql)
    spec = DatasetSpec(sql="d.sql", label="late", event_time="t", **settings)
    with opened(tables()) as engine:
        moments = [int(hour(cut).timestamp() * 1e6) for cut in cuts]
        query = prepare(engine, folder / "d.sql", spec)
        before = engine.one("SELECT count(*) FROM tidegate_select")
        found = check(query, CONTRACTS, moments, rows)
        assert engine.one("SELECT count(*) FROM tidegate_select") == before  # the sources are whole again
        return found


HOUR = "epoch(t.t)::BIGINT"
GOOD = {
    "its own row": "SELECT t.t, t.delay > 15 AS late, t.line FROM trips t",
    "weather of the same hour": "SELECT t.t, t.delay > 15 AS late, w.temp FROM trips t "
    f"LEFT JOIN weather w ON w.line = t.line AND w.s = {HOUR}",
    "weather an hour ago": "SELECT t.t, t.delay > 15 AS late, w.temp FROM trips t "
    f"LEFT JOIN weather w ON w.line = t.line AND w.s = {HOUR} - 3600",
    "asof join": "SELECT t.t, t.delay > 15 AS late, w.temp, t.t - INTERVAL 1 HOUR < to_timestamp(w.s) AS fresh "
    f"FROM trips t ASOF LEFT JOIN weather w ON w.line = t.line AND w.s <= {HOUR}",
    "asof join, strictly before": "SELECT t.t, t.delay > 15 AS late, w.temp FROM trips t "
    f"ASOF JOIN weather w ON w.line = t.line AND w.s < {HOUR}",
    "a frame of the past": "SELECT t.t, t.delay > 15 AS late, avg(d.delay) OVER (PARTITION BY t.line "
    "ORDER BY t.t RANGE BETWEEN INTERVAL 9 HOUR PRECEDING AND INTERVAL 1 HOUR PRECEDING) AS usual "
    "FROM trips t JOIN trips d USING (id)",
    "lag": "SELECT t.t, t.delay > 15 AS late, lag(t.id) OVER (PARTITION BY t.line ORDER BY t.t, t.id) AS last "
    "FROM trips t",
    "a subquery of the past": "SELECT t.t, t.delay > 15 AS late, "
    "(SELECT count(*) FROM trips p WHERE p.line = t.line AND p.t < t.t) AS before FROM trips t",
    "reference data": "SELECT t.t, t.delay > 15 AS late, l.length FROM trips t JOIN lines l USING (line)",
    "a label from later, in its own row": "SELECT t.t, lead(t.delay) OVER (ORDER BY t.t, t.id) > 15 AS late, t.line "
    "FROM trips t",
    "a label from later, joined": "SELECT t.t, o.late, t.line FROM trips t LEFT JOIN outcomes o USING (id)",
}
BAD = {
    "next hour's weather": (
        "SELECT t.t, t.delay > 15 AS late,\n w.temp FROM trips t\n"
        f"LEFT JOIN weather w ON w.line = t.line AND w.s = {HOUR} + 3600",
        "temp",
    ),
    "the nearest weather, after or before": (
        "SELECT t.t, t.delay > 15 AS late,\n w.temp FROM trips t ASOF JOIN weather w ON w.line = t.line AND w.s >= "
        f"{HOUR} + 1",
        "temp|selects",
    ),
    "a mean without a frame": (
        "SELECT t.t, t.delay > 15 AS late,\n avg(w.temp) OVER (PARTITION BY t.line) AS mean\nFROM trips t "
        f"LEFT JOIN weather w ON w.line = t.line AND w.s = {HOUR}",
        "mean",
    ),
    "a mean by day": (
        "SELECT t.t, t.delay > 15 AS late,\n m.mean FROM trips t JOIN "
        "(SELECT date_trunc('day', to_timestamp(s)) AS day, avg(temp) AS mean FROM weather GROUP BY 1) m "
        "ON m.day = date_trunc('day', t.t)",
        "mean",
    ),
    "a total": ("SELECT t.t, t.delay > 15 AS late,\n (SELECT count(*) FROM trips) AS n FROM trips t", "n"),
    "lead": (
        "SELECT t.t, t.delay > 15 AS late,\n lead(t.id) OVER (PARTITION BY t.line ORDER BY t.t, t.id) AS next "
        "FROM trips t",
        "next",
    ),
    "rank from the end": (
        "SELECT t.t, t.delay > 15 AS late,\n row_number() OVER (ORDER BY t.t DESC, t.id) AS place FROM trips t",
        "place",
    ),
    "the newest weather": (
        "SELECT t.t, t.delay > 15 AS late,\n arg_max(w.temp, w.s) AS temp FROM trips t JOIN weather w USING (line) "
        "GROUP BY t.id, t.t, t.delay, t.line",
        "temp",
    ),
    "the outcome": (
        "SELECT t.t, t.delay > 15 AS late,\n o.late AS told FROM trips t LEFT JOIN outcomes o USING (id)",
        "told",
    ),
    "an inner join with later rows": (
        "SELECT t.t, t.delay > 15 AS late,\n w.temp FROM trips t "
        f"JOIN weather w ON w.line = t.line AND w.s = {HOUR} + 3600",
        "only with the source rows after",
    ),
    "rows that nothing follows": (
        "SELECT t.t, t.delay > 15 AS late,\n t.line FROM trips t "
        "WHERE NOT EXISTS (SELECT 1 FROM trips n WHERE n.id = t.id + 3)",
        "only without the source rows after",
    ),
}


@pytest.mark.parametrize("sql", GOOD.values(), ids=GOOD.keys())
def test_what_keeps_to_the_past_is_let_through(tmp_path: Path, sql: str) -> None:
    found = judge(tmp_path, sql)
    assert found["cuts"] == ["2013-01-01T05:00:00Z", "2013-01-01T09:00:00Z", "2013-01-01T14:00:00Z"]
    assert min(found["rows"]) > 0
    assert min(found["later"]) > 0


@pytest.mark.parametrize(("sql", "message"), BAD.values(), ids=BAD.keys())
def test_a_look_into_the_future_is_refused(tmp_path: Path, sql: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        judge(tmp_path, sql)


def test_the_refusal_names_line_feature_row_both_values_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as refused:
        judge(tmp_path, BAD["next hour's weather"][0])
    assert str(refused.value).startswith(
        f"{tmp_path}/d.sql:2: (sql): feature 'temp' sees the future: of the row at 2013-01-01T05:00:00Z it is "
    )
    assert "and None without the source rows after 2013-01-01T05:00:00Z" in str(refused.value)
    assert "ASOF JOIN ... ON w.time <= f.time" in str(refused.value)


OUTCOME = "SELECT t.t, o.late, {feature}\nFROM trips t JOIN outcomes o ON o.id = t.id"


def test_rows_may_wait_for_a_label_whose_source_is_named(tmp_path: Path) -> None:
    sql = OUTCOME.format(feature="t.line")
    with pytest.raises(SpecError, match=r"dataset\.label_from"):
        judge(tmp_path, sql)
    assert judge(tmp_path, sql, label_from=["outcomes"])["rows"] == [18, 30, 45]


@pytest.mark.parametrize(
    "feature",
    [
        "epoch(o.t) - epoch(t.t) + (o.late IS TRUE)::INT AS told",
        "count(o.late) OVER (PARTITION BY t.line) AS told",
        "(SELECT count(*) FROM outcomes p WHERE p.late AND p.id > t.id) AS told",
    ],
)
def test_the_source_of_the_label_is_no_way_for_features_round_the_check(tmp_path: Path, feature: str) -> None:
    with pytest.raises(SpecError, match="'told'"):
        judge(tmp_path, OUTCOME.format(feature=feature), label_from=["outcomes"], leakage={"allow": ["told"]})


def test_a_large_source_is_looked_at_around_each_cut(tmp_path: Path) -> None:
    found = judge(tmp_path, GOOD["asof join"], cuts=(10,), rows=40)
    assert found["around"] == 40
    assert 10 <= found["later"][0] <= 20
    assert found["rows"][0] < 33
    with pytest.raises(SpecError, match="'temp' sees the future"):
        judge(tmp_path, BAD["next hour's weather"][0], cuts=(10,), rows=40)


def test_a_cut_that_nothing_follows_shows_nothing_and_is_not_counted(tmp_path: Path) -> None:
    assert judge(tmp_path, GOOD["its own row"], cuts=(500,))["cuts"] == []


def test_sums_in_another_order_are_no_future(tmp_path: Path) -> None:
    sql = (
        "SELECT t.t, t.delay > 15 AS late, p.s FROM trips t JOIN "
        "(SELECT a.id, sum(b.temp / 7) + (SELECT count(*) FROM weather) * 1e-14 AS s FROM trips a "
        "JOIN weather b ON b.line = a.line AND b.s <= epoch(a.t) GROUP BY a.id) p USING (id)"
    )
    assert judge(tmp_path, sql)["rows"] == [18, 30, 45]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ahead=st.integers(-6, 6), kind=st.sampled_from(["join", "asof", "window"]), cut=st.integers(4, 15))
def test_exactly_what_looks_ahead_is_refused(tmp_path: Path, ahead: int, kind: str, cut: int) -> None:
    sql = {
        "join": f"SELECT t.t, t.delay > 15 AS late, w.temp AS x FROM trips t LEFT JOIN weather w ON w.line = t.line "
        f"AND w.s = {HOUR} + {ahead} * 3600",
        "asof": f"SELECT t.t, t.delay > 15 AS late, w.s AS x FROM trips t ASOF LEFT JOIN weather w ON w.line = t.line "
        f"AND w.s <= {HOUR} + {ahead} * 3600",
        "window": "SELECT t.t, t.delay > 15 AS late, max(t.id) OVER (ORDER BY t.t RANGE BETWEEN "
        f"INTERVAL 20 HOUR PRECEDING AND INTERVAL {abs(ahead)} HOUR {'FOLLOWING' if ahead > 0 else 'PRECEDING'}) AS x "
        "FROM trips t",
    }[kind]
    if ahead > 0:
        with pytest.raises(SpecError, match="'x' sees the future"):
            judge(tmp_path, sql, cuts=(cut,))
    else:
        assert judge(tmp_path, sql, cuts=(cut,))["rows"][0] > 0
