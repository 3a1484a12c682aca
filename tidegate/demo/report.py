"""The demonstration's report: report.json for machines, report.html with the picture of the rollouts for people."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

if TYPE_CHECKING:
    from tidegate.demo.recorder import Recorder

COLOURS = ("#2a6f97", "#e07a1f", "#a4243b", "#6a994e", "#6d597a")


def write(folder: Path, report: dict[str, Any], recorder: Recorder, weights: list[dict[str, Any]]) -> Path:
    """Write report.json, timeline.png and report.html; return the last one's path.

    Args:
        folder: where to write; made if missing.
        report: the figures, as JSON data.
        recorder: what the callers saw.
        weights: changes of the split in order of time, each {at: Unix seconds, weights: {version: percent}}.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report, indent=1, default=str) + "\n")
    figure = timeline(recorder, weights, report["deliveries"])
    figure.savefig(folder / "timeline.png", dpi=110)
    svg = io.StringIO()
    figure.savefig(svg, format="svg")
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    template = jinja2.Environment(loader=loader, autoescape=True).get_template("report.html.j2")
    page = template.render(report=report, picture=svg.getvalue()[svg.getvalue().index("<svg") :])
    (folder / "report.html").write_text(page)
    return folder / "report.html"


def timeline(recorder: Recorder, weights: list[dict[str, Any]], deliveries: list[dict[str, Any]]) -> Any:
    """Draw weights, error rate and p99 of every version over time, one above the other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.2), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    versions = recorder.versions()
    colours = {version: COLOURS[i % len(COLOURS)] for i, version in enumerate(versions)}
    zero = recorder.answers[0].scheduled_at if recorder.answers else 0.0
    last = recorder.answers[-1].scheduled_at - zero if recorder.answers else 1.0
    for version in versions:
        _draw_weight(top, version, weights, zero, last, colours[version])
        seconds = recorder.seconds(version)
        times = [second.at - zero for second in seconds]
        middle.plot(times, [100 * s.failed / s.requests for s in seconds], ".-", ms=3, lw=0.8, color=colours[version])
        bottom.plot(times, [s.p99_ms for s in seconds], ".", ms=3, color=colours[version], alpha=0.7)
    for item in deliveries:
        if item.get("detected_at"):
            for axis in (top, middle, bottom):
                axis.axvline(item["detected_at"] - zero, color="#a4243b", lw=0.8, ls=":")
            top.annotate("detected", (item["detected_at"] - zero, 50), color="#a4243b", fontsize=8)
    top.set_ylabel("share of traffic, %")
    top.set_ylim(-4, 104)
    if versions:
        top.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(versions), fontsize=8, frameon=False)
    middle.set_ylabel("failed requests, %")
    bottom.set_ylabel("p99 per second, ms")
    bottom.set_yscale("log")
    bottom.set_xlabel("seconds of live traffic")
    for axis in (top, middle, bottom):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", alpha=0.25)
    return figure


def _draw_weight(axis: Any, version: str, weights: list[dict[str, Any]], zero: float, last: float, colour: str) -> None:
    times, shares = [], []
    for change in weights:
        times.append(min(max(change["at"] - zero, 0.0), last))
        shares.append(change["weights"].get(version, 0))
    if times:
        axis.step([*times, last], [*shares, shares[-1]], where="post", color=colour, lw=1.8, label=version)


def clock(unix: float | None) -> str:
    """Return a Unix time as 12:34:56.7 in UTC, or a dash."""
    return f"{datetime.fromtimestamp(unix, UTC):%H:%M:%S.%f}"[:-5] if unix else "-"
