"""How fast a gang of two trains on the real flights: beside a bare script that calls tf_keras' fit in two processes.

`python -m benchmarks.train [--quick]` prints a table, writes var/bench/train.png, and ends with a JSON object.
Both train the flights example on January to March with the same model, batch, strategy and collectives, as processes of
this machine, one after the other. Counted is the time from the end of the first epoch to the end of the last, so no
start and no building of graphs, but all that happens between epochs: ours compares metrics, checkpoints, and tells. The
script is fit with 1 step for each call, tf_keras' default, and with 32. Needs .envs/train.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.alone import bars
from examples.flights.load import clean_tables
from tidegate import keys
from tidegate.contract import load_contract
from tidegate.contract.encodings import Encodings, standardise, vocabulary
from tidegate.dataset import select
from tidegate.dataset.encode import chosen_encodings
from tidegate.delivery import delivery_named, project_root
from tidegate.handoff import Dataset, Feature, Request, Trained, TrainTask, Window
from tidegate.lake import Lake
from tidegate.launch import Workload
from tidegate.launch.local import LocalLauncher

if TYPE_CHECKING:
    from collections.abc import Sequence

WORKERS = 2
OURS = "Tidegate"
STREAMED = "Tidegate, rows streamed"
BARE = {"fit, 1 step a call": 1, "fit, 32 steps a call": 32}
GOAL, WAITING = 0.97, 0.05
SCRIPT = """
import argparse, json, os, sys, time
from pathlib import Path

import tensorflow as tf
import tf_keras
from tidegate.encoded import read_rows
from tidegate.handoff import TrainTask
from tidegate.lake import Lake
from tidegate.train.usercode import load_function

parser = argparse.ArgumentParser()
parser.add_argument("--handoff", type=Path)
parser.add_argument("--out", type=Path)
arguments = parser.parse_args()
task = TrainTask.model_validate_json(arguments.handoff.read_text())
kind = tf.distribute.experimental.CommunicationImplementation.RING
options = tf.distribute.experimental.CommunicationOptions(implementation=kind)
strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
rank = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
rows = read_rows(Lake(task.lake), task.dataset, "train")
data = tf.data.Dataset.from_tensor_slices((rows.columns, rows.labels)).cache()
data = data.shard(task.workers, rank).shuffle(10_000, seed=7).repeat()
data = data.batch(task.batch // task.workers, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
with strategy.scope():
    model = load_function(task.model_file, task.model_function)(task.dataset.features)
    model.compile(
        optimizer=tf_keras.optimizers.Adam(task.learning_rate),
        loss="binary_crossentropy",
        metrics=[tf_keras.metrics.AUC(name="auc")],
        steps_per_execution=STEPS,
    )

class Clock(tf_keras.callbacks.Callback):
    ends = []

    def on_epoch_end(self, epoch, logs=None):
        self.ends.append(time.time())

model.fit(
    strategy.distribute_datasets_from_function(lambda _: data),
    epochs=task.epochs,
    steps_per_epoch=len(rows) // task.batch,
    callbacks=[Clock()],
    verbose=0,
)
if rank == 0:
    arguments.out.write_text(json.dumps(Clock.ends))
"""


class Room:
    """A lake with the flights of three months as a dataset, and a launcher."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.lake = Lake(f"file://{folder}/lake")
        python = str(project_root() / ".envs" / "train" / "bin" / "python")
        self._launcher = LocalLauncher(folder / "gangs", {"train": python})
        self.dataset = flights(self.lake)

    def task(self, name: str, epochs: int, memory: int = 10**9) -> TrainTask:
        """Return what a gang is asked to do."""
        train = delivery_named("flights").train
        return TrainTask(
            request=Request(request_id=name, delivery="flights", window=self.dataset.window),
            dataset=self.dataset,
            lake=self.lake.url,
            model_file=str(project_root() / "examples" / "flights" / "model.py"),
            model_function="build",
            workers=WORKERS,
            epochs=epochs,
            batch=train.batch,
            learning_rate=train.learning_rate,
            memory=memory,
            work=str(self.folder / "work" / name),
            lock=str(project_root() / "docker" / "train" / "requirements.txt"),
        )

    def ours(self, name: str, task: TrainTask) -> list[dict[str, Any]]:
        """Train by the member; return its epochs."""
        result = self._run(Workload(name, "tidegate.train", "train", task.to_json(), WORKERS))
        trained = Trained.model_validate_json(result)
        found: list[dict[str, Any]] = json.loads(self.lake.read(trained.key, "epochs.json"))
        return found

    def bare(self, name: str, task: TrainTask, steps: int) -> list[float]:
        """Train by the script; return the ends of its epochs."""
        folder = self.folder / "gangs" / name
        folder.mkdir(parents=True)
        (folder / "bare_script.py").write_text(SCRIPT.replace("STEPS", str(steps)))
        ends: list[float] = json.loads(self._run(Workload(name, "bare_script", "train", task.to_json(), WORKERS)))
        return ends

    def _run(self, workload: Workload) -> str:
        self._launcher.start(workload)
        while not self._launcher.poll(workload.name).ended:
            time.sleep(0.2)  # the launcher's interface is polled, by its contract
        state = self._launcher.poll(workload.name)
        assert state.phase == "succeeded", f"{state.reason}\n{state.log_tail}"
        return state.result or ""


def flights(lake: Lake) -> Dataset:
    """Publish January to March as a dataset, by the example's own contracts and SELECT."""
    delivery = delivery_named("flights")
    spec = delivery.dataset
    table = select(clean_tables((1, 2, 3)), project_root() / "examples" / "flights" / spec.sql, spec)
    contracts = {name: load_contract(source.contract) for name, source in delivery.sources.items()}
    frozen = [
        vocabulary(name, table[name].to_pylist())
        if how == "vocabulary"
        else standardise(name, table[name].to_numpy(zero_copy_only=False).astype(float))
        for name, how in chosen_encodings(table.schema, spec, contracts).items()
    ]
    window = Window(start="2013-01-01", end="2013-04-01")
    key = keys.dataset("flights", window)
    with lake.publish(key) as draft:
        pq.write_table(table, draft.file("train.parquet"), row_group_size=16_384)
        pq.write_table(table.slice(0, 5_000), draft.file("test.parquet"))
        draft.file("encodings.json").write_text(Encodings(tuple(frozen)).to_json())
    return Dataset(
        delivery="flights",
        window=window,
        key=key,
        train_rows=len(table),
        test_rows=5_000,
        label=spec.label,
        features=[Feature(name=f.name, encoding=f.encoding, dtype=f.dtype, size=f.size) for f in frozen],
        digest=lake.require(key)["digest"],
        slices={},
    )


def measure(epochs: int, repeats: int) -> dict[str, Any]:
    """Train by each way in turn, `repeats` times; return steps/s of each, and our shares of time."""
    rates: dict[str, list[float]] = {OURS: [], STREAMED: [], **{name: [] for name in BARE}}
    shares: dict[str, list[float]] = {"waiting": [], "communication": [], "waiting, streamed": []}
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        room = Room(Path(folder))
        steps = room.dataset.train_rows // delivery_named("flights").train.batch

        def rate(ends: Sequence[float]) -> float:
            return steps * (len(ends) - 1) / (ends[-1] - ends[0])

        for number in range(repeats):
            for name, memory in ((OURS, 10**9), (STREAMED, 0)):
                asked = f"{'held' if memory else 'streamed'}-{number}"
                found = room.ours(asked, room.task(asked, epochs, memory))
                rates[name].append(rate([epoch["at"] for epoch in found]))
                of = "waiting" if memory else "waiting, streamed"
                shares[of] += [epoch["figures"]["waiting"] for epoch in found[1:]]
                if memory:
                    shares["communication"] += [epoch["figures"]["communication"] for epoch in found[1:]]
            for name, each in BARE.items():
                asked = f"bare-{each}-{number}"
                rates[name].append(rate(room.bare(asked, room.task(asked, epochs), each)))
    return {
        "rows": room.dataset.train_rows,
        "steps": steps,
        "load": os.getloadavg()[0],
        "rates": {name: statistics.median(values) for name, values in rates.items()},
        "spread": {name: (min(values), max(values)) for name, values in rates.items()},
        "shares": {name: statistics.median(values) for name, values in shares.items()},
    }


def figures(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Return our steps/s over each script's, and the share of time without rows."""
    rates, shares = measured["rates"], measured["shares"]
    listed: list[dict[str, Any]] = [
        {
            "id": "P9", "what": "steps/s of a gang of two", "value": round(rates[OURS], 1), "unit": "steps/s",
            "peer": peer, "peer_value": round(rates[peer], 1), "ratio": round(rates[OURS] / rates[peer], 3),
            "goal": GOAL, "met": rates[OURS] / rates[peer] >= GOAL,
        }
        for peer in BARE
    ]  # fmt: skip
    waits = {"waiting": "time waiting for rows", "waiting, streamed": "the same, rows streamed"}
    for name, what in waits.items():
        own = {"id": "P9", "what": what, "value": round(shares[name], 4), "unit": "share"}
        listed.append({**own, "goal": WAITING, "met": shares[name] < WAITING})
    listed.append(
        {"id": "P9", "what": "time in the exchange", "value": round(shares["communication"], 4), "unit": "share"}
    )
    return listed


def main() -> None:
    """Measure, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one run of each, of 4 epochs: a minute or two")
    asked = parser.parse_args()
    measured = measure(4, 1) if asked.quick else measure(11, 3)
    title = f"{measured['rows']:,} rows, {measured['steps']} steps an epoch, load {measured['load']:.1f}"
    table = Table(title=title, title_justify="left")
    for name in ("", "steps/s", "lowest", "highest", "of Tidegate's"):
        table.add_column(name, justify="right" if name else "left")
    for name, value in measured["rates"].items():
        low, high = measured["spread"][name]
        table.add_row(name, f"{value:.1f}", f"{low:.1f}", f"{high:.1f}", f"{value / measured['rates'][OURS]:.2f}x")
    console = Console(width=120)
    console.print(table)
    console.print("share of time, median of epochs: ", {k: f"{v:.1%}" for k, v in measured["shares"].items()})
    labels = [f"{value:.0f}" for value in measured["rates"].values()]
    path = bars("train", measured["rates"], labels, "steps a second, flights, two processes on one machine")
    console.print(f"plot: {path}", highlight=False, soft_wrap=True)
    print(json.dumps({"benchmark": "train", "quick": asked.quick, "figures": figures(measured)}))


if __name__ == "__main__":
    main()
