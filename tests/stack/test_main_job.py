"""The main job on a small window, through Airflow's REST API alone, on the real services.

The tests build on each other in their order: what one delivers, the next one rolls over.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from kafka import KafkaProducer

from examples.flights.load import Sources, load
from tests.until import until
from tidegate.clients.airflow import AirflowApi, Run
from tidegate.clients.envoy import EnvoyTraffic
from tidegate.clients.ledger import Ledger
from tidegate.stack.config import StackConfig

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

MONTHS = {"2013-01-01": "2013-02-01", "2013-02-01": "2013-03-01"}
WINDOW = {"start": "2013-01-01T00:00:00Z", "end": "2013-03-01T00:00:00Z"}
FORM = {"window_start": "2013-01-01", "window_end": "2013-03-01"}


@pytest.fixture(scope="module")
def airflow(stack: StackConfig) -> Iterator[AirflowApi]:
    load(Sources(stack.postgres_dsn("flights"), stack.kafka, "127.0.0.1", stack.ports["hdfs-namenode"]), (1, 2))
    api = AirflowApi(stack.url("airflow"), *stack.airflow_login)
    until("Airflow knows the DAGs", lambda: "rollout__flights" in api.dags())
    yield api
    api.close()


@pytest.fixture
def ledger(stack: StackConfig) -> Ledger:
    return Ledger(stack.postgres_dsn("tidegate"))


@pytest.fixture
def traffic(stack: StackConfig) -> EnvoyTraffic:
    return EnvoyTraffic(stack.paths.xds, admin=stack.url("envoy-admin"))


def partition(api: AirflowApi, dag_id: str, key: str) -> list[Run]:
    return [run for run in api.runs(dag_id) if run.partition == key]


def ingest(api: AirflowApi, name: str, **form: Any) -> list[dict[str, Any]]:
    runs = [
        api.trigger("ingest__flights", {"window_start": start, "window_end": end, **form}, f"{name}-{start}")
        for start, end in MONTHS.items()
    ]
    states = {run.run_id: api.wait(run.dag_id, run.run_id, 240).state for run in runs}
    assert set(states.values()) == {"success"}
    return [api.result("ingest__flights", run.run_id, "publish") for run in runs]


def asset_events(api: AirflowApi, name: str) -> list[dict[str, Any]]:
    (asset,) = [one for one in api._call("GET", "/api/v2/assets")["assets"] if one["name"] == name]
    found = api._call("GET", "/api/v2/assets/events", params={"asset_id": asset["id"], "limit": 100})
    return list(found["asset_events"])


def ask(cfg: StackConfig, message: dict[str, Any] | bytes) -> None:
    producer = KafkaProducer(bootstrap_servers=cfg.kafka, acks="all")
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    producer.send("retrain", body).get(timeout=15)
    producer.close()


def test_dag_files_import_without_errors(airflow: AirflowApi) -> None:
    assert airflow.import_errors() == []
    assert set(airflow.dags()) == {
        "ingest__flights",
        "requests__flights",
        "retrain__flights",
        "rollout__flights",
        "rollback__flights",
        "reconcile",
    }


def test_ingest_publishes_slices_whose_rows_are_all_accounted_for(airflow: AirflowApi, ledger: Ledger) -> None:
    for window in ingest(airflow, "first"):
        for source, counts in window["sources"].items():
            assert counts["read"] == counts["clean"] + counts["quarantined"], source
            assert counts["quarantined"] == sum(counts["reasons"].values()), source
        assert window["sources"]["flights"]["read"] > 20_000
        assert window["sources"]["weather"]["read"] > 1_900
    assert ledger.quarantined()[("flights", "flights", "tailnum:pattern")] >= 70


def test_quarantined_rows_raise_an_asset_event_with_their_reasons(airflow: AirflowApi) -> None:
    for window in ingest(airflow, "first"):
        counts = window["sources"]["flights"]
        told = [event["extra"] for event in asset_events(airflow, "flights_quarantine")]
        (mine,) = [extra for extra in told if extra["window"] == window["window"]]
        assert mine["sources"]["flights"]["reasons"] == counts["reasons"]
        assert set(mine["sources"]) == {name for name, c in window["sources"].items() if c["quarantined"]}


def test_the_same_window_read_anew_gives_the_same_bytes(airflow: AirflowApi) -> None:
    def digests(windows: list[dict[str, Any]]) -> list[str]:
        return [counts["digest"] for window in windows for counts in window["sources"].values()]

    assert digests(ingest(airflow, "again", refresh=True)) == digests(ingest(airflow, "first"))


def test_the_first_delivery_is_trained_gated_and_becomes_champion(
    airflow: AirflowApi, ledger: Ledger, traffic: EnvoyTraffic
) -> None:
    run = airflow.trigger("retrain__flights", {**FORM, "request_id": "first"}, "first")
    assert airflow.wait(run.dag_id, run.run_id, 400).state == "success"
    trained = airflow.result(run.dag_id, run.run_id, "train")
    assert trained["workers"] == 2
    assert trained["metrics"]["auc"] > 0.8 > trained["metrics"]["base_auc"]
    assert trained["metrics"]["log_loss"] < trained["metrics"]["base_log_loss"]
    assert airflow.result(run.dag_id, run.run_id, "optimise")["max_difference"] <= 1e-4
    evaluated = airflow.result(run.dag_id, run.run_id, "evaluate")
    assert evaluated["reason"] == "there is no champion yet"
    assert evaluated["figures"]["auc"] == pytest.approx(trained["metrics"]["auc"], abs=1e-4)
    assert all(check["ok"] for check in airflow.result(run.dag_id, run.run_id, "gate")["checks"])
    (rollout,) = until("the rollout starts", lambda: partition(airflow, "rollout__flights", "flights-v1"))
    assert airflow.wait(rollout.dag_id, rollout.run_id, 120).state == "success"
    split = traffic.read("flights")
    assert (split.champion, split.weights) == ("flights-v1", {"flights-v1": 100})
    assert traffic.applied("flights") == {"flights-v1": 100}
    assert ledger.rollouts("flights")[0].outcome == "promoted"


def test_a_kafka_message_starts_a_retrain_once_however_often_it_is_sent(
    stack: StackConfig, airflow: AirflowApi
) -> None:
    request = {"request_id": "by-kafka", "window": WINDOW, "reason": "test"}
    begun = time.monotonic()
    for message in (b"{not json", request, request):
        ask(stack, message)
    until("the request starts a run", lambda: partition(airflow, "retrain__flights", "by-kafka"), 60)
    print(f"a message started its run after {time.monotonic() - begun:.1f} s")
    (run,) = partition(airflow, "retrain__flights", "by-kafka")
    ask(stack, request)
    assert airflow.wait(run.dag_id, run.run_id, 400).state == "success"
    assert len(partition(airflow, "retrain__flights", "by-kafka")) == 1
    evaluated = airflow.result(run.dag_id, run.run_id, "evaluate")
    assert evaluated["champion"] == "flights-v1"
    assert abs(evaluated["figures"]["difference_auc"]) < 0.01, "the same rows, the same model, the same seed"


def test_a_rollback_started_by_hand_takes_a_held_candidate_back(
    airflow: AirflowApi, ledger: Ledger, traffic: EnvoyTraffic
) -> None:
    (rollout,) = until("the rollout starts", lambda: partition(airflow, "rollout__flights", "flights-v2"))
    until(
        "stage 10 is watched; without traffic it holds",
        lambda: airflow.tasks(rollout.dag_id, rollout.run_id).get("stage_10.watch") == "deferred",
    )
    assert traffic.applied("flights") == {"flights-v1": 90, "flights-v2": 10}
    by_hand = airflow.trigger("rollback__flights", {"reason": "a person said so"}, "by-hand")
    assert airflow.wait("rollback__flights", by_hand.run_id, 120).state == "success"
    said = airflow.result("rollback__flights", by_hand.run_id, "rollback")
    assert said["outcome"] == "rolled_back"
    assert "a person said so" in said["sentence"]
    assert traffic.applied("flights") == {"flights-v1": 100}
    assert airflow.wait(rollout.dag_id, rollout.run_id, 120).state == "failed"
    assert ledger.rollout(f"{rollout.dag_id}/{rollout.run_id}").outcome == "rolled_back"
    again = airflow.trigger("rollback__flights", {}, "by-hand-again")
    assert airflow.wait("rollback__flights", again.run_id, 120).state == "success"
    assert airflow.result("rollback__flights", again.run_id, "rollback")["outcome"] == "already"
    assert traffic.applied("flights") == {"flights-v1": 100}


def test_training_on_too_few_rows_is_refused_with_the_count_and_the_limit(airflow: AirflowApi) -> None:
    form = {"window_start": "2013-01-01", "window_end": "2013-02-01", "request_id": "too-few"}
    run = airflow.trigger("retrain__flights", form, "too-few")
    assert airflow.wait(run.dag_id, run.run_id, 120).state == "failed"
    tasks = airflow.tasks(run.dag_id, run.run_id)
    assert (tasks["dataset"], tasks["train"]) == ("failed", "upstream_failed")
