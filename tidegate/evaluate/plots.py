"""Pictures of an evaluation: ROC curves and their difference, reliability, and a column's groups as a forest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tidegate.evaluate.calibration import Bin
    from tidegate.evaluate.figures import Figures, Group
    from tidegate.evaluate.intervals import Interval

_COLOURS = {"candidate": "#1668b5", "champion": "#d9822b"}
_MARKS = {"candidate": "o", "champion": "s"}
_GREY, _DARK = "#8a94a0", "#1d2733"
_STYLE: Any = {"font.size": 10, "axes.titlesize": 11, "axes.spines.top": False, "axes.spines.right": False}
_STYLE["text.parse_math"] = False  # a category may have any name, $ among them
_DPI = 100
_WIDE = 9.0  # inches: 900 pixels
_ROW = 0.3  # inches of a group's line
_LEGEND: dict[str, Any] = {"fontsize": 8.5, "framealpha": 0.85, "edgecolor": "none"}
_SURELY = {"better": "#2e7d32", "worse": "#a4243b"}
_LONGEST, _LONGEST_MODEL = 22, 28  # characters of a group's and of a model's name


def draw(figures: Figures, folder: Path, champion: str | None) -> list[str]:
    """Write the pictures into a folder as PNG files 900 pixels wide; return their names.

    Args:
        figures: what is drawn.
        folder: where to write.
        champion: what the champion is called; None if there is none in the figures.
    """
    with rc_context(_STYLE):
        drawn = pictures(figures, champion)
        for name, picture in drawn.items():  # without the library's version the same figures give the same bytes
            picture.savefig(folder / name, dpi=_DPI, metadata={"Software": None})
    return list(drawn)


def pictures(figures: Figures, champion: str | None) -> dict[str, Figure]:
    """Return the pictures by file name."""
    names = {"candidate": "candidate", "champion": _short(f"champion {champion}", _LONGEST_MODEL)}
    found = {"roc.png": _roc(figures, names), "reliability.png": _reliability(figures, names)}
    for column, groups in figures.by.items():
        safe = "".join(each if each.isalnum() or each in "_.-" else "_" for each in column)  # a column has any name
        found[f"by_{safe}.png"] = _forest(column, figures, groups, names)
    return found


def _roc(figures: Figures, names: dict[str, str]) -> Figure:
    curves, overall = figures.roc, figures.overall
    figure = Figure(figsize=(_WIDE, 4.6), layout="constrained")
    is_compared = curves.champion is not None
    left, right = figure.subplots(1, 2) if is_compared else (figure.subplots(1, 1), None)
    x = np.array(curves.false_positive_rate)
    for model in ("champion", "candidate"):
        quality, curve = getattr(overall, model), getattr(curves, model)
        if quality is None or curve is None:
            continue
        label = f"{names[model]}: AUC {_told(quality.auc, '.3f')}"
        left.plot(x, curve, color=_COLOURS[model], lw=1.8, ls="-" if model == "candidate" else "--", label=label)
    left.plot([0, 1], [0, 1], color=_GREY, lw=0.8, ls=":")
    left.set(title=f"ROC, {overall.rows:,} held-out rows", xlim=(0, 1), ylim=(0, 1.01))
    left.set(xlabel="false positives, share of negative rows", ylabel="true positives, share of positive rows")
    if overall.candidate is not None:
        left.legend(loc="lower right", **_LEGEND)
    _percent(left.xaxis, left.yaxis)
    if right is None or overall.difference is None or curves.champion is None:
        return figure
    apart = 100 * (np.array(curves.candidate) - np.array(curves.champion))
    if curves.low is not None and curves.high is not None:
        low, high = 100 * np.array(curves.low), 100 * np.array(curves.high)
        right.fill_between(x, low, high, color=_COLOURS["candidate"], alpha=0.18, lw=0, label="95% at each point")
    right.plot(x, apart, color=_COLOURS["candidate"], lw=1.8, label="difference")
    right.axhline(0, color=_GREY, lw=0.8)
    right.set(
        title=f"{names['candidate']} less {names['champion']}\nAUC {_told(overall.difference.auc, '+.4f')}",
        xlim=(0, 1),
        xlabel="false positives, share of negative rows",
        ylabel="difference of true positives, percentage points",
    )
    right.legend(loc="best", **_LEGEND)
    _percent(right.xaxis)
    return figure


def _reliability(figures: Figures, names: dict[str, str]) -> Figure:
    figure = Figure(figsize=(_WIDE, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color=_GREY, lw=0.8, ls=":", label="calibrated")
    right.axhline(0, color=_GREY, lw=0.8, ls=":")
    for model, off in (("champion", 0.12), ("candidate", -0.12)):
        quality, bins = getattr(figures.overall, model), figures.reliability.get(model)
        if quality is None or bins is None:
            continue
        style = {"color": _COLOURS[model], "fmt": _MARKS[model], "ms": 4.5, "lw": 1.2, "capsize": 2}
        observed, predicted = _seen(bins), np.array([each.predicted for each in bins])
        bars = np.abs(observed[1:] - observed[0])
        label = f"{names[model]}\nECE {quality.ece:.4f}, by chance {quality.ece_by_chance:.4f}"
        left.errorbar(predicted, observed[0], bars, label=label, **style)
        right.errorbar(np.arange(len(bins)) + 1 + off, 100 * (observed[0] - predicted), 100 * bars, **style)
    share = figures.overall.positive_share
    left.axhline(share, color=_GREY, lw=0.8, ls="--", label=f"{share:.1%} of all rows are positive")
    left.set(xlabel="predicted probability, mean of the bin", ylabel="observed share of positive rows")
    left.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), title=f"Reliability, {figures.overall.rows:,} held-out rows")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, **_LEGEND)
    _percent(left.xaxis, left.yaxis)
    right.set(xlabel="bin, of as many rows each, by rising prediction", ylabel="observed less predicted, % points")
    right.set(title="Distance from calibrated; bars: 95% (Wilson)")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _seen(bins: Sequence[Bin]) -> Any:
    """Return observed shares with their bounds, [3, bins]."""
    return np.array([[each.observed.value, each.observed.low, each.observed.high] for each in bins], float).T


def _forest(column: str, figures: Figures, groups: Sequence[Group], names: dict[str, str]) -> Figure:
    shown = [figures.overall, *groups]
    is_compared = figures.overall.difference is not None
    layout = ConstrainedLayoutEngine(wspace=0.05)
    figure = Figure(figsize=(_WIDE, 1.9 + _ROW * len(shown)), layout=layout)
    axes = figure.subplots(1, 3 if is_compared else 2, sharey=True)
    places = np.arange(len(shown))
    models = ("candidate", "champion") if is_compared else ("candidate",)
    for model, off in zip(models, (-0.13, 0.13) if is_compared else (0.0,), strict=True):
        told = [(place + off, getattr(group, model)) for place, group in zip(places, shown, strict=True)]
        style = {"color": _COLOURS[model], "marker": _MARKS[model]}
        _bars(axes[0], [(place, each.auc) for place, each in told if each], **style, label=names[model])
        if not is_compared:
            _bars(axes[1], [(place, each.log_loss) for place, each in told if each], **style)
    if is_compared:
        for axis, figure_name in zip(axes[1:], ("auc", "log_loss"), strict=True):
            _differences(axis, shown, figure_name)
    for place, group in zip(places, shown, strict=True):
        if group.few:
            axes[0].annotate(
                "too few rows",
                (0.02, place),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=8.5,
                color=_GREY,
            )
    titles = ["AUC", "AUC, difference", "log loss, difference"] if is_compared else ["AUC", "log loss"]
    units = ["higher is better", "right is better", "nats per row, left is better"]
    units = units if is_compared else ["higher is better", "nats per row, lower is better"]
    for axis, title, unit in zip(axes, titles, units, strict=True):
        axis.set(title=title, xlabel=unit)
        axis.xaxis.set_major_locator(MaxNLocator(4, prune=None))
        axis.grid(axis="x", color="#dfe4e9", lw=0.6)
        axis.axhline(0.5, color=_GREY, lw=0.6)
        axis.tick_params(axis="y", length=0)
    axes[0].set_yticks(places, [_named(group) for group in shown])
    axes[0].set_ylim(len(shown) - 0.5, -0.5)
    surely = "; surely: among all groups looked at" if is_compared else ""
    figure.suptitle(f"By {_short(column, _LONGEST)}: {_models(names, is_compared)}; bars: 95%{surely}", fontsize=11)
    if is_compared:
        handles, labels = axes[0].get_legend_handles_labels()
        for verdict, colour in _SURELY.items():
            handles.append(Line2D([], [], color=colour, marker="o", ms=4))
            labels.append(f"surely {verdict}")
        figure.legend(handles, labels, loc="outside lower center", ncols=4, **_LEGEND)
    return figure


def _differences(axis: Any, shown: Sequence[Group], name: str) -> None:
    axis.axvline(0, color=_GREY, lw=0.8)
    for verdict, colour in ((None, _DARK), *_SURELY.items()):
        told = [
            (float(place), getattr(group.difference, name))
            for place, group in enumerate(shown)
            if group.difference is not None and group.difference.surely.get(name) == verdict
        ]
        _bars(axis, told, color=colour, marker="o")


def _bars(axis: Any, told: Sequence[tuple[float, Interval]], color: str, marker: str, label: str | None = None) -> None:
    values = np.array([each.value for _, each in told])
    ends = np.array([[_or(each.low, each.value), _or(each.high, each.value)] for _, each in told]).reshape(-1, 2).T
    places = [place for place, _ in told]
    bars = np.abs(ends - values)
    axis.errorbar(values, places, xerr=bars, fmt=marker, ms=4, lw=1.2, capsize=2, color=color, label=label)


def _named(group: Group) -> str:
    return f"{_short(group.name, _LONGEST)} ({group.rows:,})"


def _short(name: str, longest: int) -> str:
    name = " ".join(name.split())
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _models(names: dict[str, str], is_compared: bool) -> str:
    return f"{names['candidate']} and {names['champion']}" if is_compared else names["candidate"]


def _told(interval: Interval, form: str) -> str:
    if interval.low is None or interval.high is None:
        return f"{interval.value:{form}}"
    return f"{interval.value:{form}} ({interval.low:{form}} to {interval.high:{form}})"


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _percent(*axes: Any) -> None:
    for axis in axes:
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
