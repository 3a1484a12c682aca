"""Real gangs of TensorFlow processes on a small dataset: training, resuming, converting. Needs .envs/train only."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidegate import keys
from tidegate.contract.encodings import Encodings, standardise, vocabulary
from tidegate.delivery import project_root
from tidegate.errors import DataError, Permanent, Retryable
from tidegate.handoff import Dataset, Feature, Optimised, OptimiseTask, Request, Trained, TrainTask, Window
from tidegate.lake import Lake
from tidegate.launch import State, Workload
from tidegate.launch.files import GangFiles
from tidegate.launch.local import LocalLauncher
from tidegate.recorded import PROBE, RecordedAnswers
from tidegate.train.checkpoints import Saved, Store

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

PYTHON = str(project_root() / ".envs" / "train" / "bin" / "python")
WINDOW = Window(start="2013-01-01", end="2013-04-01")
SETTINGS = {"workers": 2, "epochs": 12, "batch": 256, "learning_rate": 0.005, "seed": 7}


class Room:
    """A lake with one dataset, and a launcher beside it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.lake = Lake(f"file://{folder}/lake")
        self.launcher = LocalLauncher(folder / "gangs", {"train": PYTHON})
        self.dataset = _dataset(self.lake)

    def task(self, request: str, **changes: Any) -> TrainTask:
        fields = {
            "request": Request(request_id=request, delivery="flights", window=WINDOW),
            "dataset": self.dataset,
            "lake": self.lake.url,
            "model_file": str(project_root() / "examples" / "flights" / "model.py"),
            "model_function": "build",
            "work": str(self.folder / "work" / request),
            "lock": str(project_root() / "docker" / "train" / "requirements.txt"),
        }
        return TrainTask(**{**fields, **SETTINGS, **changes})

    def start(self, name: str, task: TrainTask) -> None:
        self.launcher.start(Workload(name, "tidegate.train", "train", task.to_json(), task.workers))

    def train(self, name: str, task: TrainTask) -> State:
        self.start(name, task)
        return self.ended(name)

    def optimise(self, name: str, trained: Trained, target: str = "onnx", tolerance: float = 1e-4) -> State:
        fields = {"trained": trained, "dataset": self.dataset, "lake": self.lake.url, "target": target}
        task = OptimiseTask(**fields, tolerance=tolerance)
        self.launcher.start(Workload(name, "tidegate.optimise", "train", task.to_json()))
        return self.ended(name)

    def ended(self, name: str, seconds: float = 240.0) -> State:
        self.until(lambda: self.launcher.poll(name).ended, seconds)
        return self.launcher.poll(name)

    def until(self, true: Any, seconds: float = 240.0) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.02)  # the launcher's interface is polled, by its contract

    def weights(self, name: str) -> set[str]:
        return set(re.findall(r"trained rank=\d weights=(\w+)", self.launcher.logs(name)))


def _dataset(lake: Lake) -> Dataset:
    """Flights that are late when they leave late, or fly for carrier C; 60 flight numbers, all seen."""
    random = np.random.default_rng(3)
    rows = {"train": 4000, "test": 1000}
    parts = {}
    for part, count in rows.items():
        delay = random.normal(10, 20, count)
        delay[::50] = np.nan  # not recorded
        carrier = random.choice(["A", "B", "C"], count)
        late = np.nan_to_num(delay) + 15 * (carrier == "C") + random.normal(0, 8, count) > 15
        flight = np.resize(np.arange(1, 61), count)
        columns = {"dep_delay": delay, "carrier": carrier, "flight": flight, "late": late.astype(np.int64)}
        parts[part] = pa.table(columns)
    train = parts["train"]
    encodings = Encodings(
        (
            standardise("dep_delay", train["dep_delay"].to_numpy()),
            vocabulary("carrier", train["carrier"].to_pylist()),
            vocabulary("flight", train["flight"].to_pylist()),
        )
    )
    key = keys.dataset("flights", WINDOW)
    with lake.publish(key) as draft:
        for part, table in parts.items():
            pq.write_table(table, draft.file(f"{part}.parquet"), row_group_size=600)
        draft.file("encodings.json").write_text(encodings.to_json())
    return Dataset(
        delivery="flights",
        window=WINDOW,
        key=key,
        train_rows=rows["train"],
        test_rows=rows["test"],
        label="late",
        features=[Feature(name=f.name, encoding=f.encoding, dtype=f.dtype, size=f.size) for f in encodings.features],
        digest=lake.require(key)["digest"],
        slices={"flights/2013-01": "d1"},
    )


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    return Room(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def trained(room: Room) -> Trained:
    state = room.train("unbroken", room.task("unbroken"))
    assert state.phase == "succeeded", state.log_tail
    return Trained.model_validate_json(state.result or "")


def test_a_gang_of_two_learns_the_same_weights_and_beats_the_base_rate(room, trained):
    assert trained.metrics["auc"] > 0.9
    assert trained.metrics["base_auc"] == 0.5
    assert trained.metrics["log_loss"] < trained.metrics["base_log_loss"]
    assert (trained.workers, trained.steps) == (2, 12 * (4000 // 256))
    assert len(room.weights("unbroken")) == 1
    assert len(re.findall(r"weights=", room.launcher.logs("unbroken"))) == 2
    epochs = json.loads(room.lake.read(trained.key, "epochs.json"))
    assert [epoch["number"] for epoch in epochs] == list(range(1, 13))


def test_the_same_request_and_dataset_is_trained_once(room, trained):
    state = room.train("again", room.task("unbroken"))
    assert Trained.model_validate_json(state.result or "") == trained
    assert "already published" in room.launcher.logs("again")
    assert "epoch 1/" not in room.launcher.logs("again")


def _members(room: Room, name: str) -> list[int]:
    leader = GangFiles(room.folder / "gangs" / name).leader()
    assert leader is not None
    return [int(pid) for pid in Path(f"/proc/{leader.pid}/task/{leader.pid}/children").read_text().split()]


def _steps_done(room: Room, name: str) -> int:
    """Where the gang took up its work."""
    (done,) = set(re.findall(r"training rank=\d .*steps_done=(\d+)", room.launcher.logs(name)))
    return int(done)


def test_a_gang_told_to_end_and_then_killed_ends_with_the_weights_of_an_unbroken_one(room, trained):
    task = room.task("broken", checkpoint_steps=7)
    room.start("broken", task)
    room.until(lambda: "epoch 2/12" in room.launcher.logs("broken"))
    os.kill(_members(room, "broken")[1], signal.SIGTERM)
    state = room.ended("broken")
    assert isinstance(state.error(), Retryable)
    told = re.search(
        r"member 1 was told to end \(SIGTERM\) after step (\d+) of 180; its checkpoint is st", state.reason
    )
    assert told is not None, state.reason
    assert room.lake.manifest(keys.model("flights", "broken")) is None

    room.start("broken", task)
    room.until(lambda: len(set(re.findall(r"checkpoint step=(\d+)", room.launcher.logs("broken")))) > 4)
    os.kill(_members(room, "broken")[-1], signal.SIGKILL)
    assert isinstance(room.ended("broken").error(), Retryable)
    assert _steps_done(room, "broken") == int(told[1]), "what was told to end went on at the very step"

    work = Lake(task.work)
    stored = work.keys("checkpoints")
    assert len(stored) == 2
    if int(stored[-1].rpartition("/")[2]) % 15 == 0:  # the end of an epoch: let it resume within one
        work.delete(stored.pop())
    state = room.train("broken", task)
    assert state.phase == "succeeded", state.log_tail
    assert _steps_done(room, "broken") == int(stored[-1].rpartition("/")[2])
    assert _steps_done(room, "broken") % 15, "within an epoch"
    assert "epoch 1/12" not in room.launcher.logs("broken")
    assert room.weights("broken") == room.weights("unbroken")
    assert not (Path(task.work) / "checkpoints").exists()
    broken = Trained.model_validate_json(state.result or "")
    losses = [
        [epoch["figures"]["train_loss"] for epoch in json.loads(room.lake.read(key, "epochs.json"))]
        for key in (broken.key, trained.key)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6), (
        "an epoch's figures are of all its steps, also of those before"
    )


_OTHER = """
import json, os, runpy, sys
from pathlib import Path
if json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 1:
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
    package = Path("of-member-1") / "extra_kernels-1.5.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\\nName: extra-kernels\\nVersion: 1.5\\n")
    sys.path.insert(0, str(package.parent.resolve()))
runpy.run_module("tidegate.train", run_name="__main__")
"""


def test_a_gang_whose_members_differ_fails_before_its_first_step_with_a_table(room):
    task = room.task("unlike")
    folder = room.folder / "gangs" / "unlike"
    folder.mkdir(parents=True)
    (folder / "other_environment.py").write_text(_OTHER)
    room.launcher.start(Workload("unlike", "other_environment", "train", task.to_json(), task.workers))
    state = room.ended("unlike")
    assert isinstance(state.error(), Permanent)
    rows = [line.split() for line in state.reason.splitlines()]
    assert ["fact", "member", "0", "member", "1"] in rows
    assert ["TF_ENABLE_ONEDNN_OPTS", "-", "0"] in rows
    assert ["package", "extra-kernels", "-", "1.5"] in rows
    assert len(rows) == 5, "what is alike is not listed"
    for rank in (0, 1):
        assert "extra-kernels" in GangFiles(folder).tail(rank, 3)
    assert "epoch" not in room.launcher.logs("unlike")


def test_checkpoints_go_to_object_storage_which_may_be_away_for_a_while(room, s3_parts, monkeypatch):
    for name, value in s3_parts.environment.items():
        monkeypatch.setenv(name, value)
    task = room.task("stored", workers=1, epochs=4000, checkpoint_seconds=0.5, work="s3://lake/work/stored")

    def told(words: str) -> int:
        return room.launcher.logs("stored").count(words)

    room.start("stored", task)
    room.until(lambda: told("checkpoint step="))
    s3_parts.kill()
    room.until(lambda: told("checkpoint not stored"))
    at = told(" epoch ")
    room.until(lambda: told(" epoch ") > at)  # training goes on
    s3_parts.start()
    before = told("checkpoint step=")
    room.until(lambda: told("checkpoint step=") > before)
    os.kill(_members(room, "stored")[0], signal.SIGTERM)
    state = room.ended("stored")
    assert "its checkpoint is stored" in state.reason
    stored = Lake(task.work).keys("checkpoints")
    assert len(stored) == 2
    assert f"after step {int(stored[-1].rpartition('/')[2])} of" in state.reason
    assert Lake("s3://lake/work/stored")._storage.find("tensorboard")


def test_checkpoints_are_kept_and_found_on_hdfs(hdfs_alone, tmp_path):
    port = hdfs_alone.ports["hdfs-namenode"]
    store = Store(f"hdfs://127.0.0.1:{port}/work/flights", "abc")
    for step in (9, 100, 250):
        folder = tmp_path / f"step-{step}"
        folder.mkdir()
        (folder / "state.index").write_text(f"index {step}")
        store.publish(Saved(step, {"epochs": []}, folder))
    found = store.newest(tmp_path / "to")
    assert found is not None
    assert (found.step, (found.folder / "state.index").read_text()) == (250, "index 250")
    assert store.at(100, tmp_path / "to").step == 100
    with pytest.raises(DataError):
        store.at(9, tmp_path / "to")
    store.forget()
    assert store.newest(tmp_path / "to") is None


@pytest.fixture(scope="module")
def variants(room: Room) -> dict[str, Any]:
    task = room.task("variants", workers=1, epochs=4)
    path = room.folder / "variants.json"
    path.write_text(task.to_json())
    script = Path(__file__).with_name("training_variants.py")
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(
        [PYTHON, str(script), str(path)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_accumulated_gradients_and_buckets_give_the_weights_of_whole_steps(variants):
    assert variants["accumulated"]["losses"] == pytest.approx(variants["plain"]["losses"], rel=1e-4)
    assert variants["accumulated"]["difference"] < 1e-3
    assert variants["in buckets"]["difference"] == 0.0, "a gang of one sums nothing"


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_learns_as_well_and_keeps_its_weights_whole(variants, precision):
    found = variants[precision]
    assert found["dtypes"] == ["float32"]
    assert found["difference"] > 0
    assert found["losses"][-1] == pytest.approx(variants["plain"]["losses"][-1], rel=0.05)


def test_rows_beyond_the_memory_allowed_are_streamed_and_learned_as_well(variants):
    assert variants["streamed"]["losses"] == pytest.approx(variants["plain"]["losses"], rel=0.1)
    assert variants["streamed"]["difference"] > 0, "the order is another"


def test_a_function_fit_of_the_users_trains_and_goes_on_from_its_last_epoch(variants):
    own = variants["own fit"]
    assert "function fit raised RuntimeError: broken off after two epochs" in own["reason"]
    assert len(own["losses"]) == 4
    assert own["losses"] == sorted(own["losses"], reverse=True), "the third epoch went on from the second"


def test_a_scaled_rate_warms_up_and_then_goes_further(variants):
    plain, scaled = variants["plain"]["losses"], variants["scaled"]["losses"]
    assert scaled[1] < plain[1], "four times the rate, half of the way up"
    assert variants["scaled"]["difference"] > 0


def test_scalars_and_the_trace_asked_for_are_in_the_runs_folder(variants):
    plain = variants["plain"]
    assert len(plain["traces"]) == 1
    assert variants["accumulated"]["traces"] == []
    steps, losses = zip(*plain["scalars"]["epochs/loss"], strict=True)
    assert list(steps) == [15, 30, 45, 60]
    assert list(losses) == pytest.approx(plain["losses"])
    assert {"epochs/auc", "epochs/rows_per_s", "epochs/waiting", "epochs/communication"} <= set(plain["scalars"])


def test_an_absent_mlflow_is_retryable_and_nothing_is_published(room):
    state = room.train("away", room.task("away", tracking="http://127.0.0.1:9"))
    assert isinstance(state.error(), Retryable)
    assert "http://127.0.0.1:9" in state.reason
    assert room.lake.manifest(keys.model("flights", "away")) is None


def test_the_onnx_graph_agrees_with_the_saved_model_and_keeps_every_feature_as_an_input(room, trained):
    state = room.optimise("optimise", trained)
    assert state.phase == "succeeded", state.log_tail
    optimised = Optimised.model_validate_json(state.result or "")
    assert optimised.rows == 1000
    assert optimised.max_difference <= 1e-4
    found = _onnx(room, optimised.key, {"dep_delay": [[60.0]], "carrier": [[2]], "flight": [[60]]})
    assert found["inputs"] == ["dep_delay", "carrier", "flight"]
    assert found["error"] is None
    assert found["shape"] == [1, 1]


def test_answers_of_the_saved_model_are_recorded_on_raw_held_out_rows(room, trained):
    optimised = Optimised.model_validate_json(room.optimise("recorded", trained).result or "")
    recorded = RecordedAnswers.from_json(room.lake.read(optimised.key, PROBE))
    assert (len(recorded.rows), recorded.rows[0], recorded.rows[-1], recorded.tolerance) == (64, 0, 999, 1e-4)
    held_out = pq.read_table(room.lake.local(room.dataset.key, "test.parquet")).take(list(recorded.rows))
    assert list(recorded.columns["carrier"]) == held_out["carrier"].to_pylist()
    delays = [None if np.isnan(value) else value for value in held_out["dep_delay"].to_pylist()]
    assert list(recorded.columns["dep_delay"]) == delays
    assert None in delays, "a missing value is recorded as missing"
    encodings = Encodings.from_json(room.lake.read(room.dataset.key, "encodings.json"))
    encoded = encodings.encode({name: np.array(values) for name, values in recorded.columns.items()})
    columns = {name: column.reshape(-1, 1).tolist() for name, column in encoded.items()}
    found = _onnx(room, optimised.key, columns)
    assert np.abs(np.array(found["probabilities"]) - recorded.probabilities).max() <= recorded.limit


def test_another_tolerance_is_recorded_anew_and_the_same_one_is_found(room, trained):
    first = Optimised.model_validate_json(room.optimise("same", trained).result or "")
    assert "already published" in room.launcher.logs("same")
    other = Optimised.model_validate_json(room.optimise("wider", trained, tolerance=1e-3).result or "")
    assert RecordedAnswers.from_json(room.lake.read(other.key, PROBE)).tolerance == 1e-3
    assert other.digest != first.digest


def test_a_table_without_a_row_for_the_unknown_passes_offline_and_fails_on_an_unseen_number(room):
    task = room.task("narrow", model_function="build_by_flight_number", workers=1, epochs=3)
    state = room.train("narrow", task)
    assert state.phase == "succeeded", state.log_tail
    trained = Trained.model_validate_json(state.result or "")
    assert trained.metrics["auc"] > 0.7
    optimised = Optimised.model_validate_json(room.optimise("narrow-onnx", trained).result or "")
    known = {"dep_delay": [[0.0], [1.0]], "carrier": [[0], [3]], "flight": [[0], [59]]}
    assert _onnx(room, optimised.key, known)["error"] is None
    assert "indices element out of data bounds" in _onnx(room, optimised.key, {**known, "flight": [[0], [60]]})["error"]


def test_tensorrt_without_a_gpu_says_what_to_use_instead(room, trained):
    state = room.optimise("tensorrt", trained, target="tensorrt")
    if state.phase == "succeeded":  # a machine with a GPU and TensorRT
        assert "model.plan" in room.lake.require(keys.optimised("flights", "unbroken"))["files"]
        return
    assert isinstance(state.error(), Permanent)
    assert "NeedsGpu" in state.reason
    assert "optimise.target to onnx" in state.reason


def _onnx(room: Room, key: str, columns: dict[str, Any]) -> dict[str, Any]:
    """Run one batch through ONNX Runtime, in the training environment, as the server does."""
    code = """
import json, sys
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
columns = {n: np.array(v, np.float32 if n == "dep_delay" else np.int64) for n, v in json.loads(sys.argv[2]).items()}
found = {"inputs": [i.name for i in session.get_inputs()], "error": None}
try:
    answer = session.run(["probability"], columns)[0]
    found["shape"], found["probabilities"] = list(answer.shape), answer.reshape(-1).tolist()
except Exception as error:
    found["error"] = str(error)
print(json.dumps(found))
"""
    path = str(room.lake.local(key, "model.onnx"))
    command = [PYTHON, "-c", code, path, json.dumps(columns)]
    answer: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return answer
