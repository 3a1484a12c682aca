from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tidegate.bundle import assemble, load
from tidegate.delivery import Delivery
from tidegate.errors import DataError
from tidegate.handoff import Bundle, Dataset, Optimised, Request, Trained, Window
from tidegate.lake import Lake

WINDOW = Window(start="2013-01-01", end="2013-02-01")
REQUEST = Request(request_id="r1", delivery="tiny", window=WINDOW)
DELIVERY = Delivery.model_validate(
    {
        "delivery": "tiny",
        "folder": "examples/tiny",
        "sources": {
            "a": {"contract": "things", "kafka": {"connection": "events", "topic": "a"}},
            "b": {"contract": "things", "kafka": {"connection": "events", "topic": "b"}},
        },
        "dataset": {"sql": "dataset.sql", "label": "late"},
        "train": {"model": "model:build"},
    }
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    for name, text in (("docker/train/requirements.txt", "numpy==2\n"), ("schemas/contracts/things.yaml", "id: x\n")):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    found = Lake(f"file://{tmp_path / 'lake'}")
    with found.publish("datasets/tiny/w") as draft:
        draft.file("encodings.json").write_text("{}")
        draft.file("train.parquet").write_bytes(b"rows")
    with found.publish("optimised/tiny/r1") as draft:
        draft.file("model.onnx").write_bytes(b"graph")
    return found


def parts(lake: Lake, **changes: Any) -> dict[str, Any]:
    dataset = Dataset(
        delivery="tiny", window=WINDOW, key="datasets/tiny/w", train_rows=1, test_rows=1, label="late", features=[],
        digest=lake.require("datasets/tiny/w")["digest"], slices={"a/w": "d"},
    )  # fmt: skip
    optimised = Optimised(
        key="optimised/tiny/r1", target="onnx", rows=1, max_difference=0.0, seconds_saved_model=1.0,
        seconds_optimised=0.1, digest=lake.require("optimised/tiny/r1")["digest"],
    )  # fmt: skip
    trained = Trained(
        request_id="r1", key="models/tiny/r1", workers=2, steps=3, seconds=4.0, metrics={"auc": 0.7}, digest="m"
    )
    return {"dataset": dataset, "trained": trained, "optimised": optimised, "version": 3, **changes}


def make(lake: Lake, root: Path, **changes: Any) -> Bundle:
    return assemble(delivery=DELIVERY, request=REQUEST, lake=lake, root=root, **parts(lake, **changes))


def test_a_bundle_holds_what_serves_and_what_rebuilds(lake: Lake, root: Path) -> None:
    bundle = make(lake, root)
    assert (bundle.key, bundle.name, bundle.metrics) == ("bundles/tiny/v3", "tiny-v3", {"auc": 0.7})
    files = lake.require(bundle.key)["files"]
    assert sorted(files) == [
        "bundle.json", "contracts/things.yaml", "encodings.json", "model.onnx", "requirements.txt",
    ]  # fmt: skip
    story = json.loads(lake.read(bundle.key, "bundle.json"))
    assert story["dataset"]["slices"] == {"a/w": "d"}
    assert story["optimised"]["digest"] == lake.require("optimised/tiny/r1")["digest"]


def test_the_same_parts_give_the_same_bundle(lake: Lake, root: Path) -> None:
    first = make(lake, root)
    manifest = lake.require(first.key)
    assert make(lake, root) == first
    assert lake.require(first.key) == manifest


def test_an_artefact_that_another_revision_replaced_is_refused(lake: Lake, root: Path) -> None:
    old = parts(lake)["optimised"]
    with lake.publish("optimised/tiny/r1") as draft:
        draft.file("model.onnx").write_bytes(b"another graph")
    with pytest.raises(DataError, match="optimised/tiny/r1 is published with digest"):
        make(lake, root, optimised=old)
    assert lake.manifest("bundles/tiny/v3") is None


def test_a_missing_lock_publishes_nothing(lake: Lake, root: Path) -> None:
    (root / "docker/train/requirements.txt").unlink()
    with pytest.raises(DataError, match=r"requirements\.txt does not exist"):
        make(lake, root)
    assert lake.manifest("bundles/tiny/v3") is None


def test_a_bundle_is_found_again_by_delivery_and_version(lake: Lake, root: Path) -> None:
    made = make(lake, root)
    assert load(lake, "tiny", 3) == made
    assert (made.request, made.target, made.dataset.slices) == (REQUEST, "onnx", {"a/w": "d"})
    with pytest.raises(DataError, match=r"nothing is published at .*bundles/tiny/v4"):
        load(lake, "tiny", 4)
