"""Planted drift, all the way: found by the watch, said in the log, asked about in Kafka, one run of retrain."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import TypeVar

import httpx
import psycopg2
import pytest

from examples.flights.load import Sources, load
from tests.until import until
from tidegate import keys
from tidegate.clients.airflow import AirflowApi, Run
from tidegate.clients.registry import CHAMPION, Registry
from tidegate.handoff import Dataset, Window
from tidegate.lake import Lake
from tidegate.stack.config import StackConfig
from tidegate.units import utc

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

T = TypeVar("T")
DAG = "ingest__flights"
JANUARY = Window(start="2013-01-01", end="2013-02-01")
PLANTED = Window(start="2014-01-01", end="2014-02-01")
REQUEST = f"drift-flights-{PLANTED.id}"
PLANT = """
INSERT INTO flights
SELECT 2014, month, day, dep_time, sched_dep_time, dep_delay, arr_time, sched_arr_time, arr_delay, 'ZZ', flight,
       tailnum, origin, dest, air_time, distance, hour, minute, time_hour + interval '1 year'
FROM flights WHERE time_hour < '2013-01-04' ON CONFLICT DO NOTHING
"""


def ingest(api: AirflowApi, window: Window, name: str) -> Run:
    form = {"window_start": f"{window.start:%Y-%m-%d}", "window_end": f"{window.end:%Y-%m-%d}"}
    run = api.trigger(DAG, form, name)
    assert api.wait(DAG, run.run_id, 240).state == "success"
    return run


@pytest.fixture(scope="module")
def airflow(stack: StackConfig) -> Iterator[AirflowApi]:
    load(Sources(stack.postgres_dsn("flights"), stack.kafka, "127.0.0.1", stack.ports["hdfs-namenode"]), (1,))
    api = AirflowApi(stack.url("airflow"), *stack.airflow_login)
    until("Airflow knows the DAG", lambda: DAG in api.dags())
    yield api
    api.close()


@pytest.fixture(scope="module")
def champion(stack: StackConfig, airflow: AirflowApi) -> Iterator[int]:
    """A champion that was trained on January: all of a bundle that watching looks at, without hours of training."""
    lake, registry = Lake(stack.paths.lake.as_uri()), Registry(stack.url("mlflow"))
    sources = ("flights", "weather", "planes", "airports")
    if any(lake.manifest(keys.validated("flights", each, JANUARY)) is None for each in sources):
        ingest(airflow, JANUARY, "watch-january")
    found = {each: lake.require(keys.validated("flights", each, JANUARY)) for each in sources}
    slices = {f"{source}/{JANUARY.id}": manifest["digest"] for source, manifest in found.items()}
    before = registry.version_of("flights", CHAMPION)
    version = registry.reserve("flights", "watch-january", None, f"{lake.url}/none", {}, {})
    dataset = Dataset(
        delivery="flights", window=JANUARY, key="datasets/none", train_rows=1, test_rows=1, label="late", features=[],
        digest="none", slices=slices,
    )  # fmt: skip
    request = {"request_id": "watch-january", "delivery": "flights", "window": JANUARY.model_dump(mode="json")}
    story = {
        "request": request, "dataset": dataset.model_dump(mode="json"), "trained": {"metrics": {}},
        "optimised": {"target": "onnx"},
    }  # fmt: skip
    key = keys.bundle("flights", version)
    with lake.publish(key) as draft:
        draft.file("bundle.json").write_text(json.dumps(story), encoding="utf-8")
    registry.set_alias("flights", CHAMPION, version)
    yield version
    if before is None:
        registry.drop_alias("flights", CHAMPION)
    else:
        registry.set_alias("flights", CHAMPION, before)
    lake.delete(key)


@pytest.fixture(scope="module")
def run(stack: StackConfig, airflow: AirflowApi, champion: int) -> Iterator[Run]:
    """A window in which every flight is of a carrier that nobody knew."""
    with closing(psycopg2.connect(stack.postgres_dsn("flights"))) as connection:
        with connection, connection.cursor() as cursor:
            cursor.execute(PLANT)
            assert cursor.rowcount > 1000
        done = ingest(airflow, PLANTED, "watch-planted")
        ended = {task: took(airflow, done, task) for task in ("flights.validate", "publish", "watch", "drift")}
        print(f"\nseconds from the run's start to the end of a task: {ended}")
        yield done
        with connection, connection.cursor() as cursor:
            cursor.execute("DELETE FROM flights WHERE time_hour >= '2014-01-01'")


def took(api: AirflowApi, run: Run, task: str) -> float:
    found = api._call("GET", f"/api/v2/dags/{DAG}/dagRuns/{run.run_id}/taskInstances/{task}")
    begun = api.run(DAG, run.run_id).start
    assert begun is not None
    return (utc(found["end_date"]) - utc(begun)).total_seconds()


def log_of(api: AirflowApi, run: Run, task: str) -> str:
    return str(api._call("GET", f"/api/v2/dags/{DAG}/dagRuns/{run.run_id}/taskInstances/{task}/logs/1"))


def test_planted_drift_is_said_in_the_log_and_starts_one_run_of_retrain(
    airflow: AirflowApi, run: Run, champion: int
) -> None:
    report = airflow.result(DAG, run.run_id, "watch")
    worst = report["breaches"][0]
    assert (worst["source"], worst["feature"], worst["distance"]) == ("flights", "carrier", 1.0)
    assert (worst["baseline"], worst["severity"]) == (f"champion flights-v{champion}", "retrain")
    said = log_of(airflow, run, "watch")
    print(said[said.find("DRIFT") - 80 :][:1200])
    assert "DRIFT" in said
    assert "flights.carrier" in said
    told = airflow.result(DAG, run.run_id, "drift")
    assert told["requests"] == [REQUEST]
    assert (
        f"flights.carrier lies 1.000 (L-infinity, limit 0.2) from champion flights-v{champion}: retrain" in told["said"]
    )

    def retrains() -> list[Run]:
        return [each for each in airflow.runs("retrain__flights") if each.partition == REQUEST]

    (retrain,) = until("the request starts a run", retrains)
    assert airflow.wait(retrain.dag_id, retrain.run_id, 300).state == "failed", "November is not there to train on"
    asked = airflow.result(retrain.dag_id, retrain.run_id, "request")
    assert asked["source"] == "drift"
    assert asked["window"] == {"start": "2013-11-01T00:00:00Z", "end": "2014-02-01T00:00:00Z"}
    again = ingest(airflow, PLANTED, "watch-planted-again")
    assert airflow.result(DAG, again.run_id, "drift")["requests"] == [REQUEST]
    assert "was made before" in log_of(airflow, again, "drift")
    assert len(retrains()) == 1


def test_the_task_s_page_links_to_reports_that_only_a_login_may_read(
    stack: StackConfig, airflow: AirflowApi, run: Run
) -> None:
    found = airflow._call("GET", f"/api/v2/dags/{DAG}/dagRuns/{run.run_id}/taskInstances/watch/links")["extra_links"]
    base = f"/tidegate/reports/flights/{PLANTED.id}"
    assert found == {
        "Drift at a glance": f"{base}/index.html",
        "Great Expectations data docs": f"{base}/data_docs/index.html",
        "TFDV facets": f"{base}/facets.html",
    }
    login = {"Authorization": f"Bearer {airflow._token}"}
    with httpx.Client(base_url=stack.url("airflow")) as http:
        for page in found.values():
            assert http.get(page).status_code == 401, page
            assert http.get(page, headers={"Authorization": "Bearer no"}).status_code in (401, 403), page
            answer = http.get(page, headers=login)
            assert answer.status_code == 200, page
            assert "sandbox" in answer.headers["content-security-policy"]
            assert http.get(page, cookies={"_token": str(airflow._token)}).status_code == 200, "as a browser asks"
        assert "flights.carrier lies 1.000" in http.get(found["Drift at a glance"], headers=login).text
        for wrong in (
            f"{base}/../../../bundles/flights/v1/bundle.json",
            f"{base}/%2e%2e/%2e%2e/manifest.json",
            f"{base}/..%2f..%2f..%2fstack.json",
            f"{base}/distances.json",
            f"{base}/nothing.html",
            f"/tidegate/reports/..%2f..%2fslices/{PLANTED.id}/index.html",
            "/tidegate/",
            "/tidegate/docs",
        ):
            status = http.get(wrong, headers=login).status_code
            assert status in (404, 403), (wrong, status)
