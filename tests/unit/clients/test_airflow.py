"""Airflow's REST API: tokens are renewed, repeated triggers find the run, refusals and outages are named."""

from __future__ import annotations

import httpx
import pytest

from tidegate.clients.airflow import AirflowApi
from tidegate.errors import DataError, Unavailable

RUN = {"dag_id": "d", "dag_run_id": "r", "state": "success", "partition_key": "p"}


def api(handler) -> AirflowApi:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/auth/token":
            return httpx.Response(201, json={"access_token": "token"})
        return handler(request)

    return AirflowApi("http://airflow", "admin", "secret", transport=httpx.MockTransport(answer))


def test_an_expired_token_is_renewed_once():
    seen = []

    def handler(request):
        seen.append(request.headers["Authorization"])
        return httpx.Response(401 if len(seen) == 1 else 200, json=RUN)

    assert api(handler).run("d", "r").ended
    assert len(seen) == 2


def test_triggering_an_existing_run_returns_it():
    def handler(request):
        return httpx.Response(409, json={}) if request.method == "POST" else httpx.Response(200, json=RUN)

    assert api(handler).trigger("d", {}, "r").partition == "p"


def test_a_refused_run_carries_airflows_own_words():
    with pytest.raises(DataError, match="window_start is no date"):
        api(lambda request: httpx.Response(422, text="window_start is no date")).trigger("d", {})


def test_an_absent_result_is_none():
    assert api(lambda request: httpx.Response(404, json={})).result("d", "r", "t") is None


def test_an_airflow_that_is_away_is_named_with_the_time_out_and_without_the_password():
    def handler(request):
        raise httpx.ConnectError("refused")

    with pytest.raises(Unavailable, match=r"http://airflow did not answer within 10 s") as caught:
        api(handler).dags()
    assert "secret" not in str(caught.value)


def test_waiting_ends_at_its_limit_and_says_the_state():
    with pytest.raises(Unavailable, match="is running after 0 s"):
        api(lambda request: httpx.Response(200, json={**RUN, "state": "running"})).wait("d", "r", 0.0, 0.01)
