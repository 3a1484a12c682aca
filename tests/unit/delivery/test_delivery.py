"""A delivery file: defaults for what a user leaves out, and a named place for each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tidegate import schemas
from tidegate.delivery import RolloutSpec, delivery_named, project_root, read_delivery, share_sampled
from tidegate.units import utc
from tidegate.yamlfile import SpecProblems

TEXT = (project_root() / "schemas" / "deliveries" / "flights.yaml").read_text()


def write(folder: Path, old: str = "", new: str = "") -> Path:
    assert old in TEXT
    path = folder / "flights.yaml"
    path.write_text(TEXT.replace(old, new, 1))
    return path


def test_the_examples_delivery_is_read_with_units_parsed() -> None:
    delivery = delivery_named("flights")

    assert delivery.sources["weather"].kafka is not None
    assert delivery.sources["weather"].kafka.lateness == 600.0
    assert [stage.weight for stage in delivery.rollout.stages] == [0.1, 0.5, 1.0]
    assert delivery.dataset.test_length == "1 month"
    assert delivery.gate.rate == 100.0
    assert delivery.model_of(None) == ("model.py", "build")


def test_only_a_declared_model_can_be_asked_for() -> None:
    delivery = delivery_named("flights")

    assert delivery.model_of("model:build_by_flight_number") == ("model.py", "build_by_flight_number")
    with pytest.raises(ValueError, match="not declared"):
        delivery.model_of("os:system")


@pytest.mark.parametrize(
    ("old", "new", "field", "value", "remedy"),
    [
        ("window: 1 month", "window: 1 fortnight", "window", "'1 fortnight'", "1 month"),
        ("window: 1 month", "window: 5 hours", "(file)", "", "1 hour"),
        (
            "target: onnx",
            "target: savedmodel",
            "(file)",
            "",
            "set optimise.target to onnx, or serve.server to tfserving",
        ),
        (
            "server: triton",
            "server: tfserving",
            "(file)",
            "",
            "optimise.target to savedmodel, or serve.server to triton",
        ),
        ("retrain: {kafka: {connection: events, topic: retrain}, ", "retrain: {", "retrain", "", "add kafka:"),
        ("lateness: 10m", "lateness: soon", "sources.weather.kafka.lateness", "'soon'", "10m"),
        ("weight: 50%", "weight: 5%", "rollout", "", "10%, 50%, 100%"),
        ("weight: 50%", "mirror: 50%", "rollout", "", "as in mirror, 10%, 50%, 100%"),
        ("weight: 50%,", "weight: 50%, mirror: 50%,", "rollout.stages.1", "", "keep one of them"),
        ("requests: 150,", "requests: 15000,", "rollout", "", "ask for fewer, or give it more time"),
        ("at_least: 5s", "at_least: 5s, at_most: 2s", "rollout.stages.2", "", "raise at_most"),
        ("deadline: 10m", "deadline: 20s", "rollout", "", "raise the deadline"),
        (
            "  lease: 30s",
            "  lease: 30s\n  quality: {}",
            "rollout.quality",
            "",
            "add predictions, disagreement or labels",
        ),
        ("  lease: 30s", "  lease: 30s\n  quality: {disagreement: {}}", "rollout", "", "begin with a stage such as"),
        (
            "  lease: 30s",
            "  lease: 30s\n  quality: {predictions: {at_least: 2000}}",
            "(file)",
            "",
            "raise serve.sample",
        ),
        ("false_alarms: 1%", "false_alarms: 0%", "rollout.false_alarms", "", ""),
        ("weight: 100%", "weight: 90%", "rollout", "", "10%, 50%, 100%"),
        ("errors: 1%,", "erors: 1%,", "rollout.limits.erors", "'erors'", "spelling"),
        ("delivery: flights", "delivery: Flights", "delivery", "'Flights'", ""),
        ("delivery: flights", "delivery: trains", "delivery", "'trains'", "write flights"),
        ("path: /reference/planes", "path: reference/planes", "sources.planes.hdfs.path", "'reference/planes'", ""),
        ("label: late, ", "", "dataset.label", "'nothing'", "add it"),
        ("workers: 2", "workers: 0", "train.workers", "0", ""),
        ("p99: 3x", "p99: 0.5x", "rollout.versus_champion.p99", "", ""),
    ],
)
def test_a_mistake_names_field_line_value_and_remedy(
    tmp_path: Path, old: str, new: str, field: str, value: str, remedy: str
) -> None:
    path = write(tmp_path, old, new)
    with pytest.raises(SpecProblems) as caught:
        read_delivery(path)

    wanted = [problem for problem in caught.value.problems if problem.field == field]
    assert wanted
    problem = wanted[0]
    assert problem.file == str(path)
    if value and value != "'nothing'":
        assert problem.value == value
        line = path.read_text().splitlines()[problem.line - 1]
        assert value.strip("'") in line
    assert remedy in problem.remedy


def test_a_stage_whose_requests_cannot_come_in_time_is_told_with_the_sum(tmp_path: Path) -> None:
    with pytest.raises(SpecProblems) as caught:
        read_delivery(write(tmp_path, "requests: 150,", "requests: 15000,"))
    assert "stage 10 asks for 15000 requests; at 150/s they take 1000 s, its time is 600 s" in str(caught.value)


def test_a_careful_default_is_there_for_all_that_a_rollout_needs() -> None:
    spec = RolloutSpec()
    assert [(stage.percent, stage.at_least) for stage in spec.stages] == [(10, 60.0), (50, 60.0), (100, 60.0)]
    assert (spec.false_alarms, spec.bake, spec.deadline, spec.lease) == (0.01, 600.0, 3600.0, 15.0)


def test_callers_are_kept_on_a_version_by_a_header_or_a_cookie(tmp_path: Path) -> None:
    path = write(tmp_path, "keep: 3}", "keep: 3, sticky: {cookie: session}, pin: x-version}")
    serve = read_delivery(path).serve
    assert serve.sticky is not None
    assert (serve.sticky.cookie, serve.sticky.header, serve.pin) == ("session", None, "x-version")
    with pytest.raises(SpecProblems, match="exactly one of header, cookie"):
        read_delivery(write(tmp_path, "keep: 3}", "keep: 3, sticky: {cookie: session, header: x-user}}"))


def test_a_source_in_two_places_is_refused(tmp_path: Path) -> None:
    two = "hdfs: {connection: lake, path: /reference/planes}, kafka: {connection: events, topic: t}"
    with pytest.raises(SpecProblems, match=r"sources\.planes: a source has exactly one.*keep one"):
        read_delivery(write(tmp_path, "hdfs: {connection: lake, path: /reference/planes}", two))


def test_a_table_is_read_by_a_key_from_a_first_window_on(tmp_path: Path) -> None:
    delivery = read_delivery(write(tmp_path, "time: time_hour", "key: id, since: 2013-01-01, after: 7"))
    table = delivery.sources["flights"].postgres
    assert table is not None
    assert (table.key, table.since, table.after, table.time) == ("id", utc("2013-01-01"), 7, None)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("time: time_hour, key: id, since: 2013-01-01", "exactly one of time, key"),
        ("patience: 1m", "exactly one of time, key"),
        ("key: id", "since: 2013-01-01"),
        ("time: time_hour, since: 2013-01-01", "leave since out"),
        ("time: time_hour, after: 7", "leave it out"),
        ("key: id, since: yesterday", "since"),
    ],
)
def test_a_table_without_a_clear_begin_of_its_windows_is_refused(tmp_path: Path, written: str, message: str) -> None:
    with pytest.raises(SpecProblems, match=message):
        read_delivery(write(tmp_path, "time: time_hour", written))


def test_tensorflow_serving_keeps_no_sample_to_judge_from(tmp_path: Path) -> None:
    served = TEXT.replace("target: onnx", "target: savedmodel").replace("server: triton", "server: tfserving")
    path = tmp_path / "flights.yaml"
    path.write_text(served)
    assert read_delivery(path).serve.protocol == "tfserving"
    path.write_text(served.replace("keep: 3}", "keep: 3, sample: 10%}"))
    with pytest.raises(SpecProblems, match=r"keeps no sample .*leave both out, or set serve\.server to triton"):
        read_delivery(path)


def test_the_exported_schema_is_what_the_models_say() -> None:
    for name, text in schemas.exported().items():
        kept = (project_root() / "schemas" / name).read_text(encoding="utf-8")
        assert json.loads(kept) == json.loads(text), "run `python -m tidegate.schemas`"


def test_schemas_are_written_where_asked(tmp_path: Path) -> None:
    written = {path.name: json.loads(path.read_text())["title"] for path in schemas.write(tmp_path)}
    assert written == {
        "delivery.schema.json": "Delivery",
        "contract.schema.json": "Open Data Contract Standard (ODCS)",
    }


QUALITY = (
    "\n  quality: {predictions: {differ: 20%, at_least: 100}, labels: {kafka: {connection: c, topic: t}, worse: 3%}}"
)


def test_quality_is_read_with_its_units_and_absent_by_default(tmp_path: Path) -> None:
    quality = read_delivery(write(tmp_path, "  lease: 30s", f"  lease: 30s{QUALITY}")).rollout.quality

    assert quality is not None
    assert quality.predictions is not None
    assert (quality.predictions.differ, quality.predictions.at_least) == (0.2, 100)
    assert quality.labels is not None
    assert (quality.labels.kafka.topic, quality.labels.worse) == ("t", pytest.approx(0.03))
    assert quality.disagreement is None
    assert delivery_named("flights").rollout.quality is None


def test_quality_without_a_sample_is_a_mistake(tmp_path: Path) -> None:
    path = write(tmp_path, "  lease: 30s", f"  lease: 30s{QUALITY}")
    path.write_text(path.read_text().replace("keep: 3}", "keep: 3, sample: 0%}"))
    with pytest.raises(SpecProblems, match=r"serve\.sample is 0%"):
        read_delivery(path)


def test_samples_that_cannot_come_in_a_stages_time_are_a_mistake_with_the_sums(tmp_path: Path) -> None:
    asks = "\n  quality: {predictions: {at_least: 1000}}"
    with pytest.raises(
        SpecProblems, match=r"stage 10 waits for 1000 sampled predictions; at 15/s sampled they take 667 s"
    ):
        read_delivery(write(tmp_path, "  lease: 30s", f"  lease: 30s{asks}"))


def test_a_file_that_is_gone_or_wrong_keeps_no_sample_and_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_DELIVERIES", str(tmp_path))
    assert share_sampled("flights") == 0.0
    write(tmp_path, "window: 1 month", "window: often")
    assert share_sampled("flights") == 0.0
    write(tmp_path, "keep: 3}", "keep: 3}")
    assert share_sampled("flights") == 0.0, "raw values are kept only where a delivery asks for it"
    write(tmp_path, "  lease: 30s", "  lease: 30s\n  quality: {predictions: {}}")
    assert share_sampled("flights") == 0.1
    write(tmp_path, "keep: 3}", "keep: 3, sample: 25%}")
    assert share_sampled("flights") == 0.25
