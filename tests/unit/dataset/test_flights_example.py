"""The worked example on its real data, without any service: what the contracts catch and what the SELECT yields."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from examples.flights import load
from tidegate.contract import load_contract
from tidegate.contract.arrow import raw_schema
from tidegate.contract.masks import judge
from tidegate.dataset.causality import check
from tidegate.dataset.engine import opened
from tidegate.dataset.query import prepare
from tidegate.delivery import delivery_named, project_root
from tidegate.errors import SpecError
from tidegate.units import utc

FEATURES = [
    "dep_delay", "hour", "minute", "weekday", "distance", "carrier", "origin", "dest", "flight", "temp", "humid",
    "wind_speed", "precip", "visib", "pressure", "plane_age", "seats", "dest_lat", "dest_lon", "dest_alt",
]  # fmt: skip


def test_the_contracts_catch_the_data_s_own_trouble() -> None:
    contract = load_contract("weather")
    rows = pa.Table.from_pylist(list(load.weather((1, 2, 3))), schema=raw_schema(contract))
    found = judge(rows, contract)

    assert found.clean.num_rows == rows.num_rows - 2
    assert Counter(reason[0] for reason in found.reasons) == {"wind_speed:maximum": 1, "wind_speed:required": 1}
    assert rows.column("wind_speed")[int(found.bad[0])].as_py() == pytest.approx(1048.36058)  # miles an hour


@pytest.mark.parametrize("ahead", ["", " + 3600"])
def test_the_example_s_features_see_no_future_and_would_with_the_next_hour_s_weather(
    tmp_path: Path, ahead: str
) -> None:
    delivery = delivery_named("flights")
    text = (project_root() / delivery.folder / delivery.dataset.sql).read_text()
    sql = tmp_path / "dataset.sql"
    sql.write_text(text.replace("epoch(f.time_hour)::BIGINT", f"epoch(f.time_hour)::BIGINT{ahead}"))
    contracts = {name: load_contract(source.contract) for name, source in delivery.sources.items()}
    moments = [int(utc(f"2013-01-{day}T12:00").timestamp() * 1e6) for day in ("10", "20")]
    with opened(load.clean_tables((1,))) as engine:
        query = prepare(engine, sql, delivery.dataset)
        if ahead:
            with pytest.raises(SpecError, match=r"dataset\.sql:\d+: .*'temp' .*sees the future"):
                check(query, contracts, moments)
        else:
            assert check(query, contracts, moments)["cuts"] == ["2013-01-10T12:00:00Z", "2013-01-20T12:00:00Z"]


def test_april_s_flights_become_requests_in_time_order_with_the_models_inputs_only() -> None:
    rows = load.april_rows()

    assert len(rows) == 27560
    assert list(rows[0].features) == FEATURES
    assert {row.label for row in rows} == {0, 1}
    assert 0.27 < sum(row.label for row in rows) / len(rows) < 0.29
    assert sum(row.features["plane_age"] is None for row in rows) / len(rows) == pytest.approx(0.17, abs=0.03)


def test_april_has_flights_and_destinations_that_no_earlier_month_had() -> None:
    columns = ("flight", "dest")
    before, april = (load.clean_tables(months)["flights"] for months in ((1, 2, 3), (4,)))
    unseen = {name: set(april.column(name).to_pylist()) - set(before.column(name).to_pylist()) for name in columns}

    assert unseen["dest"]
    assert len(unseen["flight"]) > 50
