"""The run's window, errors in Airflow's terms, and triggers that survive serialisation."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from operators.support import resolve_window, stage_errors
from operators.triggers.requests import KafkaRequestTrigger
from operators.triggers.rollout import StageTrigger
from operators.triggers.workload import WorkloadTrigger
from tidegate.errors import DataError, SpecError, Unavailable


def context(params=None, start=None, end=None):
    run = SimpleNamespace(data_interval_start=start, data_interval_end=end, run_id="run", partition_key=None)
    return {"params": params or {}, "dag_run": run}


def test_the_form_s_window_wins_over_the_data_interval():
    found = resolve_window(
        context(
            {"window_start": "2013-01-01", "window_end": "2013-02-01"},
            datetime(2014, 1, 1, tzinfo=UTC),
            datetime(2014, 2, 1, tzinfo=UTC),
        )
    )
    assert found.id == "20130101T000000Z-20130201T000000Z"


def test_a_run_without_a_data_interval_has_no_window():
    with pytest.raises(SpecError, match="has no data interval"):
        resolve_window(context())


def test_a_zero_width_data_interval_is_no_window():
    moment = datetime(2013, 1, 1, tzinfo=UTC)
    with pytest.raises(SpecError, match="is empty"):
        resolve_window(context(start=moment, end=moment))


def test_half_a_window_in_the_form_is_refused():
    with pytest.raises(SpecError, match="belong together"):
        resolve_window(context({"window_start": "2013-01-01"}))


def test_permanent_errors_fail_at_once_and_retryable_ones_are_retried():
    with pytest.raises(AirflowFailException, match="DataError: lost"), stage_errors():
        raise DataError("lost")
    with pytest.raises(AirflowException) as caught, stage_errors():
        raise Unavailable("away")
    assert not isinstance(caught.value, AirflowFailException)


@pytest.mark.parametrize(
    "trigger",
    [
        WorkloadTrigger("local", "train-flights-1"),
        KafkaRequestTrigger("events", "retrain", "group"),
        StageTrigger("flights", "rollout__flights/r", {"holder": "h"}),
    ],
)
def test_a_trigger_is_made_again_from_what_it_serialises(trigger):
    import importlib

    path, kwargs = trigger.serialize()
    module, _, name = path.rpartition(".")
    again = getattr(importlib.import_module(module), name)(**kwargs)
    assert again.serialize() == (path, kwargs)
    assert not any("password" in key or "secret" in key for key in kwargs)
