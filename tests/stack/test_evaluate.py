"""Real SavedModels on held-out rows, and a real MLflow that is told and where versions are registered.

Needs .envs/train; MLflow and Postgres run alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidegate import keys
from tidegate.bundle import assemble
from tidegate.clients.registry import Registry
from tidegate.contract.encodings import Encodings, standardise, vocabulary
from tidegate.delivery import EvaluateSpec, delivery_named, project_root
from tidegate.errors import Retryable
from tidegate.evaluate.task import EvaluateTask, Evaluation
from tidegate.handoff import Bundle, Dataset, Evaluated, Feature, Optimised, Request, Trained, Window
from tidegate.lake import Lake
from tidegate.registration import ABANDONED, Parts, register

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

PYTHON = str(project_root() / ".envs" / "train" / "bin" / "python")
FLIGHTS = delivery_named("flights")
APRIL = Window(start="2013-01-01", end="2013-05-01")
ROWS, DAYS = 3000, 30
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}


class Room:
    """A lake with one dataset and three models: a good one, one that shouts, one that knows nothing."""

    def __init__(self, folder: Path):
        self.folder, self.lake = folder, Lake(f"file://{folder}/lake")
        self.dataset = self._dataset()
        models = {"good": (2.0, -1.0), "loud": (6.0, -3.0), "blind": (0.0, -1.0)}
        made = [str(part) for name, (w, b) in models.items() for part in (folder / name, w, b)]
        script = Path(__file__).with_name("savedmodel.py")
        subprocess.run([PYTHON, str(script), *made], check=True, env={**os.environ, **QUIET}, capture_output=True)

    def _dataset(self) -> Dataset:
        random = np.random.default_rng(3)
        delay, carrier = random.normal(0, 1, ROWS), random.integers(0, 3, ROWS)
        late = random.random(ROWS) < 1 / (1 + np.exp(-(2 * delay - 1 + 0.3 * carrier)))
        start = datetime(2013, 4, 1, tzinfo=UTC)
        at = [start + timedelta(days=DAYS * row / ROWS) for row in range(ROWS)]
        columns = {
            "at": pa.array(at, pa.timestamp("us", tz="UTC")), "delay": delay, "late": late.astype(np.int8),
            "carrier": np.array(["A", "B", "C"])[carrier], "rare": np.where(np.arange(ROWS) < 50, "seldom", "often"),
        }  # fmt: skip
        known = Encodings((standardise("delay", np.array([-1.0, 1.0])), vocabulary("carrier", ["A", "B", "C"])))
        key = keys.dataset("flights", APRIL)
        with self.lake.publish(key) as draft:
            pq.write_table(pa.table(columns), draft.file("test.parquet"))
            draft.file("encodings.json").write_text(known.to_json())
        return Dataset(
            delivery="flights", window=APRIL, key=key, train_rows=9000, test_rows=ROWS, label="late",
            features=[Feature(name=f.name, encoding=f.encoding, dtype=f.dtype, size=f.size) for f in known.features],
            digest=self.lake.require(key)["digest"], slices={},
        )  # fmt: skip

    def trained(self, request: str, model: str, run_id: str | None = None) -> Trained:
        key = keys.model("flights", request)
        with self.lake.publish(key) as draft:
            shutil.copytree(self.folder / model, draft.folder / "saved_model")
        return Trained(
            request_id=request, key=key, run_id=run_id, workers=1, steps=1, seconds=1.0, metrics={"base_rate": 0.3},
            digest=self.lake.require(key)["digest"],
        )  # fmt: skip

    def parts(self, request: str, model: str = "good", evaluated: Evaluated | None = None) -> Parts:
        optimised, evaluation = keys.optimised("flights", request), keys.evaluation("flights", request)
        with self.lake.publish(optimised) as draft:
            draft.file("model.onnx").write_bytes(b"a graph")
            draft.file("probe.json").write_text("{}")
        if evaluated is None:
            with self.lake.publish(evaluation) as draft:
                draft.file("evaluation.json").write_text("{}")
            digest = self.lake.require(evaluation)["digest"]
            evaluated = Evaluated(request_id=request, key=evaluation, digest=digest, reason="none", figures={})
        return Parts(
            delivery=FLIGHTS,
            request=Request(request_id=request, delivery="flights", window=APRIL),
            dataset=self.dataset,
            trained=self.trained(request, model),
            evaluated=evaluated,
            optimised=Optimised(
                key=optimised, target="onnx", rows=1, max_difference=0.0, seconds_saved_model=1.0,
                seconds_optimised=1.0, digest=self.lake.require(optimised)["digest"],
            ),
        )  # fmt: skip

    def champion(self, version: int, model: str = "good", **changes: bytes) -> Bundle:
        """Publish a bundle, with some of its files other than they were."""
        made = assemble(
            **vars(self.parts(f"of-v{version}", model)), version=version, lake=self.lake, root=project_root()
        )
        if changes:
            with self.lake.publish(made.key) as draft:
                self.lake.fetch(made.key, draft.folder)
                for name, content in changes.items():
                    draft.file(name.replace("_json", ".json")).write_bytes(content)
        return made.model_copy(update={"digest": self.lake.require(made.key)["digest"]})

    def task(self, trained: Trained, champion: Bundle | None = None, **changes: Any) -> EvaluateTask:
        said = None if champion else "there is no champion yet"
        return EvaluateTask(
            trained=trained, dataset=self.dataset, event_time="at", champion=champion, reason=said,
            evaluate=EvaluateSpec(by=["carrier", "month", "rare"], **changes.pop("evaluate", {})), lake=self.lake.url,
            **changes,
        )  # fmt: skip


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    return Room(tmp_path_factory.mktemp("evaluating"))


@pytest.fixture(scope="module")
def evaluated(room: Room) -> dict[str, Evaluated]:
    """Several evaluations by one process, for the import of TensorFlow takes longest."""
    other = Encodings((standardise("delay", np.array([0.0, 1.0])), standardise("wind", np.array([0.0, 1.0]))))
    foreign = room.champion(8, encodings_json=other.to_json().encode())
    broken = room.champion(9)
    place = Path(room.lake.path(broken.key, "saved_model/saved_model.pb"))
    place.write_bytes(place.read_bytes()[:-1])
    tasks = {
        "first": room.task(room.trained("first", "good")),
        "second": room.task(room.trained("second", "loud"), room.champion(7)),
        "third": room.task(room.trained("third", "good"), room.champion(10, "blind")),
        "foreign": room.task(room.trained("foreign", "good"), foreign),
        "broken": room.task(room.trained("broken", "good"), broken),
        "weeks": room.task(room.trained("weeks", "good"), room.champion(10, "blind"), evaluate={"dependent": "week"}),
    }
    return dict(zip(tasks, several(tasks.values())[0], strict=True))


def several(tasks: Iterable[EvaluateTask]) -> tuple[list[Evaluated], str]:
    """Evaluate by one process; return the results and all that was printed."""
    code = """
import sys
from tidegate.evaluate.stage import evaluate
from tidegate.evaluate.task import EvaluateTask
for line in sys.stdin:
    print("RESULT", evaluate(EvaluateTask.model_validate_json(line)).to_json())
"""
    given = "\n".join(task.to_json() for task in tasks)
    ended = subprocess.run(
        [PYTHON, "-c", code], input=given, capture_output=True, text=True, env={**os.environ, **QUIET}, timeout=200
    )
    assert ended.returncode == 0, ended.stderr
    results = [line.removeprefix("RESULT ") for line in ended.stdout.splitlines() if line.startswith("RESULT ")]
    return [Evaluated.model_validate_json(line) for line in results], ended.stdout


def test_without_a_champion_a_model_that_is_right_is_seen_to_be(room: Room, evaluated: dict[str, Evaluated]) -> None:
    first = evaluated["first"]
    assert (first.champion, first.reason) == (None, "there is no champion yet")
    assert first.figures["auc"] > 0.8
    assert first.figures["log_loss"] < first.figures["base_log_loss"]
    assert first.figures["ece"] < 3 * first.figures["ece_by_chance"]
    assert not any(name.startswith("difference") for name in first.figures)
    files = set(room.lake.require(first.key)["files"])
    assert files == {
        "evaluation.json", "roc.png", "reliability.png", "by_carrier.png", "by_month.png", "by_rare.png"
    }  # fmt: skip


def test_a_champion_is_asked_the_same_rows_by_its_own_encodings(room: Room, evaluated: dict[str, Evaluated]) -> None:
    second, third = evaluated["second"], evaluated["third"]
    assert (second.champion, second.reason) == ("flights-v7", None)
    assert second.figures["champion_auc"] == evaluated["first"].figures["auc"], "it is the very same model"
    assert "all rows: auc, log_loss, brier" in second.worse
    assert any(group.startswith("month 2013-04: log_loss") for group in second.worse)
    assert second.too_few == 1
    assert "all rows: auc, log_loss, brier" in third.better
    assert third.figures["difference_auc_low"] > 0.2
    told = Evaluation.model_validate_json(room.lake.read(second.key, "evaluation.json"))
    assert told.champion_digest == room.lake.require("bundles/flights/v7")["digest"]
    assert [group.name for group in told.figures.by["rare"]] == ["often", "seldom"]
    assert told.figures.by["rare"][1].few == "50 rows, fewer than 200"
    assert told.notes == []


def test_a_champion_that_cannot_read_the_rows_or_is_damaged_is_said_and_fails_nothing(
    evaluated: dict[str, Evaluated],
) -> None:
    assert evaluated["foreign"].reason == "the champion flights-v8 reads wind, which the rows have not"
    assert "the champion flights-v9 fails on these rows: DataError" in (evaluated["broken"].reason or "")
    for name in ("foreign", "broken"):
        assert evaluated[name].figures["auc"] == evaluated["first"].figures["auc"]


def test_rows_of_too_few_weeks_have_figures_without_intervals_and_a_note_says_so(
    evaluated: dict[str, Evaluated],
) -> None:
    weeks = evaluated["weeks"]
    assert weeks.figures["difference_auc"] == evaluated["third"].figures["difference_auc"]
    assert "difference_auc_low" not in weeks.figures
    assert (weeks.better, weeks.worse) == ([], [])
    (note,) = weeks.notes
    assert note.startswith("the held-out rows are of 5 weeks, fewer than 10")


def test_mlflow_is_told_once_and_an_absent_one_is_retryable_without_computing_anew(
    room: Room, evaluated: dict[str, Evaluated], mlflow_alone: str, tmp_path: Path
) -> None:
    api = f"{mlflow_alone}/api/2.0/mlflow"
    experiment = httpx.post(f"{api}/experiments/create", json={"name": "flights"}).json()["experiment_id"]
    made = httpx.post(f"{api}/runs/create", json={"experiment_id": experiment, "start_time": 1}).json()
    run_id = made["run"]["info"]["run_id"]
    task = room.task(room.trained("second", "loud", run_id), room.champion(7), tracking="http://127.0.0.1:9")
    (tmp_path / "in.json").write_text(task.to_json())
    command = [
        PYTHON,
        "-m",
        "tidegate.evaluate",
        "--handoff",
        str(tmp_path / "in.json"),
        "--out",
        str(tmp_path / "out"),
    ]
    away = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **QUIET}, timeout=120)
    assert away.returncode == Retryable.exit_code, away.stdout + away.stderr
    assert "http://127.0.0.1:9 did not answer" in away.stdout

    here = task.model_copy(update={"tracking": mlflow_alone})
    results, said = several([here, here])
    assert results == [evaluated["second"]] * 2
    assert said.count("already published") == 2
    assert re.findall(r"told=(\w+)", said) == ["now", "before"]
    data = httpx.get(f"{api}/runs/get", params={"run_id": run_id}).json()["run"]["data"]
    figures = {metric["key"]: metric["value"] for metric in data["metrics"]}
    assert figures["evaluation.difference_auc"] == pytest.approx(evaluated["second"].figures["difference_auc"])
    assert {tag["key"]: tag["value"] for tag in data["tags"]}["tidegate.evaluation.champion"] == "flights-v7"
    listed = httpx.get(f"{api}/artifacts/list", params={"run_id": run_id, "path": "evaluation"}).json()["files"]
    assert {file["path"] for file in listed} == {
        f"evaluation/{name}" for name in room.lake.require(evaluated["second"].key)["files"]
    }


class Killed(Registry):
    """A registry whose client is killed as soon as a call of a number has been answered."""

    def __init__(self, address: str, calls: int):
        super().__init__(address)
        self.left = calls

    def _call(self, *arguments: Any, **named: Any) -> Any:
        answer = super()._call(*arguments, **named)
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer


def apart(work: Any) -> int:
    """Start work in a process of its own; return its id."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return child


def code_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def versions(address: str, request: str) -> list[dict[str, Any]]:
    wanted = {"filter": f"name='flights' and tags.request_id = '{request}'"}
    answer = httpx.get(f"{address}/api/2.0/mlflow/model-versions/search", params=wanted).raise_for_status().json()
    return [
        {**found, **{tag["key"]: tag["value"] for tag in found["tags"]}} for found in answer.get("model_versions", [])
    ]


def test_killed_after_any_call_a_registration_goes_on_to_one_whole_version(room: Room, mlflow_alone: str) -> None:
    states, calls, root = [], 0, project_root()
    while True:
        calls += 1
        parts, request = room.parts(f"killed-{calls}"), f"killed-{calls}"
        code = code_of(apart(lambda: register(parts, Killed(mlflow_alone, calls), room.lake, root, time.time())))  # noqa: B023
        left = versions(mlflow_alone, request)
        states.append(left[0]["state"] if left else None)
        assert len(left) <= 1
        if left and left[0]["state"] == "registered":
            assert room.lake.manifest(keys.bundle("flights", int(left[0]["version"]))) is not None
        bundle, _ = register(parts, Registry(mlflow_alone), room.lake, root, time.time())
        (found,) = versions(mlflow_alone, request)
        assert (int(found["version"]), found["state"]) == (bundle.version, "registered")
        assert found["bundle_digest"] == bundle.digest == room.lake.require(bundle.key)["digest"]
        assert found["evaluation"] == parts.evaluated.digest
        assert json.loads(found["signature"]) == json.loads(room.lake.read(bundle.key, "signature.json"))
        assert register(parts, Registry(mlflow_alone), room.lake, root, time.time())[0] == bundle
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert calls > 7, "each call was the last one once"
    assert set(states) == {None, "registering", "registered"}


def test_two_at_once_register_one_version(room: Room, mlflow_alone: str) -> None:
    for number in range(3):
        parts = room.parts(f"twice-{number}")
        children = [
            apart(lambda: register(parts, Registry(mlflow_alone), room.lake, project_root(), time.time()))  # noqa: B023
            for _ in range(2)
        ]
        assert [code_of(child) for child in children] == [0, 0]
        (found,) = versions(mlflow_alone, f"twice-{number}")
        assert found["state"] == "registered"


def test_what_nobody_tries_again_is_removed_by_a_later_registration_and_its_number_is_not_given_again(
    room: Room, mlflow_alone: str
) -> None:
    left = room.parts("left")
    assert code_of(apart(lambda: register(left, Killed(mlflow_alone, 5), room.lake, project_root(), time.time()))) == -9
    (abandoned,) = versions(mlflow_alone, "left")
    assert abandoned["state"] == "registering"
    soon, swept = register(room.parts("soon"), Registry(mlflow_alone), room.lake, project_root(), time.time())
    assert swept == []
    tomorrow = time.time() + ABANDONED + 60
    later, swept = register(room.parts("later"), Registry(mlflow_alone), room.lake, project_root(), tomorrow)
    assert swept == [int(abandoned["version"])]
    assert versions(mlflow_alone, "left") == []
    assert int(abandoned["version"]) < soon.version < later.version
