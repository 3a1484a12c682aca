"""What follows from drift: who is asked for a new model and who is not, what is not published, which pages are read."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from operators import pages
from operators.deliveries import stops_on_drift
from operators.ingest import PublishOperator
from operators.links import DATA_DOCS, DRIFT_REPORT, FACETS
from operators.requests import parse_request
from operators.support import drift_asset
from operators.watch import DriftOperator, WatchOperator, refusal, requests_of
from tidegate.delivery import delivery_named, project_root
from tidegate.handoff import Window
from tidegate.lake import Lake
from tidegate.validate.drift import Distance, WatchReport

FLIGHTS = delivery_named("flights")
APRIL = Window(start="2013-04-01", end="2013-05-01")
QUIET = FLIGHTS.model_copy(update={"retrain": FLIGHTS.retrain.model_copy(update={"on_drift": False})})


def breach(source="flights", feature="carrier", severity="retrain"):
    return Distance(
        source=source, feature=feature, measure="linfty", distance=0.9, baseline="champion flights-v1",
        kind="champion", limit=0.2, severity=severity,
    )  # fmt: skip


def report(*breaches):
    return WatchReport(
        delivery="flights", window=APRIL, key="reports/flights/x", digest="d", compared=9, breaches=list(breaches)
    )


def champion(start="2013-01-01", end="2013-04-01"):
    return SimpleNamespace(name="flights-v1", dataset=SimpleNamespace(window=Window(start=start, end=end)))


def test_a_request_is_named_after_source_and_window_and_trains_up_to_it():
    mild = breach("planes", "x", "warn")
    one, two = requests_of(FLIGHTS, report(breach(), breach(feature="origin"), breach("weather"), mild))
    assert (one.request_id, two.request_id) == (f"drift-flights-{APRIL.id}", f"drift-weather-{APRIL.id}")
    assert one.window == Window(start="2013-02-01", end="2013-05-01")
    assert one.source == "drift"
    assert "flights.carrier lies 0.900" in one.reason
    assert "flights.origin" in one.reason


def test_its_message_is_drained_as_what_it_is():
    (sent,) = requests_of(FLIGHTS, report(breach()))
    body = sent.model_dump_json(exclude={"delivery"}, exclude_none=True)
    message = {"topic": "retrain", "partition": 0, "offset": 7, "value": body}
    assert parse_request(FLIGHTS, message, None) == sent


def test_no_new_model_is_asked_for_old_news_without_a_champion_or_unasked():
    assert refusal(FLIGHTS, APRIL, champion()) is None
    newer = champion(end="2013-05-01")
    assert "is not newer than what flights-v1 was trained on" in (refusal(FLIGHTS, APRIL, newer) or "")
    assert "no champion" in (refusal(FLIGHTS, APRIL, None) or "")
    assert "on_drift" in (refusal(QUIET, APRIL, champion()) or "")


def test_a_window_within_its_limits_raises_no_event():
    given = {"ti": SimpleNamespace(xcom_pull=lambda task_ids: report().model_dump(mode="json"))}
    with pytest.raises(AirflowSkipException):
        DriftOperator(task_id="drift", delivery="flights", watch_task="watch").execute(given)


def test_a_warning_raises_the_event_with_words_and_figures_and_asks_for_nothing():
    event = SimpleNamespace(extra=None)
    pulled = report(breach(severity="warn")).model_dump(mode="json")
    given = {
        "ti": SimpleNamespace(xcom_pull=lambda task_ids: pulled),
        "outlet_events": {drift_asset("flights"): event},
    }
    told = DriftOperator(task_id="drift", delivery="flights", watch_task="watch").execute(given)
    assert event.extra == told
    assert told["requests"] == []
    assert told["said"] == ["flights.carrier lies 0.900 (L-infinity, limit 0.2) from champion flights-v1: warn"]


def test_a_window_that_a_contract_stops_is_not_published():
    pulled = report(breach(severity="stop")).model_dump(mode="json")
    given = {"ti": SimpleNamespace(xcom_pull=lambda task_ids: pulled)}
    publish = PublishOperator(task_id="publish", delivery="flights", validate_tasks=[], watch_task="watch")
    with pytest.raises(AirflowFailException, match=r"not published: flights\.carrier lies 0\.900 .*: stop\. Look at"):
        publish.execute(given)


def test_publication_waits_for_the_watch_only_where_a_contract_may_stop_it(tmp_path, monkeypatch):
    folder = project_root() / "schemas" / "contracts"
    for path in folder.glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.setenv("TIDEGATE_CONTRACTS", str(tmp_path))
    assert not stops_on_drift(FLIGHTS)
    text = (tmp_path / "flights.yaml").read_text()
    (tmp_path / "flights.yaml").write_text(text.replace("{warn: 0.05, retrain: 0.2}", "{warn: 0.05, stop: 0.2}"))
    assert stops_on_drift(FLIGHTS)
    (tmp_path / "flights.yaml").write_text("stop: [")
    assert not stops_on_drift(FLIGHTS), "a broken contract is said elsewhere, and takes no DAG away"


def test_links_open_the_report_of_the_task_s_own_result():
    watch = WatchOperator(task_id="watch", delivery="flights", validate_tasks=[])
    ti = SimpleNamespace(xcom_pull=lambda task_ids: report().model_dump(mode="json") if task_ids == "watch" else None)
    links = {each.name: each.get_link(watch, ti_key=ti) for each in watch.operator_extra_links}
    assert links == {
        "Drift at a glance": "/tidegate/reports/flights/x/index.html",
        "TFDV facets": "/tidegate/reports/flights/x/facets.html",
        "Great Expectations data docs": "/tidegate/reports/flights/x/data_docs/index.html",
    }
    assert len({each.xcom_key for each in (DRIFT_REPORT, FACETS, DATA_DOCS)}) == 3
    assert DRIFT_REPORT.get_link(watch, ti_key=SimpleNamespace(xcom_pull=lambda task_ids: None)) == ""


def test_only_pages_that_a_report_lists_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("TIDEGATE_LAKE", tmp_path.as_uri())
    lake = Lake(tmp_path.as_uri())
    with lake.publish(f"reports/flights/{APRIL.id}") as draft:
        draft.file("index.html").write_text("seen")
        draft.file("data_docs/index.html").write_text("docs")
        draft.file("distances.json").write_text("{}")
    (tmp_path / "secret.html").write_text("no")
    assert pages.read("flights", APRIL.id, "index.html") == b"seen"
    assert pages.read("flights", APRIL.id, "data_docs/index.html") == b"docs"
    for delivery, window, name in (
        ("flights", APRIL.id, "distances.json"),
        ("flights", APRIL.id, "../../../secret.html"),
        ("flights", APRIL.id, "/etc/passwd.html"),
        ("..", APRIL.id, "index.html"),
        ("flights", "..", "index.html"),
        ("flights", f"{APRIL.id}\n", "index.html"),
        ("other", APRIL.id, "index.html"),
    ):
        assert pages.read(delivery, window, name) is None, (delivery, window, name)


def test_pages_are_of_no_origin_and_only_facets_may_run_scripts():
    assert pages.headers("index.html")["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
    assert "script" not in pages.headers("data_docs/index.html")["Content-Security-Policy"]
    facets = pages.headers("facets.html")["Content-Security-Policy"]
    assert facets.startswith("sandbox allow-scripts;")
    assert "allow-same-origin" not in facets
