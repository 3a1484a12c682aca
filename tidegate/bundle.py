"""Puts together all that a model version needs to serve and to be rebuilt, as one published manifest."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from tidegate import keys
from tidegate.errors import DataError
from tidegate.handoff import Bundle

if TYPE_CHECKING:
    from pathlib import Path

    from tidegate.delivery import Delivery
    from tidegate.handoff import Dataset, Optimised, Request, Trained
    from tidegate.lake import Lake

LOCK = "docker/train/requirements.txt"
_ARTEFACT = {"onnx": "model.onnx", "tensorrt": "model.plan"}


def assemble(
    delivery: Delivery,
    request: Request,
    dataset: Dataset,
    trained: Trained,
    optimised: Optimised,
    version: int,
    lake: Lake,
    root: Path,
) -> Bundle:
    """Publish a version's bundle and return it; the same parts give the same bytes and digest.

    Files: the artefact (model.onnx or model.plan), encodings.json, bundle.json (every handoff on the way, with its
    digests), requirements.txt (the training environment's lock), contracts/*.yaml. `root` is the project's folder.

    Raises:
        DataError: a part is not published, differs from its manifest, or another revision took its place.
    """
    for key, digest in ((dataset.key, dataset.digest), (optimised.key, optimised.digest)):
        found = lake.require(key)["digest"]
        if found != digest:
            raise DataError(
                f"{key} is published with digest {found[:16]}, not {digest[:16]} as handed on; run that stage again"
            )
    key = keys.bundle(delivery.delivery, version)
    with lake.publish(key, kind="bundle", delivery=delivery.delivery, version=version) as draft:
        lake.fetch(optimised.key, draft.folder, [_ARTEFACT[optimised.target]])
        lake.fetch(dataset.key, draft.folder, ["encodings.json"])
        story = {
            "delivery": delivery.model_dump(mode="json"),
            "request": request.model_dump(mode="json"),
            "dataset": dataset.model_dump(mode="json"),
            "trained": trained.model_dump(mode="json"),
            "optimised": optimised.model_dump(mode="json"),
            "version": version,
        }
        draft.file("bundle.json").write_text(json.dumps(story, indent=1, sort_keys=True), encoding="utf-8")
        _copy(root / LOCK, draft.file("requirements.txt"))
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


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError as error:
        raise DataError(f"{source} does not exist, and a bundle holds a copy of it; restore the file") from error
