"""The edge: an answer in time, or an error that names the address and the time-out."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tidegate.contract import Column, Contract
from tidegate.delivery import HdfsSource, KafkaSource, PostgresSource
from tidegate.errors import Unavailable
from tidegate.handoff import Window
from tidegate.ingest import hdfs, kafka, postgres
from tidegate.ingest.edge import away, probe, within
from tidegate.ingest.slices import Reading, Target, publish
from tidegate.lake import Lake
from tidegate.units import utc

RULES = Contract("things", "1", (Column("t", "timestamp", "timestamp", event_time=True),), "things.yaml", "0" * 64)
WINDOW = Window(start=utc("2013-01-01"), end=utc("2013-02-01"))


@pytest.fixture
def nobody() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_a_port_where_nobody_listens_is_unavailable(nobody: int) -> None:
    with pytest.raises(Unavailable, match=rf"HDFS at 127\.0\.0\.1:{nobody} did not answer.*time-out 2 s"):
        probe("HDFS", "127.0.0.1", nobody, 2.0)


def of_postgres(port: int, **common: Any) -> Reading:
    spec = PostgresSource(connection="c", table="t", time="t")
    return postgres.reading(**common, spec=spec, dsn=f"postgresql://someone:secret@127.0.0.1:{port}/db", timeout=3.0)


def of_kafka(port: int, **common: Any) -> Reading:
    spec = KafkaSource(connection="c", topic="t")
    return kafka.reading(**common, spec=spec, bootstrap=f"127.0.0.1:{port}", timeout=3.0)


def of_hdfs(port: int, **common: Any) -> Reading:
    spec = HdfsSource(connection="c", path="/p")
    return hdfs.reading(**common, spec=spec, host="127.0.0.1", port=port, timeout=3.0)


@pytest.mark.parametrize("reading", [of_postgres, of_kafka, of_hdfs])
def test_a_source_that_is_away_is_named_within_seconds_and_nothing_is_published(
    reading: Callable[..., Reading], nobody: int, tmp_path: Path
) -> None:
    target = Target("d", "s", RULES, WINDOW, Lake(f"file://{tmp_path}"))
    begun = time.monotonic()
    with pytest.raises(Unavailable, match=rf"127\.0\.0\.1:{nobody}.*time-out 3 s") as caught:
        publish(target, reading(nobody, **vars(target)))

    assert time.monotonic() - begun < 10
    assert "secret" not in str(caught.value)
    assert target.lake.keys("slices") == []


def test_a_call_that_blocks_is_left_after_its_time_out() -> None:
    stop = threading.Event()
    begun = time.monotonic()
    with pytest.raises(Unavailable, match=r"NameNode at h:1 did not answer: no answer \(time-out 0\.05 s\)"):
        within(0.05, stop.wait, lambda: away("NameNode", "h:1", 0.05, "no answer"))
    assert time.monotonic() - begun < 5
    stop.set()


def test_a_call_in_time_gives_its_value_or_its_own_error() -> None:
    assert within(5, lambda: 7, lambda: AssertionError("late")) == 7
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0, lambda: AssertionError("late"))
