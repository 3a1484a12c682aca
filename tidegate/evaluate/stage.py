"""The evaluate stage: held-out rows to the candidate and the champion, figures, pictures, one publication, MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from tidegate import keys
from tidegate.encoded import encodings_of, labels_of
from tidegate.errors import DataError
from tidegate.evaluate import tracking
from tidegate.evaluate.comparison import champion_of
from tidegate.evaluate.figures import Predictions, figures
from tidegate.evaluate.groups import clusters, cut, known
from tidegate.evaluate.intervals import LEAST_CLUSTERS
from tidegate.evaluate.task import EvaluateTask, Evaluation
from tidegate.evaluate.words import flat, lines, surely
from tidegate.handoff import Evaluated
from tidegate.lake import Lake
from tidegate.workload import log

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tidegate.evaluate.comparison import Champion
    from tidegate.evaluate.figures import Figures

FILE, _ROWS = "evaluation.json", "test.parquet"


def evaluate(task: EvaluateTask) -> Evaluated:
    """Return what is published of a trained model's held-out rows; a model is evaluated once by the same settings.

    An evaluation that is there stays as it is, also if another champion came since: the bundle holds its digest.

    Raises:
        SpecError: `evaluate.by` names a column that the dataset has not.
        DataError: model or dataset is another than the handoff says, or the model says what is no probability.
        Unavailable: MLflow is away; what is published stays, and the next try tells it.
    """
    lake = Lake(task.lake)
    done = _published(lake, task)
    if done is None:
        _publish(lake, task)
        done = _published(lake, task)
        if done is None:
            raise DataError(
                f"{_key(task)} was replaced while it was published; let one run evaluate a request at a time"
            )
    else:
        log("already published", key=done.key, champion=done.champion)
    if task.tracking and task.trained.run_id:
        told = tracking.tell(task.tracking, task.trained.run_id, done, lake)
        log("in MLflow", run=task.trained.run_id, told="now" if told else "before")
    return done


def _publish(lake: Lake, task: EvaluateTask) -> None:
    encodings_of(lake, task.dataset)  # refuses a dataset that was built anew
    table = pq.read_table(lake.local(task.dataset.key, _ROWS))
    spec = task.evaluate
    known(spec.by, table.schema)
    labels = labels_of(table, task.dataset.label, f"{task.dataset.key}/{_ROWS}").reshape(-1).astype(np.float64)
    if len(np.unique(labels)) < 2:
        raise DataError(
            f"the {labels.size} held-out rows of {task.dataset.key} have not both labels, so quality cannot be "
            "measured; hold out a longer window: dataset.test in the delivery"
        )
    from tidegate.evaluate.predictions import of_trained  # TensorFlow: seconds to import, after all that may refuse

    candidate = of_trained(lake, task.trained, task.dataset, table)
    champion = champion_of(task, lake, table)
    log("predicted", rows=labels.size, champion=champion.name, reason=champion.reason)
    dependent = None if spec.dependent == "row" else clusters(table, spec.dependent, task.event_time)
    notes = [*champion.notes, *_too_short(dependent, spec.dependent)]
    found = figures(
        Predictions(labels, candidate, champion.predictions, dependent),
        task.trained.metrics["base_rate"],
        {column: cut(table, column, task.event_time, spec.groups) for column in spec.by},
        spec.at_least,
    )
    for line in lines(found):
        log("figures", line=line)
    _write(lake, task, champion, notes, found)


def _too_short(dependent: NDArray[Any] | None, length: str) -> list[str]:
    spanned = LEAST_CLUSTERS if dependent is None else len(np.unique(dependent))
    if spanned >= LEAST_CLUSTERS:
        return []
    return [
        f"the held-out rows are of {spanned} {length}s, fewer than {LEAST_CLUSTERS}: there are no intervals, and "
        "nothing is said for sure; hold out a longer window, or choose a shorter evaluate.dependent where that is "
        "honest"
    ]


def _write(lake: Lake, task: EvaluateTask, champion: Champion, notes: list[str], found: Figures) -> None:
    from tidegate.evaluate.plots import draw

    evaluation = Evaluation(
        delivery=task.dataset.delivery,
        request_id=task.trained.request_id,
        dataset=task.dataset.key,
        dataset_digest=task.dataset.digest,
        model=task.trained.key,
        model_digest=task.trained.digest,
        champion=champion.name,
        champion_digest=champion.digest,
        reason=champion.reason,
        notes=notes,
        settings=task.evaluate,
        figures=found,
    )
    better, worse = (list(surely(found, verdict)) for verdict in ("better", "worse"))
    fields = {
        "request_id": task.trained.request_id,
        "champion": champion.name,
        "reason": champion.reason,
        "notes": notes,
        "figures": flat(found.overall),
        "better": better,
        "worse": worse,
        "too_few": sum(1 for groups in found.by.values() for each in groups if each.few),
    }
    if _published(lake, task) is not None:  # by another try, meanwhile: it stays
        return
    with lake.publish(_key(task), **_basis(task), evaluated=fields) as draft:
        draft.file(FILE).write_text(evaluation.model_dump_json(indent=1), encoding="utf-8")
        draw(found, draft.folder, champion.name)


def _basis(task: EvaluateTask) -> dict[str, Any]:
    return {
        "model_digest": task.trained.digest,
        "dataset_digest": task.dataset.digest,
        "settings": task.evaluate.model_dump(mode="json"),
    }


def _published(lake: Lake, task: EvaluateTask) -> Evaluated | None:
    manifest = lake.manifest(_key(task))
    if manifest is None or any(manifest.get(name) != value for name, value in _basis(task).items()):
        return None
    return Evaluated(**manifest["evaluated"], key=_key(task), digest=manifest["digest"])


def _key(task: EvaluateTask) -> str:
    return keys.evaluation(task.dataset.delivery, task.trained.request_id)
