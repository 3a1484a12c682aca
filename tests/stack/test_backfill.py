"""A year of flights, backfilled through Airflow twice: every window gives the same bytes again."""

from __future__ import annotations

import time

import pytest

from examples.flights.load import Sources, load
from tests.until import until
from tidegate import keys
from tidegate.clients.airflow import AirflowApi, Run
from tidegate.delivery import delivery_named
from tidegate.handoff import Window
from tidegate.lake import Lake
from tidegate.stack.config import StackConfig
from tidegate.units import utc

pytestmark = [pytest.mark.stack, pytest.mark.nightly, pytest.mark.timeout(3600)]

DAG = "ingest__flights"
YEAR = Window(start=utc("2013-01-01"), end=utc("2014-01-01"))
STARTS = Window(start=YEAR.start, end=utc("2013-12-01"))


def backfill(airflow: AirflowApi) -> float:
    """Run the year's twelve windows, anew where they ran before, and return how long it took, seconds."""
    until("an earlier run of this test is over", lambda: airflow.idle(DAG), 900)
    before = {run.run_id: run.start for run in months(airflow)}
    begun = time.monotonic()
    airflow.backfill(DAG, STARTS, reprocess=True)
    took = 0.0
    while not (took and airflow.idle(DAG)):
        ended = [run for run in months(airflow) if run.ended and run.start != before.get(run.run_id)]
        assert all(run.state == "success" for run in ended), ended
        took = took or (time.monotonic() - begun if len(ended) == 12 else 0.0)
        assert time.monotonic() - begun < 1500, [(run.run_id, run.state) for run in months(airflow)]
        time.sleep(2)
    return took


def months(airflow: AirflowApi) -> list[Run]:
    return [run for run in airflow.runs(DAG) if (run.interval_start or "").startswith("2013-")]


def forget(lake: Lake) -> None:
    """Withdraw every slice, so that none of an earlier run is taken for a new one's."""
    for key in lake.keys("slices"):
        lake.delete(key)


def digests(lake: Lake) -> dict[str, str]:
    """Return key -> digest of every raw and validated slice of the year."""
    delivery = delivery_named("flights")
    wanted = [
        of(delivery.delivery, source, window)
        for window in keys.windows(YEAR, delivery.window)
        for source in delivery.sources
        for of in (keys.raw, keys.validated)
    ]
    return {key: lake.require(key)["digest"] for key in wanted}


def test_twelve_months_backfilled_again_have_the_same_digests(stack: StackConfig) -> None:
    where = Sources(stack.postgres_dsn("flights"), stack.kafka, "127.0.0.1", stack.ports["hdfs-namenode"])
    load(where, tuple(range(1, 13)))
    airflow = AirflowApi(stack.url("airflow"), *stack.airflow_login)
    try:
        until("Airflow knows the DAG", lambda: DAG in airflow.dags())
        lake = Lake(stack.paths.lake.as_uri())
        forget(lake)
        first_s = backfill(airflow)
        first = digests(lake)
        forget(lake)
        again_s = backfill(airflow)
    finally:
        airflow.close()
    again = digests(lake)
    print(f"\n12 windows of 4 sources: {first_s:.0f} s, and from an empty lake again: {again_s:.0f} s")
    for key, digest in again.items():
        print(f"{digest[:16]}  {key}")
    assert again == first
    assert len(again) == 96
