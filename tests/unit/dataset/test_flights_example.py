"""The worked example on its real data, without any service: what the contracts catch and what the SELECT yields."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest

from examples.flights import load
from tidegate.contract import load_contract
from tidegate.contract.arrow import raw_schema
from tidegate.contract.masks import judge

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
