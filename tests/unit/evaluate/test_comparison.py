"""When a champion is asked, when not and why, and what must be known beside the comparison; TensorFlow left out."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from tidegate.contract.encodings import Encodings, standardise, vocabulary
from tidegate.delivery import EvaluateSpec
from tidegate.evaluate import predictions
from tidegate.evaluate.comparison import champion_of
from tidegate.evaluate.predictions import CannotRead, misfit
from tidegate.evaluate.task import EvaluateTask
from tidegate.handoff import Bundle, Dataset, Request, Trained, Window
from tidegate.lake import Lake

APRIL = datetime(2013, 4, 1, tzinfo=UTC)
TABLE = pa.table({"at": pa.array([APRIL] * 2, pa.timestamp("us", tz="UTC")), "delay": [1.0, 2.0], "late": [0, 1]})


@pytest.fixture
def lake(tmp_path):
    return Lake(f"file://{tmp_path}")


def dataset(label="late", end="2013-04-01"):
    return Dataset(
        delivery="flights", window=Window(start="2013-01-01", end=end), key="datasets/flights/w", train_rows=1,
        test_rows=1, label=label, features=[], digest="d", slices={},
    )  # fmt: skip


def bundle(lake, request="week-6", label="late", end="2013-04-01", test="last 1 month"):
    with lake.publish("bundles/flights/v3") as draft:
        draft.file("bundle.json").write_text(json.dumps({"delivery": {"dataset": {"test": test}}}))
    window = Window(start="2013-01-01", end="2013-04-01")
    return Bundle(
        delivery="flights", version=3, key="bundles/flights/v3", target="onnx",
        request=Request(request_id=request, delivery="flights", window=window), dataset=dataset(label, end),
        metrics={}, digest=lake.require("bundles/flights/v3")["digest"],
    )  # fmt: skip


def task(champion, reason=None):
    trained = Trained(
        request_id="week-7", key="models/flights/week-7", workers=1, steps=1, seconds=1.0, metrics={}, digest="d"
    )
    return EvaluateTask(
        trained=trained, dataset=dataset(end="2013-05-01"), event_time="at", champion=champion, reason=reason,
        evaluate=EvaluateSpec(), lake="file:///nowhere",
    )  # fmt: skip


def test_without_a_champion_the_reason_is_kept(lake):
    assert champion_of(task(None, "there is no champion yet"), lake, TABLE).reason == "there is no champion yet"


def test_a_model_is_not_compared_with_itself(lake):
    found = champion_of(task(bundle(lake, request="week-7")), lake, TABLE)
    assert found.reason == "the champion flights-v3 is the model of this very request"
    assert found.predictions is None


def test_a_champion_of_another_label_is_not_compared(lake):
    found = champion_of(task(bundle(lake, label="cancelled")), lake, TABLE)
    assert found.reason == "the champion flights-v3 says cancelled, the rows are labelled late"


def test_a_champion_that_cannot_read_the_rows_is_said_to_and_fails_nothing(lake, monkeypatch):
    def refuses(*_):
        raise CannotRead("reads wind, which the rows have not")

    monkeypatch.setattr(predictions, "of_bundle", refuses)
    found = champion_of(task(bundle(lake)), lake, TABLE)
    assert (found.name, found.reason) == (None, "the champion flights-v3 reads wind, which the rows have not")


@pytest.mark.parametrize(
    ("end", "test", "noted"),
    [
        ("2013-05-01", "last 1 month", []),  # the same month was held out for it
        ("2013-04-01", "last 1 month", []),
        ("2013-06-01", "last 1 month", ["trained on rows until 2013-05-01 00:00"]),
        ("2013-05-01", "last 1 week", ["trained on rows until 2013-04-24 00:00"]),
        ("2013-04-01", "half of them", ["is not known (ValueError)"]),
    ],
)
def test_a_champion_that_may_have_seen_the_held_out_rows_is_noted(lake, monkeypatch, end, test, noted):
    monkeypatch.setattr(predictions, "of_bundle", lambda *_: np.array([0.2, 0.8]))
    found = champion_of(task(bundle(lake, end=end, test=test)), lake, TABLE)
    assert found.name == "flights-v3"
    assert found.predictions is not None
    assert len(found.notes) == len(noted)
    for note, part in zip(found.notes, noted, strict=True):
        assert part in note


def test_what_a_champion_reads_and_the_rows_have_not_is_named_with_types():
    encodings = Encodings(
        (
            vocabulary("origin", ["JFK"]),
            vocabulary("number", [7]),
            standardise("delay", np.array([1.0, 2.0])),
            standardise("wind", np.array([1.0, 2.0])),
        )
    )
    fitting = pa.schema({"origin": pa.large_string(), "number": pa.int16(), "delay": pa.int32(), "wind": pa.float32()})
    assert misfit(encodings, fitting) is None
    other = pa.schema({"origin": pa.int32(), "number": pa.float64(), "delay": pa.string()})
    assert misfit(encodings, other) == (
        "origin as text, which the rows have as int32; number as whole numbers, which the rows have as double; delay "
        "as numbers, which the rows have as string; wind, which the rows have not"
    )
