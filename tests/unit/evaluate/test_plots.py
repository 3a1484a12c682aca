"""The pictures: each is there, 900 pixels wide, the same bytes again, and no two texts lie on each other."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from tidegate.evaluate import plots
from tidegate.evaluate.figures import Figures, Predictions, figures
from tidegate.evaluate.groups import Rows

LONG = "a-delivery-of-a-name-as-long-as-is-allowed-v123"


def found(champion=True, rows=5000) -> Figures:
    random = np.random.default_rng(1)
    logit = random.normal(-1, 2, rows)
    labels = (random.random(rows) < 1 / (1 + np.exp(-logit))) * 1.0
    said = [1 / (1 + np.exp(-(logit + random.normal(0, noise, rows)))) for noise in (0.3, 0.6)]
    cuts = {
        "carrier": [Rows(f"{'a long name of a category ' * (n == 1)}{n}", np.arange(n, rows, 20)) for n in range(20)],
        "up/on $\\x$": [
            Rows("EWR", np.arange(4000)),
            Rows("JFK", np.arange(4000, 4990)),
            Rows("$\\LGA\n$", np.arange(4990, 5000)),
        ],
    }
    clusters = np.arange(rows) % 40
    return figures(Predictions(labels, said[0], said[1] if champion else None, clusters), 0.3, cuts, 200)


def test_every_picture_is_900_pixels_wide_and_the_same_again(tmp_path: Path) -> None:
    drawn = found()
    names = plots.draw(drawn, tmp_path, LONG)
    assert names == ["roc.png", "reliability.png", "by_carrier.png", "by_up_on___x_.png"]
    first = {name: (tmp_path / name).read_bytes() for name in names}
    for name in names:
        height, width, _ = imread(tmp_path / name).shape
        assert width == 900
        assert 200 < height < 1000
    plots.draw(drawn, tmp_path, LONG)
    assert {name: (tmp_path / name).read_bytes() for name in names} == first


@pytest.mark.filterwarnings("error")
def test_rows_with_hardly_a_positive_one_are_drawn_without_figures(tmp_path: Path) -> None:
    labels, said = np.r_[np.ones(3), np.zeros(500)], np.linspace(0.01, 0.99, 503)
    few = figures(Predictions(labels, said, said[::-1], None), 0.2, {}, 200)
    assert few.overall.few == "3 positive rows, fewer than 10"
    assert plots.draw(few, tmp_path, "flights-v1") == ["roc.png", "reliability.png"]


@pytest.mark.parametrize("champion", [LONG, None])
def test_no_text_lies_on_another_or_outside(champion: str | None) -> None:
    drawn = found(champion is not None)
    with rc_context(plots._STYLE):
        for figure in plots.pictures(drawn, champion).values():
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            hidden = _not_drawn(figure)
            texts = [
                (each.get_text(), each.get_window_extent(canvas.get_renderer()))
                for each in figure.findobj(Text)
                if each.get_visible() and each.get_text().strip() and each not in hidden
            ]
            assert len(texts) > 10
            for text, box in texts:
                assert box.x0 >= -1, text
                assert box.x1 <= 901, text
            for (one, first), (other, second) in itertools.combinations(texts, 2):
                assert not first.shrunk(0.9, 0.8).overlaps(second.shrunk(0.9, 0.8)), f"{one!r} lies on {other!r}"


def _not_drawn(figure: Figure) -> set[Text]:
    """Return labels of ticks beyond the ends of their axis: the drawing library keeps them, and draws none."""
    hidden = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        beyond = [tick for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]
        hidden |= {label for tick in beyond for label in (tick.label1, tick.label2)}
    return hidden
