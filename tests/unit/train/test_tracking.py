"""What a run leaves in MLflow, against a client that remembers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from mlflow.exceptions import MlflowException
from requests.exceptions import ConnectionError as Refused

from tidegate.errors import Permanent, SpecError, Unavailable
from tidegate.handoff import Dataset, Feature, Request, TrainTask, Window
from tidegate.train.tracking import Epoch, MlflowTracking

WINDOW = Window(start="2013-01-01", end="2013-04-01")
FEATURE = Feature(name="delay", encoding="standardise", dtype="FP32", size=1)
TASK = TrainTask(
    request=Request(request_id="r1", delivery="flights", window=WINDOW),
    dataset=Dataset(
        delivery="flights",
        window=WINDOW,
        key="datasets/flights/w",
        train_rows=10,
        test_rows=5,
        label="late",
        features=[FEATURE],
        digest="dd",
        slices={"flights/jan": "s1"},
    ),
    lake="file:///lake",
    model_file="model.py",
    model_function="build",
    workers=2,
    epochs=1,
    batch=4,
    learning_rate=0.1,
    work="work",
    tracking="http://127.0.0.1:5000",
    lock=__file__,  # any file will do
)


class Client:
    """The part of MlflowClient that a run needs."""

    def __init__(self):
        self.experiments, self.runs, self.batch, self.ended = {}, {}, {}, {}

    def get_experiment_by_name(self, name):
        return SimpleNamespace(experiment_id=self.experiments[name]) if name in self.experiments else None

    def create_experiment(self, name):
        return self.experiments.setdefault(name, str(len(self.experiments)))

    def search_runs(self, experiments, query, max_results):
        return [run for run in self.runs.values() if f"'{run.tags['tidegate.request_id']}'" in query]

    def create_run(self, experiment, run_name, tags):
        run = SimpleNamespace(info=SimpleNamespace(run_id=f"id-{run_name}"), tags=tags)
        return self.runs.setdefault(run.info.run_id, run)

    def log_batch(self, run_id, metrics, params, tags):
        self.batch = {"metrics": metrics, "params": {p.key: p.value for p in params}, "tags": {t.key for t in tags}}

    def log_artifact(self, run_id, path):
        self.artifact = path

    def set_terminated(self, run_id, status):
        self.ended[run_id] = status


@pytest.fixture
def tracking():
    made = MlflowTracking("http://127.0.0.1:5000")
    made._client = Client()
    return made


def test_the_same_request_finds_its_run_again(tracking):
    assert tracking.open(TASK) == tracking.open(TASK) == "id-r1"
    assert len(tracking._client.runs) == 1


def test_a_run_keeps_parameters_figures_lock_and_digests(tracking):
    run = tracking.open(TASK)
    tracking.record(TASK, run, [Epoch(1, 1.0, {"train_loss": 0.5})], {"auc": 0.9})
    batch = tracking._client.batch
    assert [(m.key, m.value, m.step) for m in batch["metrics"]] == [("train_loss", 0.5, 1), ("auc", 0.9, 1)]
    assert batch["params"]["dataset_digest"] == "dd"
    assert batch["params"]["workers"] == "2"
    assert batch["tags"] == {"slice.flights/jan"}
    assert tracking._client.artifact == __file__
    assert tracking._client.ended == {run: "FINISHED"}


@pytest.mark.parametrize("error", [Refused("refused"), MlflowException("no answer")])
def test_an_absent_server_is_unavailable_with_its_address(tracking, error):
    def refuse(_name):
        raise error

    tracking._client.get_experiment_by_name = refuse
    with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:5000"):
        tracking.open(TASK)


def test_a_refusal_by_the_server_is_permanent(tracking):
    def refuse(_name):
        raise MlflowException.invalid_parameter_value("bad name")

    tracking._client.get_experiment_by_name = refuse
    with pytest.raises(Permanent, match="bad name"):
        tracking.open(TASK)


def test_a_missing_lock_is_told_before_anything_is_trained(tracking):
    with pytest.raises(SpecError, match="does not exist"):
        tracking.open(TASK.model_copy(update={"lock": "/nowhere/requirements.txt"}))
    assert tracking._client.runs == {}
