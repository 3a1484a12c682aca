"""How fast a topic's window becomes a decoded Parquet slice: beside raw consumption and the usual loops.

`python -m benchmarks.kafka [--quick]` starts a broker of its own, prints a table, writes var/bench/kafka.png, and ends
with a JSON object. All read the same messages of one partition, in turns, each at its best of several runs. Raw is
`consume(10000)` of confluent-kafka, which looks at no message. kafka-python is its loop as its documentation has it,
with a `json.loads` of each value: once as it is installed by default, with checksums in pure Python, and once with
`crc32c`, which it takes where that can be imported. By default librdkafka pauses for a second when its queue is full;
"tuned" is raw with a pause of 10 ms, which is ours too. By hand is what a user would write for a Parquet file:
confluent-kafka (tuned), `json.loads`, pyarrow.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from rich.console import Console
from rich.table import Table

from benchmarks.alone import bars, running, stations
from tidegate.delivery import KafkaSource
from tidegate.handoff import Window
from tidegate.ingest import kafka
from tidegate.ingest.slices import Target, publish
from tidegate.lake import Lake
from tidegate.stack.services import kafka as broker
from tidegate.units import utc

if TYPE_CHECKING:
    from collections.abc import Callable

TOPIC = "bench"
DAY = Window(start=utc("2013-01-01"), end=utc("2013-01-02"))


def fill(address: str, count: int) -> int:
    """Send messages of some 115 bytes, one in a thousand undecodable; return their mean size, bytes."""
    admin = AdminClient({"bootstrap.servers": address})
    admin.create_topics([NewTopic(TOPIC, 1, 1, config={"retention.ms": "-1"})])[TOPIC].result()
    producer = Producer({"bootstrap.servers": address, "queue.buffering.max.messages": 1_000_000, "linger.ms": 50})
    draw = np.random.default_rng(7)
    temps, winds = draw.normal(60, 15, count).round(2).tolist(), draw.integers(0, 360, count).tolist()
    first, size = int(DAY.start.timestamp() * 1000), 0
    for n, (temp, wind) in enumerate(zip(temps, winds, strict=True)):
        row = {
            "id": n, "origin": ("EWR", "JFK", "LGA")[n % 3], "carrier": f"C{n % 20}", "wind": wind, "temp": temp,
            "visib": 10.0, "gust": None if n % 5 else temp / 2, "ok": n % 7 > 0,
        }  # fmt: skip
        value = json.dumps(row).encode() if n % 1000 else b'{"id": "none"}'
        size += len(value)
        producer.produce(TOPIC, value, timestamp=first + n % 80_000_000)
        if n % 50_000 == 0:
            producer.poll(0)
    assert producer.flush(120) == 0
    return size // count


def consumed(address: str, count: int, take: Callable[[list[Any]], None], **settings: Any) -> None:
    """Consume all messages by 10,000 with confluent-kafka; `take` gets each batch."""
    plain = {"bootstrap.servers": address, "group.id": "bench", "enable.auto.commit": False}
    consumer = Consumer({**plain, **settings})
    consumer.assign([TopicPartition(TOPIC, 0, 0)])
    got = 0
    while got < count:
        batch = consumer.consume(min(10_000, count - got), 5.0)
        got += len(batch)
        take(batch)
    consumer.close()


def by_hand(address: str, count: int, folder: Path, schema: Any) -> None:
    """Write a Parquet file as a user would: json.loads of each value, and what is not as expected put aside."""
    aside: list[bytes] = []
    with pq.ParquetWriter(folder / "hand.parquet", schema, compression="zstd") as out:

        def take(batch: list[Any]) -> None:
            rows = []
            for message in batch:
                row = json.loads(message.value())
                if isinstance(row["id"], int):
                    rows.append(row)
                else:
                    aside.append(message.value())
            out.write_table(pa.Table.from_pylist(rows, schema=schema))

        consumed(address, count, take, **TUNED)
    assert len(aside) == -(-count // 1000)


def kafka_python(*, has_crc32c: bool) -> Any:
    """Return kafka-python imported anew; it chooses its checksum by whether `import crc32c` works just then."""
    others = {name: module for name, module in sys.modules.items() if name.partition(".")[0] != "kafka"}
    with mock.patch.dict(sys.modules, others if has_crc32c else {**others, "crc32c": None}, clear=True):
        kafka_python = importlib.import_module("kafka")
        chosen = importlib.import_module("kafka.record.util").calc_crc32c.__defaults__[0]
    assert (chosen.__module__ == "kafka.record._crc32c") is not has_crc32c
    return kafka_python


def by_kafka_python(kafka_python: Any, address: str, count: int) -> None:
    """Run kafka-python's usual loop over the first messages."""
    consumer = kafka_python.KafkaConsumer(bootstrap_servers=address)
    consumer.assign([kafka_python.TopicPartition(TOPIC, 0)])
    consumer.seek_to_beginning()
    rows = []
    for message in consumer:
        rows.append(json.loads(message.value))
        if len(rows) == count:
            break
    consumer.close()


def ours(address: str, folder: Path, contract: Any, count: int) -> None:
    """Publish the window as a slice in a new lake."""
    with tempfile.TemporaryDirectory(dir=folder) as lake:
        target = Target("d", "s", contract, DAY, Lake(f"file://{lake}"))
        spec = KafkaSource(connection="c", topic=TOPIC)
        found = publish(target, kafka.reading(spec=spec, bootstrap=address, **vars(target)))
    assert found.rows == count


OWN, RAW, HAND = "Tidegate: a published slice", "confluent-kafka, raw", "by hand"
LOOP, LOOP_C = "kafka-python, default loop (pure-Python CRC)", "kafka-python, its loop with crc32c"
HOW = "pure-Python CRC: kafka-python as imported where `import crc32c` fails, which is how it is after a plain install"
FAST = "confluent-kafka, raw, tuned"
TUNED = {"fetch.queue.backoff.ms": 10}
GOALS: dict[str, tuple[str, float | None]] = {
    RAW: ("P2a", 0.7), FAST: ("P2a2", 0.7), LOOP: ("P2b", 8.0), LOOP_C: ("P2b2", None), HAND: ("P2c", None),
}  # fmt: skip


def measure(count: int, times: int) -> dict[str, Any]:
    """Return name -> messages a second and CPU seconds per million messages of this process, best of `times`."""
    found: dict[str, tuple[float, float]] = {}
    few = max(count // 10, 20_000)
    with running(lambda cfg: [broker.service(cfg)]) as cfg, tempfile.TemporaryDirectory() as name:
        folder, address, contract = Path(name), cfg.kafka, stations()
        size = fill(address, count)
        from tidegate.contract.arrow import raw_schema

        default, with_crc32c = kafka_python(has_crc32c=False), kafka_python(has_crc32c=True)
        calls: dict[str, tuple[int, Callable[[], None]]] = {
            RAW: (count, lambda: consumed(address, count, lambda _: None)),
            FAST: (count, lambda: consumed(address, count, lambda _: None, **TUNED)),
            OWN: (count, lambda: ours(address, folder, contract, count)),
            HAND: (few, lambda: by_hand(address, few, folder, raw_schema(contract))),
            LOOP: (few, lambda: by_kafka_python(default, address, few)),
            LOOP_C: (few, lambda: by_kafka_python(with_crc32c, address, few)),
        }
        load = os.getloadavg()[0]
        for turn in range(times):
            for label, (messages, call) in calls.items():
                if turn and label in (LOOP, LOOP_C, HAND) and turn % 2:
                    continue
                began, busy = time.perf_counter(), time.process_time()
                call()
                rate = messages / (time.perf_counter() - began)
                used = (time.process_time() - busy) / messages * 1e6
                before = found.get(label, (0.0, np.inf))
                found[label] = (max(rate, before[0]), min(used, before[1]))
    return {"messages": count, "bytes": size, "load": load, "found": found}


def figures(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the ratios as figures: messages a second of ours over a peer's."""
    own = measured["found"][OWN][0]
    listed = []
    for peer, (key, goal) in GOALS.items():
        theirs = measured["found"][peer][0]
        listed.append(
            {
                "cpu_ratio": round(measured["found"][peer][1] / measured["found"][OWN][1], 2),
                "id": key, "what": "messages to a decoded slice", "value": round(own), "unit": "messages/s",
                "peer": peer, "peer_value": round(theirs), "ratio": round(own / theirs, 2), "goal": goal,
                "met": None if goal is None else own / theirs >= goal,
            }
        )  # fmt: skip
    return listed


def plot(measured: dict[str, Any]) -> str:
    """Draw messages a second of each; return the file's path."""
    rates = {name: rate for name, (rate, _) in measured["found"].items()}
    unit = f"messages a second, {measured['bytes']} bytes each, one partition"
    return bars("kafka", rates, [f"{rate / 1e3:.0f}k" for rate in rates.values()], unit)


def main() -> None:
    """Measure, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="300,000 messages and fewer runs: within a minute")
    asked = parser.parse_args()
    measured = measure(300_000 if asked.quick else 2_000_000, 3 if asked.quick else 5)
    title = f"{measured['messages']:,} messages of {measured['bytes']} bytes, load {measured['load']:.1f}"
    table = Table(title=title, title_justify="left", caption=HOW, caption_justify="left")
    for name in ("", "messages/s", "CPU s per million", "Tidegate against it"):
        table.add_column(name, justify="right" if name else "left")
    own = measured["found"][OWN][0]
    for name, (rate, used) in measured["found"].items():
        table.add_row(name, f"{rate:,.0f}", f"{used:.2f}", "" if name == OWN else f"{own / rate:.2f}x")
    console = Console(width=120)
    console.print(table)
    console.print(f"plot: {plot(measured)}", highlight=False, soft_wrap=True)
    print(json.dumps({"benchmark": "kafka", "quick": asked.quick, "figures": figures(measured)}))


if __name__ == "__main__":
    main()
