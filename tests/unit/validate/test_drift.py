"""What a distance means: limits, severities, words; and which windows were stopped."""

from __future__ import annotations

from pathlib import Path

from tidegate import keys
from tidegate.handoff import Window
from tidegate.lake import Lake
from tidegate.validate.drift import Baseline, Limit, judged, stopped, table

CHAMPION = Baseline(kind="champion", name="champion d-v1", parts=[])
PREVIOUS = Baseline(kind="previous", name="slice of 2013-01-01", parts=[])
LIMITS = [
    Limit(feature="c", measure="linfty", limit=limit, severity=severity)
    for limit, severity in ((0.5, "stop"), (0.1, "warn"), (0.3, "retrain"))
]


def severity(distance: float, baseline: Baseline = CHAMPION) -> tuple[float | None, str | None]:
    (found,) = judged("s", baseline, {("c", "linfty"): distance}, LIMITS)
    return found.limit, found.severity


def test_the_most_severe_limit_below_a_distance_counts_and_a_limit_itself_is_still_allowed() -> None:
    assert severity(0.1) == (0.1, None)
    assert severity(0.11) == (0.1, "warn")
    assert severity(0.31) == (0.3, "retrain")
    assert severity(0.9) == (0.5, "stop")


def test_the_slice_before_never_asks_for_a_new_model_but_may_stop() -> None:
    assert severity(0.31, PREVIOUS) == (0.3, "warn")
    assert severity(0.9, PREVIOUS) == (0.5, "stop")


def test_a_feature_or_measure_without_a_limit_is_shown_and_breaks_nothing() -> None:
    found = judged("s", CHAMPION, {("c", "jensenShannon"): 1.0, ("x", "linfty"): 1.0}, LIMITS)
    assert [(each.limit, each.severity) for each in found] == [(None, None)] * 2


def test_a_breach_is_said_in_plain_words() -> None:
    found = judged("s", CHAMPION, {("c", "linfty"): 0.345678}, LIMITS)
    assert found[0].sentence() == "s.c lies 0.346 (L-infinity, limit 0.3) from champion d-v1: retrain"
    assert table(found).splitlines() == [
        "feature  measure  distance  limit  baseline",
        "s.c      linfty   0.346     0.3    champion d-v1  RETRAIN",
    ]


def test_only_the_revision_that_was_stopped_is_stopped(tmp_path: Path) -> None:
    lake, window = Lake(tmp_path.as_uri()), Window(start="2013-01-01", end="2013-02-01")
    name = f"s/{window.id}"
    assert stopped(lake, {name: "abc"}, "d") == {}
    with lake.publish(keys.report("d", window), stopped={"s": {"digest": "abc", "said": ["s.a: stop", "s.b: stop"]}}):
        pass
    assert stopped(lake, {name: "abc", f"other/{window.id}": "abc"}, "d") == {name: "s.a: stop; s.b: stop"}
    assert stopped(lake, {name: "mended"}, "d") == {}
