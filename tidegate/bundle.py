"""All that a model version needs to serve and to be rebuilt: published as one manifest, checked, and withdrawn."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from tidegate import keys
from tidegate.errors import DataError, SpecError
from tidegate.handoff import Bundle
from tidegate.recorded import PROBE

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from tidegate.delivery import Delivery
    from tidegate.handoff import Dataset, Evaluated, Optimised, Request, Trained
    from tidegate.lake import Lake

TRAINING_LOCK, SERVING_LOCK = "requirements-train.txt", "requirements-serve.txt"
_LOCKS = {TRAINING_LOCK: "docker/train/requirements.txt", SERVING_LOCK: "docker/serve/requirements.txt"}
SERVABLE = "servable"
"""The folder of a SavedModel with its encodings inside, as TensorFlow Serving loads it."""
_ARTEFACT = {"onnx": "model.onnx", "tensorrt": "model.plan", "savedmodel": f"{SERVABLE}/saved_model.pb"}
_SAVED_MODEL = "saved_model/"
_EVALUATION, _SIGNATURE = "evaluation.json", "signature.json"


def assemble(
    delivery: Delivery,
    request: Request,
    dataset: Dataset,
    trained: Trained,
    evaluated: Evaluated,
    optimised: Optimised,
    version: int,
    lake: Lake,
    root: Path,
) -> Bundle:
    """Publish a version's bundle and return it; the same parts give the same bytes and digest.

    To serve: the artefact (model.onnx, model.plan or the folder servable/), encodings.json, probe.json (recorded
    answers), requirements-serve.txt (the lock of the serving environment). To be known: signature.json (raw inputs and
    outputs), evaluation.json (figures on the held-out rows). To be rebuilt: saved_model/, dataset.json (the dataset's
    manifest), requirements-train.txt, contracts/*.yaml, bundle.json (every handoff on the way, with its digests).
    `root` is the project's folder, where locks and contracts are.

    Raises:
        DataError: a part is not published, differs from its manifest, or another revision took its place.
    """
    parts = (dataset, trained, evaluated, optimised)
    manifests = {part.key: _as_handed_on(lake, part.key, part.digest) for part in parts}
    key = keys.bundle(delivery.delivery, version)
    with lake.publish(key, kind="bundle", delivery=delivery.delivery, version=version) as draft:
        lake.fetch(optimised.key, draft.folder, _artefact(optimised, manifests[optimised.key]))
        lake.fetch(dataset.key, draft.folder, ["encodings.json"])
        lake.fetch(trained.key, draft.folder, _saved_model(trained.key, manifests[trained.key]))
        lake.fetch(evaluated.key, draft.folder, [_EVALUATION])
        story = {
            "delivery": delivery.model_dump(mode="json"),
            "request": request.model_dump(mode="json"),
            "dataset": dataset.model_dump(mode="json"),
            "trained": trained.model_dump(mode="json"),
            "evaluated": evaluated.model_dump(mode="json"),
            "optimised": optimised.model_dump(mode="json"),
            "version": version,
        }
        texts = {"bundle.json": story, "dataset.json": manifests[dataset.key], _SIGNATURE: signature(dataset)}
        for name, content in texts.items():
            draft.file(name).write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
        for name, lock in _LOCKS.items():
            _copy(root / lock, draft.file(name))
        for contract in sorted({source.contract for source in delivery.sources.values()}):
            _copy(root / "schemas" / "contracts" / f"{contract}.yaml", draft.file(f"contracts/{contract}.yaml"))
    return load(lake, delivery.delivery, version)


def load(lake: Lake, delivery: str, version: int) -> Bundle:
    """Return a version's bundle as it was published.

    Raises:
        DataError: no such version was bundled.
    """
    key = keys.bundle(delivery, version)
    story = json.loads(lake.read(key, "bundle.json"))
    return Bundle.model_validate(
        {
            "delivery": delivery,
            "version": version,
            "key": key,
            "target": story["optimised"]["target"],
            "request": story["request"],
            "dataset": story["dataset"],
            "metrics": story["trained"]["metrics"],
            "digest": lake.require(key)["digest"],
        }
    )


def signature(dataset: Dataset) -> dict[str, Any]:
    """Return what a model trained on this dataset is asked and what it answers, as KServe v2 describes tensors.

    Inputs are raw values, [n, 1] each, as callers send them: the encodings are the model's own.
    """
    inputs = [{"name": each.name, "datatype": each.dtype, "shape": [-1, 1]} for each in dataset.features]
    return {"inputs": inputs, "outputs": [{"name": "probability", "datatype": "FP32", "shape": [-1, 1]}]}


def check(lake: Lake, bundle: Bundle) -> dict[str, Any]:
    """Return a bundle's manifest, once it is seen to be this bundle's and to list all that serving needs.

    The files' own digests are checked where they are copied: see `Lake.fetch`.

    Raises:
        DataError: nothing is published, another revision is, the manifest was altered, a file is not listed in it or
            lies unlisted among the others.
    """
    manifest = lake.require(bundle.key)
    if manifest["digest"] != bundle.digest:
        raise DataError(
            f"bundle {bundle.key} is published with digest {manifest['digest'][:16]}, not {bundle.digest[:16]}; "
            "another revision took its place: register the model again"
        )
    needed = (_ARTEFACT[bundle.target], "encodings.json", PROBE, SERVING_LOCK)
    absent = [name for name in needed if name not in manifest["files"]]
    if absent:
        raise DataError(
            f"bundle {bundle.key} lacks {', '.join(absent)}, as those of an older Tidegate do; register the model again"
        )
    strange = lake.unlisted(bundle.key)
    if strange:
        raise DataError(
            f"bundle {bundle.key} has {', '.join(strange[:5])} beside the files of its manifest: it was altered; "
            "remove what was added, or register the model again"
        )
    return manifest


def retain(lake: Lake, delivery: str, keep: int, in_use: Collection[int]) -> list[int]:
    """Withdraw a delivery's bundles beyond its newest `keep`, never one in use; return the versions withdrawn.

    Args:
        lake: where bundles are.
        delivery: the delivery's name.
        keep: how many of the newest versions stay, from 1 up.
        in_use: versions that stay whatever their age: champion, candidate, whatever serves or may be gone back to.

    Raises:
        SpecError: `keep` is less than 1, which would withdraw a bundle that was made this moment.
    """
    if keep < 1:
        raise SpecError(f"serve.keep is {keep} for {delivery}; keep at least 1 bundle, the newest")
    prefix = keys.bundle(delivery, 0).removesuffix("0")
    published = sorted(int(key.removeprefix(prefix)) for key in lake.keys(prefix.rpartition("/")[0]))
    withdrawn = [version for version in published[:-keep] if version not in in_use]
    for version in withdrawn:
        lake.delete(keys.bundle(delivery, version))
    return withdrawn


def _as_handed_on(lake: Lake, key: str, digest: str) -> dict[str, Any]:
    manifest = lake.require(key)
    if manifest["digest"] != digest:
        raise DataError(
            f"{key} is published with digest {manifest['digest'][:16]}, not {digest[:16]} as handed on; run that stage "
            "again"
        )
    return manifest


def _artefact(optimised: Optimised, manifest: dict[str, Any]) -> list[str]:
    entry = _ARTEFACT[optimised.target]
    below = f"{entry.rpartition('/')[0]}/" if "/" in entry else entry
    return sorted({entry, PROBE, *(name for name in manifest["files"] if name.startswith(below))})


def _saved_model(key: str, manifest: dict[str, Any]) -> list[str]:
    names = [name for name in manifest["files"] if name.startswith(_SAVED_MODEL)]
    if not names:
        raise DataError(f"{key} has no {_SAVED_MODEL}, and a bundle holds a copy of it; run the training again")
    return names


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError as error:
        raise DataError(f"{source} does not exist, and a bundle holds a copy of it; restore the file") from error
