"""Paths that name the window: one for each of its days or hours, and each mistake with its remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.delivery import HdfsSource, project_root, read_delivery
from tidegate.delivery.paths import checked, is_windowed, misfit, paths
from tidegate.units import utc
from tidegate.yamlfile import SpecProblems


@pytest.mark.parametrize(
    ("template", "start", "end", "wanted"),
    [
        ("/r/planes", "2026-01-01", "2026-02-01", ["/r/planes"]),
        ("/e/d={start:%Y-%m-%d}", "2026-02-28", "2026-03-02", ["/e/d=2026-02-28", "/e/d=2026-03-01"]),
        ("/e/{start:%Y}/{start:%m}", "2025-11-01", "2026-02-01", ["/e/2025/11", "/e/2025/12", "/e/2026/01"]),
        ("/e/{start:%Y%j}/*.csv", "2026-01-31", "2026-02-02", ["/e/2026031/*.csv", "/e/2026032/*.csv"]),
        ("/e/{start:%Y-%m-%d/%H}", "2026-01-01T22:00", "2026-01-02", ["/e/2026-01-01/22", "/e/2026-01-01/23"]),
        ("/drop/{end:%Y%m%d}.csv", "2026-01-30", "2026-02-01", ["/drop/20260131.csv", "/drop/20260201.csv"]),
        ("/w/{start:%Y%m%d}-{end:%Y%m%d}", "2026-01-01", "2026-02-01", ["/w/20260101-20260201"]),
        ("/y/{start:%Y}", "2026-03-01", "2026-04-01", ["/y/2026"]),
    ],
)  # fmt: skip
def test_a_window_has_its_paths_in_the_order_of_time(template: str, start: str, end: str, wanted: list[str]) -> None:
    assert checked(template) == template
    assert paths(template, utc(start), utc(end)) == wanted
    assert is_windowed(template) == ("{" in template)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("/e/{start}", "a brace that opens or closes no"),
        ("/e/{begin:%Y}", "a brace"),
        ("/e/{start:%Y-%m-%d", "a brace"),
        ("/e/{start:days}", "a part of the window without a form"),
        ("/e/{start:%Y-%m-%dT%M}", "%M is no part of a window"),
        ("/e/{start:%Y-%}", "% is no part of a window"),
        ("/e/{start:%m-%d}", "without %Y the path is the same for several windows"),
        ("/e/{start:%Y-%d}", "without %m"),
        ("/e/{start:%Y-%m}/{start:%H}", "without %d"),
        ("/e/../{start:%Y}", "'..' in a path"),
    ],
)
def test_a_template_that_is_none_says_why_and_what_to_write(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        checked(template)
    assert "Remedy: write" in str(caught.value)
    with pytest.raises(ValueError, match="path"):
        HdfsSource(connection="c", path=template)


def test_a_path_that_holds_more_than_a_window_does_not_fit() -> None:
    assert misfit("/e/{start:%Y-%m-%d}", "1 month") is None
    assert misfit("/e/{start:%Y-%m-%d}", "1 day") is None
    assert misfit("/e/{start:%Y%m%d}-{end:%Y%m%d}", "1 hour") is None
    assert misfit("/reference", "1 hour") is None
    assert "holds a day, and windows are 1 hour Remedy" in str(misfit("/e/{start:%Y-%m-%d}", "1 hour"))
    assert "holds a month" in str(misfit("/e/{start:%Y-%m}", "1 week"))


def test_a_delivery_says_where_a_path_does_not_fit_its_windows(tmp_path: Path) -> None:
    text = (project_root() / "schemas" / "deliveries" / "flights.yaml").read_text()
    path = tmp_path / "flights.yaml"
    path.write_text(text.replace("path: /reference/planes", 'path: "/planes/{start:%Y}"'))
    with pytest.raises(SpecProblems, match=r"sources\.planes\.hdfs: .*holds a year, and windows are 1 month"):
        read_delivery(path)
    path.write_text(text.replace("path: /reference/planes", 'path: "/planes/{start:%Y-%m-%d}"'))
    found = read_delivery(path).sources
    assert [found[name].is_windowed for name in ("flights", "planes", "airports")] == [True, True, False]
