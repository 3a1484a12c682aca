"""All figures of an evaluation from labels and probabilities: overall, by group, and against a champion; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from tidegate.evaluate.calibration import Bin, calibration_error, reliability
from tidegate.evaluate.delong import auc_influence
from tidegate.evaluate.intervals import CONFIDENCE, Interval, around, around_share, spread
from tidegate.evaluate.roc import Roc, roc
from tidegate.handoff import Handoff
from tidegate.metrics import log_loss, log_losses

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from tidegate.evaluate.groups import Rows

LEAST_OF_A_CLASS = 10
"""A group with fewer positive or fewer negative rows is given no figures."""


class Quality(Handoff):
    """One model on some rows."""

    auc: Interval
    log_loss: Interval = Field(description="nats per row")
    brier: Interval = Field(description="mean squared distance of probability and label")
    ece: float = Field(description="expected calibration error, over bins of equal mass")
    ece_by_chance: float = Field(description="what calibrated predictions would have by chance")
    mean_prediction: float


class Difference(Handoff):
    """Candidate less champion on the same rows, paired."""

    auc: Interval
    log_loss: Interval
    brier: Interval
    surely: dict[str, Literal["better", "worse"]] = Field(
        default_factory=dict, description="figures that differ though all groups are looked at (Bonferroni's level)"
    )


class Group(Handoff):
    """Some of the held-out rows, with the figures of one or both models on them."""

    name: str
    rows: int
    positive_share: float = Field(description="share of rows whose label is 1")
    base_log_loss: float = Field(description="of saying the training rows' base rate to each row")
    few: str | None = Field(default=None, description="why there are no figures")
    candidate: Quality | None = None
    champion: Quality | None = None
    difference: Difference | None = None


class Figures(Handoff):
    """Everything that is said of a candidate's predictions."""

    base_rate: float = Field(description="share of positive rows among the training rows")
    confidence: float = CONFIDENCE
    overall: Group
    reliability: dict[str, list[Bin]] = Field(description="candidate and, where there is one, champion -> its bins")
    roc: Roc
    by: dict[str, list[Group]] = Field(description="column -> its groups")


@dataclass(frozen=True)
class Predictions:
    """The held-out rows' labels with what each model says, and what makes rows depend on each other."""

    labels: NDArray[Any]
    """[n] of 0 and 1."""
    candidate: NDArray[Any]
    """Probabilities, [n]."""
    champion: NDArray[Any] | None
    """Probabilities, [n]; None without a champion that can read the rows."""
    clusters: NDArray[Any] | None
    """A number for each row, [n]; rows of one number count together. None: every row counts by itself."""

    def take(self, rows: NDArray[np.int64]) -> Predictions:
        """Return the chosen rows."""
        champion = None if self.champion is None else self.champion[rows]
        clusters = None if self.clusters is None else self.clusters[rows]
        return Predictions(self.labels[rows], self.candidate[rows], champion, clusters)


def figures(rows: Predictions, base_rate: float, cuts: Mapping[str, Sequence[Rows]], at_least: int) -> Figures:
    """Return all figures.

    Args:
        rows: labels and predictions, of both classes.
        base_rate: the share of positive rows among the training rows.
        cuts: column -> its groups.
        at_least: a group with fewer rows is given no figures.
    """
    looks = sum(1 for groups in cuts.values() for each in groups if few(rows.labels[each.rows], at_least) is None)
    by = {
        column: [_group(each.name, rows.take(each.rows), base_rate, at_least, looks) for each in groups]
        for column, groups in cuts.items()
    }
    bins = {"candidate": reliability(rows.labels, rows.candidate, rows.clusters)}
    if rows.champion is not None:
        bins["champion"] = reliability(rows.labels, rows.champion, rows.clusters)
    curves = roc(rows.labels, rows.candidate, rows.champion, rows.clusters)
    overall = _group("all rows", rows, base_rate, at_least=1, looks=1)
    return Figures(base_rate=base_rate, overall=overall, reliability=bins, roc=curves, by=by)


def few(labels: NDArray[Any], at_least: int) -> str | None:
    """Return why rows with these labels [n] are too few for figures, or None."""
    positives = int(labels.sum())
    negatives = labels.size - positives
    if labels.size < at_least:
        return f"{labels.size} rows, fewer than {at_least}"
    for name, count in (("positive", positives), ("negative", negatives)):
        if count < LEAST_OF_A_CLASS:
            return f"{count} {name} rows, fewer than {LEAST_OF_A_CLASS}"
    return None


def _group(name: str, rows: Predictions, base_rate: float, at_least: int, looks: int) -> Group:
    labels = rows.labels
    said = {
        "name": name,
        "rows": labels.size,
        "positive_share": float(labels.mean()),
        "base_log_loss": log_loss(labels, np.full(labels.size, base_rate)),
        "few": few(labels, at_least),
    }
    if said["few"] is not None:
        return Group.model_validate(said)
    mine = _Judged(labels, rows.candidate, rows.clusters)
    if rows.champion is None:
        return Group.model_validate({**said, "candidate": mine.quality()})
    theirs = _Judged(labels, rows.champion, rows.clusters)
    return Group.model_validate(
        {
            **said,
            "candidate": mine.quality(),
            "champion": theirs.quality(),
            "difference": _difference(mine, theirs, looks),
        }
    )


class _Judged:
    """One model on some rows: its figures' values, and each row's influence on them."""

    def __init__(self, labels: NDArray[Any], scores: NDArray[Any], clusters: NDArray[Any] | None):
        self.labels, self.scores, self.clusters = labels, scores, clusters
        self.whole = np.zeros(labels.size, np.int8)
        auc, influence = auc_influence(labels > 0.5, scores)
        losses, squares = log_losses(labels, scores), np.square(scores - labels)
        self.values = {"auc": auc, "log_loss": float(losses.mean()), "brier": float(squares.mean())}
        self.influences = {"auc": influence, "log_loss": _of_mean(losses), "brier": _of_mean(squares)}

    def strata(self, figure: str) -> NDArray[Any]:
        return (self.labels > 0.5).astype(np.int8) if figure == "auc" else self.whole

    def quality(self) -> Quality:
        told = {
            name: spread(influence, self.strata(name), self.clusters) for name, influence in self.influences.items()
        }
        ece, by_chance = calibration_error(self.labels, self.scores, self.clusters)
        return Quality(
            auc=around_share(self.values["auc"], told["auc"]),
            log_loss=around(self.values["log_loss"], told["log_loss"]),
            brier=around(self.values["brier"], told["brier"]),
            ece=ece,
            ece_by_chance=by_chance,
            mean_prediction=float(self.scores.mean()),
        )


def _difference(mine: _Judged, theirs: _Judged, looks: int) -> Difference:
    intervals: dict[str, Any] = {}
    surely: dict[str, str] = {}
    for name, value in mine.values.items():
        apart = value - theirs.values[name]
        told = spread(mine.influences[name] - theirs.influences[name], mine.strata(name), mine.clusters)
        if told is not None and told[0] == 0 and apart != 0:
            told = None  # two orders without a fault, or all rows off by the same: these rows tell no variance
        intervals[name] = around(apart, told)
        if around(apart, told, 1 - (1 - CONFIDENCE) / looks).excludes_zero:
            surely[name] = "better" if (apart > 0) == (name == "auc") else "worse"
    return Difference.model_validate({**intervals, "surely": surely})


def _of_mean(terms: NDArray[Any]) -> NDArray[np.float64]:
    influence: NDArray[np.float64] = (terms - terms.mean()) / terms.size
    return influence
