"""ingest__flights in Airflow: a large source goes by mapped tasks, a small one by one, a failed part stops its own."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import uuid
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from tests.stack import parts_run
from tidegate.delivery import project_root
from tidegate.ingest import kafka
from tidegate.ingest.parts import begin, seal
from tidegate.lake import Lake
from tidegate.units import utc


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("airflow")
    environment = {
        **os.environ, "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(project_root() / "dags"),
    }  # fmt: skip
    for command in (("airflow", "db", "migrate"), ("tests.stack.parts_run", f"file://{home}/lake")):
        done = subprocess.run(
            (sys.executable, "-m", *command), cwd=project_root(), env=environment, capture_output=True, text=True,
            timeout=180, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def states(outcome: dict[str, Any], source: str) -> dict[str, list[tuple[str, str | None]]]:
    found: dict[str, list[tuple[str, str | None]]] = {}
    for task, _, state, name in sorted(outcome["tasks"], key=lambda each: (each[0], each[1])):
        if task.startswith(f"{source}."):
            found.setdefault(task.partition(".")[2], []).append((state, name))
    return found


def test_a_large_source_is_read_by_a_task_for_each_part_with_names_that_people_can_read(
    outcome: dict[str, Any],
) -> None:
    assert states(outcome, "flights") == {
        "ingest": [("success", None)],
        "read": [("success", "1 of 3"), ("success", "2 of 3"), ("success", "3 of 3")],
        "seal": [("success", None)],
        "validate": [("success", None)],
    }


@pytest.mark.parametrize("source", ["planes", "airports"])
def test_a_small_source_starts_no_more_tasks_than_two(outcome: dict[str, Any], source: str) -> None:
    assert states(outcome, source) == {
        "ingest": [("success", None)],
        "read": [("skipped", None)],
        "seal": [("skipped", None)],
        "validate": [("success", None)],
    }


def test_a_part_that_cannot_be_read_stops_its_own_source_and_the_window(outcome: dict[str, Any]) -> None:
    found = states(outcome, "weather")
    assert [state for state, _ in found["read"]] == ["success", "success", "failed"]
    assert [found[task][0][0] for task in ("seal", "validate")] == ["upstream_failed", "upstream_failed"]
    assert [state for task, _, state, _ in outcome["tasks"] if task == "publish"] == ["upstream_failed"]
    window = "20130101T000000Z-20130201T000000Z"
    assert outcome["clean"] == {
        f"slices/flights/{source}/{window}/validated": rows
        for source, rows in (("flights", 25), ("planes", 5), ("airports", 5))
    }


def test_the_parts_of_a_topic_are_read_by_other_processes_to_the_digest_of_a_reading_by_one(
    kafka_alone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, lake = f"parts-{uuid.uuid4().hex[:8]}", f"file://{tmp_path}/lake"
    made = NewTopic(name, 2, 1, config={"retention.ms": "-1"})
    admin = AdminClient({"bootstrap.servers": kafka_alone.address})
    admin.create_topics([made])[name].result()
    producer, moment = Producer({"bootstrap.servers": kafka_alone.address}), int(utc("2013-01-10").timestamp() * 1000)
    for number in range(2500):
        producer.produce(name, b'{"a": %d}' % number, partition=number % 2, timestamp=moment + number)
    assert producer.flush(30) == 0

    monkeypatch.setattr(kafka, "_PART", 1000)
    target, reading = parts_run.topic(kafka_alone.address, name, lake)
    parts = begin(target, reading, refresh=False)
    assert isinstance(parts, list)
    assert len(parts) == 4
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        asked = [
            pool.submit(parts_run.read_part_of_topic, kafka_alone.address, name, lake, part.to_json()) for part in parts
        ]
        done = [each.result() for each in asked]
    assert os.getpid() not in {process for process, _ in done}
    assert [rows for _, rows in done] == [1000, 250, 1000, 250]
    sealed = seal(target, parts[0].plan)

    alone = replace(target, lake=Lake(f"file://{tmp_path}/alone"))
    position = target.lake.require(sealed.key)["position"]
    assert alone.read(reading, position, reading.parts(position)).digest == sealed.digest
