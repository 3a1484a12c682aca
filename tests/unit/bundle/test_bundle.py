from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tidegate.bundle import assemble, check, load, retain
from tidegate.delivery import Delivery
from tidegate.errors import DataError, SpecError
from tidegate.handoff import Bundle, Dataset, Evaluated, Feature, Optimised, Request, Trained, Window
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
    texts = {
        "docker/train/requirements.txt": "numpy==2\n",
        "docker/serve/requirements.txt": "numpy==1\n",
        "schemas/contracts/things.yaml": "id: x\n",
    }
    for name, text in texts.items():
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
        draft.file("probe.json").write_text("{}")
    with found.publish("evaluations/tiny/r1") as draft:
        draft.file("evaluation.json").write_text("{}")
        draft.file("roc.png").write_bytes(b"picture")
    with found.publish("models/tiny/r1") as draft:
        draft.file("saved_model/saved_model.pb").write_bytes(b"saved")
        draft.file("saved_model/variables/variables.index").write_bytes(b"index")
        draft.file("epochs.json").write_text("[]")
    return found


def parts(lake: Lake, **changes: Any) -> dict[str, Any]:
    dataset = Dataset(
        delivery="tiny", window=WINDOW, key="datasets/tiny/w", train_rows=1, test_rows=1, label="late",
        features=[Feature(name="dep_delay", encoding="standardise", dtype="FP32", size=1)],
        digest=lake.require("datasets/tiny/w")["digest"], slices={"a/w": "d"},
    )  # fmt: skip
    optimised = Optimised(
        key="optimised/tiny/r1", target="onnx", rows=1, max_difference=0.0, seconds_saved_model=1.0,
        seconds_optimised=0.1, digest=lake.require("optimised/tiny/r1")["digest"],
    )  # fmt: skip
    trained = Trained(
        request_id="r1", key="models/tiny/r1", workers=2, steps=3, seconds=4.0, metrics={"auc": 0.7},
        digest=lake.require("models/tiny/r1")["digest"],
    )  # fmt: skip
    evaluated = Evaluated(
        request_id="r1", key="evaluations/tiny/r1", digest=lake.require("evaluations/tiny/r1")["digest"],
        reason="there is no champion yet", figures={"auc": 0.7},
    )  # fmt: skip
    made = {"dataset": dataset, "trained": trained, "evaluated": evaluated, "optimised": optimised, "version": 3}
    return {**made, **changes}


def make(lake: Lake, root: Path, **changes: Any) -> Bundle:
    return assemble(delivery=DELIVERY, request=REQUEST, lake=lake, root=root, **parts(lake, **changes))


def test_a_bundle_for_tensorflow_serving_holds_all_files_of_its_servable(lake: Lake, root: Path) -> None:
    names = ["servable/saved_model.pb", "servable/variables/variables.index", "servable/assets.extra/warm"]
    with lake.publish("optimised/tiny/r1") as draft:
        for name in (*names, "probe.json", "servable_not"):
            draft.file(name).write_bytes(name.encode())
    digest = lake.require("optimised/tiny/r1")["digest"]
    optimised = parts(lake)["optimised"].model_copy(update={"target": "savedmodel", "digest": digest})
    bundle = make(lake, root, optimised=optimised)
    files = check(lake, bundle)["files"]
    assert sorted(name for name in files if name.startswith("servable")) == sorted(names)
    assert "model.onnx" not in files
    assert load(lake, "tiny", 3) == bundle


def test_a_bundle_holds_what_serves_and_what_rebuilds(lake: Lake, root: Path) -> None:
    bundle = make(lake, root)
    assert (bundle.key, bundle.name, bundle.metrics) == ("bundles/tiny/v3", "tiny-v3", {"auc": 0.7})
    files = lake.require(bundle.key)["files"]
    assert sorted(files) == [
        "bundle.json", "contracts/things.yaml", "dataset.json", "encodings.json", "evaluation.json",
        "model.onnx", "probe.json", "requirements-serve.txt", "requirements-train.txt", "saved_model/saved_model.pb",
        "saved_model/variables/variables.index", "signature.json",
    ]  # fmt: skip
    assert lake.read(bundle.key, "requirements-serve.txt") == b"numpy==1\n"
    assert lake.read(bundle.key, "requirements-train.txt") == b"numpy==2\n"
    assert json.loads(lake.read(bundle.key, "dataset.json")) == lake.require("datasets/tiny/w")
    story = json.loads(lake.read(bundle.key, "bundle.json"))
    assert story["dataset"]["slices"] == {"a/w": "d"}
    for part in ("optimised", "evaluated"):
        assert story[part]["digest"] == lake.require(story[part]["key"])["digest"]
    assert json.loads(lake.read(bundle.key, "signature.json")) == {
        "inputs": [{"name": "dep_delay", "datatype": "FP32", "shape": [-1, 1]}],
        "outputs": [{"name": "probability", "datatype": "FP32", "shape": [-1, 1]}],
    }


def test_the_same_parts_give_the_same_bundle(lake: Lake, root: Path) -> None:
    first = make(lake, root)
    manifest = lake.require(first.key)
    assert make(lake, root) == first
    assert lake.require(first.key) == manifest


@pytest.mark.parametrize("part", ["dataset", "trained", "evaluated", "optimised"])
def test_a_part_that_another_revision_replaced_is_refused(lake: Lake, root: Path, part: str) -> None:
    old = parts(lake)[part]
    with lake.publish(old.key) as draft:
        draft.file("another").write_bytes(b"revision")
    with pytest.raises(DataError, match=f"{old.key} is published with digest"):
        make(lake, root, **{part: old})
    assert lake.manifest("bundles/tiny/v3") is None


def test_a_model_without_its_saved_model_is_refused(lake: Lake, root: Path) -> None:
    with lake.publish("models/tiny/r1") as draft:
        draft.file("epochs.json").write_text("[]")
    with pytest.raises(DataError, match="models/tiny/r1 has no saved_model/"):
        make(lake, root)
    assert lake.manifest("bundles/tiny/v3") is None


@pytest.mark.parametrize("environment", ["train", "serve"])
def test_a_missing_lock_publishes_nothing(lake: Lake, root: Path, environment: str) -> None:
    (root / f"docker/{environment}/requirements.txt").unlink()
    with pytest.raises(DataError, match=r"requirements\.txt does not exist"):
        make(lake, root)
    assert lake.manifest("bundles/tiny/v3") is None


def test_a_bundle_is_found_again_by_delivery_and_version(lake: Lake, root: Path) -> None:
    made = make(lake, root)
    assert load(lake, "tiny", 3) == made
    assert (made.request, made.target, made.dataset.slices) == (REQUEST, "onnx", {"a/w": "d"})
    with pytest.raises(DataError, match=r"nothing is published at .*bundles/tiny/v4"):
        load(lake, "tiny", 4)


def test_a_whole_bundle_passes_its_check(lake: Lake, root: Path) -> None:
    made = make(lake, root)
    assert check(lake, made) == lake.require(made.key)


def test_a_manifest_that_was_altered_together_with_its_file_is_refused(lake: Lake, root: Path) -> None:
    made = make(lake, root)
    path = Path(lake.url.removeprefix("file://")) / made.key / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["model.onnx"]["sha256"] = "0" * 64
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"bundles/tiny/v3/manifest\.json is no manifest as it was published"):
        check(lake, made)


def test_registering_again_mends_a_bundle_whose_file_was_altered(lake: Lake, root: Path, tmp_path: Path) -> None:
    made = make(lake, root)
    stored = Path(lake.path(made.key, "model.onnx"))
    stored.write_bytes(b"gr4ph")  # of the same length
    with pytest.raises(DataError, match=r"model\.onnx differs from its manifest"):
        lake.fetch(made.key, tmp_path / "to")
    assert make(lake, root) == made
    assert stored.read_bytes() == b"graph"
    assert lake.fetch(made.key, tmp_path / "to")


def test_a_file_beside_those_of_the_manifest_is_refused_but_a_remnant_of_copying_is_not(lake: Lake, root: Path) -> None:
    made = make(lake, root)
    folder = Path(lake.path(made.key, "model.onnx")).parent
    (folder / f"model.onnx.{'0a' * 16}.part").touch()
    assert check(lake, made)
    (folder / "saved_model" / "extra.py").touch()
    with pytest.raises(DataError, match=r"bundles/tiny/v3 has saved_model/extra\.py beside"):
        check(lake, made)


def test_a_bundle_of_an_older_tidegate_is_refused_with_the_remedy(lake: Lake, root: Path) -> None:
    made = make(lake, root)
    with lake.publish(made.key) as draft:
        draft.file("model.onnx").write_bytes(b"graph")
        draft.file("encodings.json").write_text("{}")
        draft.file("requirements.txt").write_text("numpy==2\n")
    old = made.model_copy(update={"digest": lake.require(made.key)["digest"]})
    with pytest.raises(DataError, match=r"lacks probe\.json, requirements-serve\.txt.*register the model again"):
        check(lake, old)


def bundles(lake: Lake, *versions: int, delivery: str = "tiny") -> None:
    for version in versions:
        with lake.publish(f"bundles/{delivery}/v{version}") as draft:
            draft.file("model.onnx").write_bytes(b"graph")


def test_the_newest_bundles_are_kept_and_the_rest_withdrawn(lake: Lake) -> None:
    bundles(lake, 1, 2, 9, 10, 11)
    assert retain(lake, "tiny", 3, set()) == [1, 2]
    assert lake.keys("bundles/tiny") == ["bundles/tiny/v10", "bundles/tiny/v11", "bundles/tiny/v9"]
    assert retain(lake, "tiny", 3, set()) == []


def test_a_bundle_in_use_is_never_withdrawn_however_old(lake: Lake) -> None:
    bundles(lake, 1, 2, 3, 4, 5)
    assert retain(lake, "tiny", 1, {2, 4}) == [1, 3]
    assert lake.keys("bundles/tiny") == ["bundles/tiny/v2", "bundles/tiny/v4", "bundles/tiny/v5"]


def test_other_deliveries_are_left_alone(lake: Lake) -> None:
    bundles(lake, 1, 2)
    bundles(lake, 1, 2, delivery="tiny2")
    assert retain(lake, "tiny", 1, set()) == [1]
    assert len(lake.keys("bundles/tiny2")) == 2
    assert retain(lake, "unknown", 1, set()) == []


def test_keeping_nothing_is_refused(lake: Lake) -> None:
    bundles(lake, 1)
    with pytest.raises(SpecError, match=r"serve\.keep is 0"):
        retain(lake, "tiny", 0, set())
    assert lake.keys("bundles/tiny") == ["bundles/tiny/v1"]
