"""The optimise stage: convert, compare on real rows, record answers, publish. Nothing is published that differs."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate import keys
from tidegate.contract.encodings import Encodings
from tidegate.encoded import read_rows
from tidegate.errors import DataError
from tidegate.handoff import Optimised, OptimiseTask
from tidegate.lake import Lake
from tidegate.optimise.parity import compare, spread
from tidegate.optimise.recording import as_sent, record
from tidegate.optimise.target import target
from tidegate.recorded import PROBE
from tidegate.saved_model import predictor
from tidegate.workload import log

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from tidegate.saved_model import Predict

_ROWS = 4096  # compared at most
_REPEATS = 3  # timings: the best of these, after one call to warm up


def optimise(task: OptimiseTask) -> Optimised:
    """Return the published artefact of a trained model; one published already for this very model is returned as it is.

    Raises:
        NeedsGpu: the target needs a GPU that is not here.
        Permanent: the model cannot be converted, or its artefact predicts otherwise.
        DataError: the model or the dataset is another than the handoff says.
    """
    kind = target(task.target)
    kind.check()
    lake = Lake(task.lake)
    done = _published(lake, task)
    if done is not None:
        log("already published", key=done.key)
        return done
    rows = read_rows(lake, task.dataset, "test")
    chosen = spread(len(rows), _ROWS)
    rows = rows.take(chosen)
    with tempfile.TemporaryDirectory(prefix="tidegate-optimise-") as scratch:
        found = _saved_model(lake, task, Path(scratch))
        artefact = Path(scratch) / kind.file
        began = time.monotonic()
        encodings = Encodings.from_json(lake.read(task.dataset.key, "encodings.json"))
        kind.convert(found, task.dataset.features, encodings, artefact)
        log("converted", target=task.target, bytes=_bytes(artefact), seconds=time.monotonic() - began)
        reference, slow = _timed(predictor(found), rows.columns)
        given = as_sent(lake, task.dataset, chosen) if kind.takes_raw else rows.columns
        optimised, fast = _timed(kind.load(artefact), given)
        parity = compare(reference, optimised, task.tolerance)
        log("parity", rows=parity.rows, max_difference=parity.max_difference, limit=task.tolerance)
        log("speed", rows=parity.rows, saved_model_ms=slow * 1e3, optimised_ms=fast * 1e3, times=slow / fast)
        fields = {
            "target": task.target,
            "rows": parity.rows,
            "max_difference": parity.max_difference,
            "seconds_saved_model": slow,
            "seconds_optimised": fast,
        }
        recorded = record(lake, task.dataset, chosen, reference, task.tolerance)
        kind.complete(artefact, task.dataset.features, recorded, task.dataset.delivery)
        known = {"model_digest": task.trained.digest, "tolerance": task.tolerance}
        with lake.publish(_key(task), **known, optimised=fields) as draft:
            artefact.replace(draft.file(kind.file))
            draft.file(PROBE).write_text(recorded.to_json(), encoding="utf-8")
    published = _published(lake, task)
    if published is None:
        raise DataError(f"{_key(task)} was replaced while it was published; let one run optimise a request at a time")
    return published


def _saved_model(lake: Lake, task: OptimiseTask, scratch: Path) -> Path:
    digest = lake.require(task.trained.key)["digest"]
    if digest != task.trained.digest:
        raise DataError(
            f"model {task.trained.key} has digest {digest[:12]}, the handoff says {task.trained.digest[:12]}: it was "
            "trained anew meanwhile; run the request again"
        )
    return lake.fetch(task.trained.key, scratch / "trained") / "saved_model"


def _bytes(artefact: Path) -> int:
    return sum(path.stat().st_size for path in (artefact, *artefact.rglob("*")) if path.is_file())


def _timed(predict: Predict, columns: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], float]:
    given = predict(columns)
    seconds = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        predict(columns)
        seconds.append(time.perf_counter() - began)
    return given, min(seconds)


def _published(lake: Lake, task: OptimiseTask) -> Optimised | None:
    manifest = lake.manifest(_key(task))
    if manifest is None or manifest.get("model_digest") != task.trained.digest:
        return None
    if manifest.get("tolerance") != task.tolerance:  # other recorded answers; none at all by an older version
        return None
    found = Optimised(**manifest["optimised"], key=_key(task), digest=manifest["digest"])
    return found if found.target == task.target else None


def _key(task: OptimiseTask) -> str:
    return keys.optimised(task.dataset.delivery, task.trained.request_id)
