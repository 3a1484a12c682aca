"""From a drifted source to what is trained: the tasks, on Postgres, Kafka, MLflow, Triton and TFDV, without Airflow."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psycopg2
import psycopg2.extras
import pytest
from airflow.sdk import Asset, BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import NewTopic

from benchmarks.tiny import TINY
from operators.hooks import clients
from operators.ingest import IngestOperator, PublishOperator, ValidateOperator
from operators.requests import WATERMARK, DrainRequestsOperator, SettleRequestsOperator
from operators.support import request_asset, slices_asset
from operators.train import DatasetOperator, RequestOperator
from operators.watch import DriftOperator, WatchOperator
from tests.stack.conftest import KafkaAlone, _running
from tidegate import keys
from tidegate.bundle import assemble
from tidegate.clients.model_server import Endpoint
from tidegate.clients.registry import CHAMPION
from tidegate.contract.encodings import Encodings
from tidegate.delivery import delivery_named, project_root
from tidegate.handoff import Dataset, Evaluated, Optimised, Request, Trained, Window
from tidegate.lake import Lake
from tidegate.recorded import PROBE, RecordedAnswers
from tidegate.stack import daemon
from tidegate.stack.config import StackConfig
from tidegate.stack.services import airflow, mlflow

pytestmark = pytest.mark.stack
JANUARY, FEBRUARY, MARCH = (Window(start=f"2013-0{n}-01", end=f"2013-0{n + 1}-01") for n in (1, 2, 3))
BOTH = Window(start=FEBRUARY.start, end=MARCH.end)
KNOWN = {"AA": -1.0, "B6": 0.0, "UA": 1.0}
ROWS = 900  # of a month
SLICE = f"parcels/{MARCH.id}"
STOP = "parcels.carrier lies 0.700 (L-infinity, limit 0.6) from champion parcels-v1: stop"
DELIVERY = """
delivery: parcels
folder: {folder}
sources: {{parcels: {{contract: parcels, postgres: {{connection: flights_db, table: parcels, time: left_at}}}}}}
window: 1 month
start: "2013-01-01"
train_on: 2 months
dataset: {{sql: dataset.sql, label: late, event_time: left_at, test: last 1 month, at_least: 100}}
train: {{model: "model:build"}}
serve: {{sample: 100%}}
rollout: {{stages: [{{weight: 100%, requests: 10}}]}}
retrain: {{kafka: {{connection: events, topic: parcels-retrain}}, on_drift: true}}
"""
CONTRACT = """
apiVersion: v3.1.0
kind: DataContract
id: parcels
name: Parcels
version: 1.0.0
status: active
schema:
  - name: parcels
    properties:
      - name: id
        logicalType: integer
        logicalTypeOptions: {format: i64}
        physicalType: bigint
        required: true
        primaryKey: true
        primaryKeyPosition: 1
      - name: left_at
        logicalType: timestamp
        physicalType: timestamptz
        required: true
        customProperties: [{property: eventTime, value: true}]
      - name: carrier
        logicalType: string
        physicalType: text
        customProperties:
          - {property: encoding, value: vocabulary}
          - {property: drift, value: {linfty: {warn: 0.1, retrain: 0.3, stop: 0.6}}}
          - {property: skew, value: {linfty: {warn: 0.1, retrain: 0.3}}}
      - {name: distance, logicalType: number, physicalType: double}
      - {name: late, logicalType: integer, physicalType: integer}
"""
SQL = "SELECT left_at, late, carrier, distance FROM parcels"


@dataclass
class Tasks:
    """Runs operators as Airflow does, but for the scheduler: results are handed on, deferred ones go on at once."""

    window: Window
    partition: str | None = None
    results: dict[tuple[str, str], Any] = field(default_factory=dict)
    raised: dict[Any, Any] = field(default_factory=lambda: defaultdict(Event))
    inlets: dict[Any, Any] = field(default_factory=dict)
    states: dict[Any, dict[str, Any]] = field(default_factory=lambda: defaultdict(dict))

    def run(self, operator: BaseOperator) -> Any:
        context = self._context(operator.task_id)
        try:
            found = operator.execute(context)
        except TaskDeferred as deferred:
            event = asyncio.run(_first(deferred.trigger))
            found = getattr(operator, deferred.method_name)(context, event.payload)
        self.results[operator.task_id, "return_value"] = found
        return found

    def _context(self, task: str) -> dict[str, Any]:
        def pull(task_ids: str | list[str], key: str = "return_value") -> Any:
            if isinstance(task_ids, str):
                return self.results.get((task_ids, key))
            return [self.results.get((each, key)) for each in task_ids]

        def push(key: str, value: Any) -> None:
            self.results[task, key] = value

        form = {"window_start": self.window.start.isoformat(), "window_end": self.window.end.isoformat()}
        return {
            "ti": SimpleNamespace(
                xcom_pull=pull, xcom_push=push, dag_id="parcels", run_id=f"manual {self.window.id}", task_id="task",
                map_index=-1, try_number=1,
            ),
            "params": form,
            "dag_run": SimpleNamespace(run_id=f"manual {self.window.id}", partition_key=self.partition),
            "outlet_events": self.raised,
            "inlet_events": self.inlets,
            "asset_state_store": {asset: SimpleNamespace(get=s.get, set=s.__setitem__) for asset, s in self._stores()},
        }  # fmt: skip

    def _stores(self) -> list[tuple[Any, dict[str, Any]]]:
        return [(asset, self.states[asset]) for asset in self.inlets]


class Event:
    """What a task says with its asset event."""

    def __init__(self) -> None:
        self.extra: Any = None
        self.partitions: list[str] = []

    def add_partitions(self, names: list[str]) -> None:
        self.partitions += names


class Inbox(list[Any]):
    """The watcher's events, one for each message."""

    def __init__(self, messages: list[dict[str, Any]]):
        at = datetime(2026, 1, 1, tzinfo=UTC)
        super().__init__(SimpleNamespace(timestamp=at, extra={"payload": message}) for message in messages)

    def after(self, moment: str) -> Inbox:
        """Return those since a moment: all of them, as an overlap would."""
        return self


async def _first(trigger: Any) -> Any:
    stream = trigger.run()
    try:
        return await anext(stream)
    finally:
        await stream.aclose()


@dataclass
class Place:
    """The services, the delivery's files, and what was asked for in Kafka."""

    cfg: StackConfig
    folder: Path
    lake: Lake
    kafka: str

    def ingest(self, window: Window) -> Tasks:
        tasks = Tasks(window)
        tasks.run(IngestOperator(task_id="ingest", delivery="parcels", source="parcels"))
        tasks.run(
            ValidateOperator(
                task_id="validate", delivery="parcels", source="parcels", ingest_task="ingest", seal_task="seal"
            )
        )
        return tasks

    def dataset(self, start: Window, end: Window) -> Dataset:
        tasks = Tasks(Window(start=start.start, end=end.end))
        tasks.run(RequestOperator(task_id="request", delivery="parcels"))
        found = tasks.run(DatasetOperator(task_id="dataset", delivery="parcels", request_task="request"))
        return Dataset.model_validate(found)

    def asked(self) -> list[dict[str, Any]]:
        """Return all messages of the topic of requests, as the watcher hands them on."""
        with closing(KafkaConsumer(bootstrap_servers=self.kafka)) as consumer:
            part = TopicPartition("parcels-retrain", 0)
            consumer.assign([part])
            consumer.seek_to_beginning(part)
            last = consumer.end_offsets([part])[part]
            found: list[dict[str, Any]] = []
            while len(found) < last:
                for each in consumer.poll(timeout_ms=1000).get(part, []):
                    place = {"topic": each.topic, "partition": each.partition, "offset": each.offset}
                    found.append({**place, "value": each.value.decode()})
            return found


def plant(cfg: StackConfig) -> None:
    """Fill three months, of which in the last seven of ten parcels come by a carrier that nobody knew."""
    drawn = random.Random(0)
    rows = []
    for window in (JANUARY, FEBRUARY, MARCH):
        step = (window.end - window.start) / ROWS
        for number in range(ROWS):
            carrier = "ZZ" if window == MARCH and number % 10 < 7 else list(KNOWN)[number % 3]
            rows.append((len(rows), window.start + step * number, carrier, drawn.gauss(100, 10), drawn.randrange(2)))
    with (
        closing(psycopg2.connect(cfg.postgres_dsn("flights"))) as connection,
        connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(
            "CREATE TABLE parcels (id bigint PRIMARY KEY, left_at timestamptz NOT NULL, carrier text, "
            "distance double precision, late integer)"
        )
        psycopg2.extras.execute_values(cursor, "INSERT INTO parcels VALUES %s", rows)


@pytest.fixture(scope="module")
def place(server: StackConfig, kafka_alone: KafkaAlone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A delivery over one table; MLflow beside Postgres, and a supervisord for model servers."""
    folder = tmp_path_factory.mktemp("drift")
    for name in ("deliveries", "contracts"):
        (folder / "schemas" / name).mkdir(parents=True)
    (folder / "schemas" / "deliveries" / "parcels.yaml").write_text(DELIVERY.format(folder=folder))
    (folder / "schemas" / "contracts" / "parcels.yaml").write_text(CONTRACT)
    (folder / "dataset.sql").write_text(SQL)
    (folder / "docker").symlink_to(project_root() / "docker")
    events = {"conn_type": "kafka", "extra": {"bootstrap.servers": kafka_alone.address}}
    own = {
        **{name: value for name, value in airflow.environment(server).items() if name.startswith("AIRFLOW_CONN_")},
        "AIRFLOW_CONN_EVENTS": json.dumps(events),
        "TIDEGATE_LAKE": (folder / "lake").as_uri(),
        "TIDEGATE_VAR": str(folder / "var"),
        "TIDEGATE_DELIVERIES": str(folder / "schemas" / "deliveries"),
        "TIDEGATE_CONTRACTS": str(folder / "schemas" / "contracts"),
        "TIDEGATE_PYTHON_VALIDATE": str(server.paths.python_validate),
    }
    plant(server)
    with closing(KafkaAdminClient(bootstrap_servers=kafka_alone.address)) as admin:
        admin.create_topics([NewTopic("parcels-retrain", num_partitions=1, replication_factor=1)])
    with pytest.MonkeyPatch.context() as patch, _running(mlflow.service(server), folder / "mlflow.log"):
        for name, value in own.items():
            patch.setenv(name, value)
        daemon.start(server)
        try:
            yield Place(server, folder, Lake(own["TIDEGATE_LAKE"]), kafka_alone.address)
        finally:
            daemon.stop(server)


@pytest.fixture(scope="module")
def champion(place: Place) -> Endpoint:
    """A champion of January and February: its dataset is the delivery's own, its model tiny; Triton serves it."""
    for window in (JANUARY, FEBRUARY):
        place.ingest(window)
    dataset, lake = place.dataset(JANUARY, FEBRUARY), place.lake
    assert (dataset.train_rows, dataset.test_rows) == (ROWS, ROWS)
    assert sorted(dataset.slices) == [f"parcels/{window.id}" for window in (JANUARY, FEBRUARY)]
    probe = recorded(Encodings.from_json(lake.read(dataset.key, "encodings.json")))
    with lake.publish(keys.model("parcels", "first")) as draft:
        draft.file("saved_model/saved_model.pb").write_bytes(b"not looked at here")
    with lake.publish(keys.optimised("parcels", "first")) as draft:
        draft.file("model.onnx").write_bytes(TINY)
        draft.file(PROBE).write_text(probe.to_json(), encoding="utf-8")
    model, artefact = (lake.require(of("parcels", "first")) for of in (keys.model, keys.optimised))
    trained = Trained(
        request_id="first", key=keys.model("parcels", "first"), workers=1, steps=1, seconds=1.0, metrics={},
        digest=model["digest"],
    )  # fmt: skip
    optimised = Optimised(
        key=keys.optimised("parcels", "first"), target="onnx", rows=3, max_difference=0.0, seconds_saved_model=0.0,
        seconds_optimised=0.0, digest=artefact["digest"],
    )  # fmt: skip
    request = Request(request_id="first", delivery="parcels", window=dataset.window)
    delivery = delivery_named("parcels")
    registry = clients.registry(clients.connection(clients.REGISTRY))
    version = registry.reserve("parcels", "first", None, f"{lake.url}/{trained.key}", {}, {})
    key = keys.evaluation("parcels", "first")
    with lake.publish(key) as draft:
        draft.file("evaluation.json").write_text("{}", encoding="utf-8")
    evaluated = Evaluated(request_id="first", key=key, digest=lake.require(key)["digest"], figures={})
    bundle = assemble(delivery, request, dataset, trained, evaluated, optimised, version, lake, place.folder)
    registry.set_alias("parcels", CHAMPION, version)
    assert bundle.name == "parcels-v1"
    return clients.serving(clients.connection(clients.SERVING), lake, "triton").deploy(bundle)


def recorded(encodings: Encodings) -> RecordedAnswers:
    """What the tiny model answers under these encodings."""
    carriers, distances = ("B6", "UA", "AA"), (100.0, 120.0, None)
    _, scale = encodings.features
    scaled = [0.0 if each is None else (each - scale.mean) / scale.std for each in distances]
    answers = [1 / (1 + math.exp(-KNOWN[c] - 0.5 * x)) for c, x in zip(carriers, scaled, strict=True)]
    return RecordedAnswers((0, 1, 2), {"carrier": carriers, "distance": distances}, tuple(answers), 1e-5)


def ask(endpoint: Endpoint, count: int) -> None:
    """Ask for so many different rows, all of one carrier."""
    drawn = random.Random(1)
    with httpx.Client(timeout=10) as client:
        for _ in range(count):
            tensors = (("carrier", "BYTES", "AA"), ("distance", "FP32", round(drawn.gauss(100, 10), 4)))
            inputs = [{"name": n, "datatype": t, "shape": [1, 1], "data": [value]} for n, t, value in tensors]
            client.post(f"{endpoint.model_url}/infer", json={"inputs": inputs}).raise_for_status()


@dataclass
class Seen:
    """A watched window: its tasks, their report, all distances by source and baseline, and what was refused."""

    tasks: Tasks
    report: dict[str, Any]
    distances: dict[tuple[str, str], float]
    published: str = ""
    trained: str = ""


def watched(place: Place, tasks: Tasks) -> Seen:
    """Watch what was validated, then try to publish the window and to train on it; keep what refuses."""
    report = tasks.run(WatchOperator(task_id="watch", delivery="parcels", validate_tasks=["validate"]))
    listed = json.loads(place.lake.read(report["key"], "distances.json"))
    carriers = [each for each in listed if each["feature"] == "carrier"]
    seen = Seen(tasks, report, {(each["source"], each["baseline"]): each["distance"] for each in carriers})
    publish = PublishOperator(task_id="publish", delivery="parcels", validate_tasks=["validate"], watch_task="watch")
    try:
        tasks.run(publish)
    except AirflowFailException as error:
        seen.published = str(error)
    try:
        place.dataset(FEBRUARY, MARCH)
    except AirflowFailException as error:
        seen.trained = str(error)
    return seen


@pytest.fixture(scope="module")
def stopped(place: Place, champion: Endpoint) -> Seen:
    """March as it came, watched after the champion has served another mix than it was trained on."""
    ask(champion, 400)
    return watched(place, place.ingest(MARCH))


@pytest.fixture(scope="module")
def let_through(place: Place, stopped: Seen) -> Seen:
    """The same March once somebody has raised the limit and cleared the watch."""
    contract = place.folder / "schemas" / "contracts" / "parcels.yaml"
    contract.write_text(CONTRACT.replace("stop: 0.6", "stop: 0.9").replace("1.0.0", "1.0.1"))
    return watched(place, replace(stopped.tasks, raised=defaultdict(Event)))


def test_source_and_served_requests_are_held_against_what_the_champion_was_trained_on(stopped: Seen) -> None:
    distances, report = stopped.distances, stopped.report
    assert distances["parcels", "champion parcels-v1"] == pytest.approx(0.7, abs=1e-3), "of both months' slices"
    assert distances["parcels", "slice of 2013-02-01"] == pytest.approx(0.7, abs=1e-3)
    assert report["rows_served"] == 400, "and none of the hundreds by which the server was tried and warmed up"
    assert distances["served", "training data of parcels-v1"] == pytest.approx(2 / 3, abs=1e-3)
    severities = {(each["source"], each["kind"]): each["severity"] for each in report["breaches"]}
    assert severities["parcels", "champion"] == "stop"
    assert severities["served", "champion"] == "retrain"


def test_a_slice_beyond_its_contract_s_stop_is_not_published_and_not_trained_on(place: Place, stopped: Seen) -> None:
    assert STOP in stopped.published
    assert stopped.tasks.raised[slices_asset("parcels")].extra is None
    print(stopped.trained)
    assert f"Slice {SLICE} drifted further than its contract's stop: {STOP}" in stopped.trained
    assert "raise the limit in the contract and clear that task" in stopped.trained
    assert place.asked() == [], "nobody asks for a model of what must not be trained on"


def test_a_raised_limit_lets_the_same_slice_through(place: Place, let_through: Seen) -> None:
    assert (let_through.published, let_through.trained) == ("", "")
    assert list(let_through.tasks.raised[slices_asset("parcels")].extra["sources"]) == ["parcels"]
    built = place.lake.require(keys.dataset("parcels", BOTH))
    assert SLICE in built["slices"]
    assert (built["train_rows"], built["test_rows"]) == (ROWS, ROWS)


def test_two_watches_of_one_slice_make_one_request(place: Place, let_through: Seen) -> None:
    wanted = [f"drift-{source}-{MARCH.id}" for source in ("parcels", "served")]
    drift = DriftOperator(task_id="drift", delivery="parcels", watch_task="watch")
    assert let_through.tasks.run(drift)["requests"] == wanted
    again = watched(place, replace(let_through.tasks))
    assert again.tasks.run(drift)["requests"] == wanted
    messages = place.asked()
    assert [json.loads(each["value"])["request_id"] for each in messages] == wanted * 2, "nothing is on record yet"

    inbox = Asset("inbox")
    draining = Tasks(MARCH, inlets={inbox: Inbox(messages)})
    drain = DrainRequestsOperator(task_id="drain", delivery="parcels", inbox=inbox)
    assert draining.run(drain)["requests"] == wanted
    draining.run(SettleRequestsOperator(task_id="settle", delivery="parcels", inbox=inbox, drain_task="drain"))
    assert draining.states[inbox][WATERMARK]
    with pytest.raises(AirflowSkipException, match="no new request"):
        draining.run(drain)
    assert draining.raised[request_asset("parcels")].partitions == wanted

    asked = Tasks(MARCH, partition=wanted[0]).run(RequestOperator(task_id="request", delivery="parcels"))
    assert asked["source"] == "drift"
    assert Window.model_validate(asked["window"]) == BOTH
    assert "parcels.carrier lies 0.700" in asked["reason"]
    assert again.tasks.run(drift)["requests"] == wanted
    assert len(place.asked()) == 4, "nor is it sent again once it is on record"
