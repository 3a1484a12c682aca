"""Runs ingest__flights in Airflow, with sources in memory: one of them large, one whose last part fails."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pyarrow as pa
from airflow.dag_processing.dagbag import DagBag

from tidegate.contract import Column, Contract
from tidegate.contract.arrow import slice_schema
from tidegate.delivery import Delivery, KafkaSource, project_root
from tidegate.errors import DataError
from tidegate.handoff import Part, Window
from tidegate.ingest import kafka
from tidegate.ingest.kafka import KafkaReading
from tidegate.ingest.parts import read_part
from tidegate.ingest.slices import Target
from tidegate.lake import Lake
from tidegate.units import utc

RULES = Contract("things", "1", (Column("a", "int32", "int32"),), "things.yaml", "0" * 64)


class Numbers:
    """The numbers below 25 of a large source in three parts, below 5 of another in one."""

    def __init__(self, source: str):
        self.source = source

    def freeze(self) -> dict[str, Any]:
        return {"kind": "test"}

    def parts(self, position: dict[str, Any]) -> list[dict[str, Any]]:
        if self.source in ("flights", "weather"):
            return [{"from": 0, "to": 10}, {"from": 10, "to": 20}, {"from": 20, "to": 25}]
        return [{"from": 0, "to": 5}]

    def rows(self, position: dict[str, Any], part: dict[str, Any]) -> Iterator[Any]:
        if self.source == "weather" and part["from"] == 20:
            raise DataError("this part cannot be read")
        rows = [{"a": number, "_position": str(number)} for number in range(part["from"], part["to"])]
        yield pa.Table.from_pylist(rows, schema=slice_schema(RULES))


def topic(bootstrap: str, name: str, lake: str) -> tuple[Target, KafkaReading]:
    """Return how a topic's January of 2013 is read, known from its address alone."""
    window = Window(start=utc("2013-01-01"), end=utc("2013-02-01"))
    target = Target("d", "s", RULES, window, Lake(lake))
    return target, kafka.reading(spec=KafkaSource(connection="c", topic=name), bootstrap=bootstrap, **vars(target))


def read_part_of_topic(bootstrap: str, name: str, lake: str, part: str) -> tuple[int, int]:
    """Read one part of a topic's plan; return the process that did it, and the rows."""
    return os.getpid(), read_part(*topic(bootstrap, name, lake), Part.model_validate_json(part))


def main(lake: str) -> None:
    """Print the state of each task, the names of the mapped ones, and what was validated."""

    def source_of(delivery: Delivery, source: str, window: Window) -> tuple[Target, Numbers]:
        return Target(delivery.delivery, source, RULES, window, Lake(lake)), Numbers(source)

    dag = DagBag(str(project_root() / "dags" / "ingest.py")).dags["ingest__flights"]
    ledger = SimpleNamespace(record_slice=lambda validated: None)
    with (
        mock.patch("operators.ingest.source_of", source_of),
        mock.patch("operators.ingest.the_lake", return_value=Lake(lake)),
        mock.patch("operators.ingest.clients.connection"),
        mock.patch("operators.ingest.clients.ledger", return_value=ledger),
        mock.patch("tidegate.contract.load_contract", return_value=RULES),
    ):
        run = dag.test(logical_date=None, run_conf={"window_start": "2013-01-01", "window_end": "2013-02-01"})
    found = [
        [each.task_id, each.map_index, str(each.state), each.rendered_map_index] for each in run.get_task_instances()
    ]
    rows = {key: Lake(lake).require(key)["clean"] for key in Lake(lake).keys("slices") if key.endswith("/validated")}
    print(json.dumps({"tasks": found, "clean": rows}))


if __name__ == "__main__":
    main(sys.argv[1])
