"""The ingest operators' alert: what is said of quarantined rows, and when nothing is said."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowSkipException

from operators.ingest import AlertOperator, PublishOperator
from operators.support import quarantine_asset, slices_asset
from tidegate.handoff import Slice, ValidatedSlice, Window

JANUARY = Window(start="2013-01-01", end="2013-02-01")


def validated(source, read, reasons, examples=None):
    part = Slice(
        delivery="flights", source=source, contract=source, window=JANUARY, key="k", rows=read, digest="d", position={}
    )
    bad = sum(reasons.values())
    whole = ValidatedSlice(
        slice=part, key="k", clean=read - bad, quarantined=bad, reasons=reasons, digest="d", examples=examples or {}
    )
    return whole.model_dump(mode="json")


def context(pulled, asset):
    event = SimpleNamespace(extra=None)
    return {"ti": SimpleNamespace(xcom_pull=lambda task_ids: pulled), "outlet_events": {asset: event}}, event


def alert():
    return AlertOperator(task_id="alert", delivery="flights", validate_tasks=["flights.validate", "weather.validate"])


def test_an_alert_names_only_the_sources_with_quarantined_rows():
    rows = [validated("flights", 10, {"tailnum:pattern": 2}), validated("weather", 5, {})]
    given, event = context(rows, quarantine_asset("flights"))
    told = alert().execute(given)
    assert event.extra == told
    assert told["window"] == JANUARY.id
    assert {name: (c["read"], c["quarantined"], c["reasons"]) for name, c in told["sources"].items()} == {
        "flights": (10, 2, {"tailnum:pattern": 2})
    }


def test_an_alert_names_the_reasons_of_most_rows_with_a_place_and_a_value_each():
    reasons = {"a:required": 1, "b:minimum": 9, "c:pattern": 5, "d:enum": 2}
    examples = {reason: {"position": f"w/0/{n}", "value": f"value {n}"} for n, reason in enumerate(reasons)}
    given, event = context([validated("weather", 20, reasons, examples)], quarantine_asset("flights"))
    alert().execute(given)
    told = event.extra["sources"]["weather"]
    assert told["reasons"] == reasons
    assert told["examples"] == {reason: examples[reason] for reason in ("b:minimum", "c:pattern", "d:enum")}
    assert told["said"] == (
        "9 rows for b:minimum, such as w/0/1: value 1; 5 rows for c:pattern, such as w/0/2: value 2; "
        "2 rows for d:enum, such as w/0/3: value 3; and 1 more reasons"
    )


def test_a_source_that_failed_does_not_hide_the_others_quarantine():
    given, event = context([None, validated("weather", 5, {"time_hour:lexical_form": 1})], quarantine_asset("flights"))
    alert().execute(given)
    assert list(event.extra["sources"]) == ["weather"]


@pytest.mark.parametrize("pulled", [[validated("flights", 10, {}), validated("weather", 0, {})], [None, None]])
def test_nothing_is_alerted_where_no_row_is_quarantined(pulled):
    given, event = context(pulled, quarantine_asset("flights"))
    with pytest.raises(AirflowSkipException):
        alert().execute(given)
    assert event.extra is None


def test_a_window_is_published_with_the_counts_of_all_its_sources():
    rows = [validated("flights", 10, {"tailnum:pattern": 2}), validated("weather", 5, {})]
    given, event = context(rows, slices_asset("flights"))
    publish = PublishOperator(task_id="publish", delivery="flights", validate_tasks=["a", "b"])
    assert publish.execute(given) == event.extra
    assert {name: c["clean"] for name, c in event.extra["sources"].items()} == {"flights": 8, "weather": 5}
