"""Alertmanager's webhook in, one rollback per alert out; whatever is not understood starts nothing."""

import json
import os
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from tidegate.clients.airflow import AirflowApi
from tidegate.clients.loopback import LoopbackServer
from tidegate.clients.relay import Order, Relay, orders
from tidegate.errors import DataError, Unavailable

TOKEN = {"Authorization": "Bearer right"}


def alert(status="firing", **changed):
    labels = {"alertname": "CandidateErrors", "delivery": "flights", "version": "flights-v3", "action": "rollback"}
    labels |= changed.pop("labels", {})
    return {
        "status": status,
        "labels": {name: value for name, value in labels.items() if value is not None},
        "annotations": {"summary": "candidate flights-v3\nfails 12% of its requests"},
        "startsAt": "2026-03-01T12:00:00.25+01:00",
        "endsAt": "0001-01-01T00:00:00Z",
        "fingerprint": "0123456789abcdef",
        **changed,
    }


def webhook(*alerts):
    return json.dumps({"version": "4", "status": "firing", "receiver": "relay", "alerts": alerts}).encode()


class FakeAirflow:
    def __init__(self):
        self.runs = {}
        self.away = None

    def trigger(self, dag_id, conf=None, run_id=None):
        if self.away:
            raise self.away
        self.runs.setdefault((dag_id, run_id), []).append(conf)


@pytest.fixture
def airflow():
    return FakeAirflow()


@pytest.fixture
def url(airflow):
    with LoopbackServer(0, "right", Relay(airflow)) as server:
        yield f"http://127.0.0.1:{server.port}/alerts"


def test_an_alert_is_an_order_named_by_its_fingerprint_and_start():
    ((order,), problems) = orders(webhook(alert()))
    assert problems == []
    assert order == Order(
        delivery="flights",
        candidate="flights-v3",
        run_id="alert__0123456789abcdef__20260301T110000Z",
        reason="alert CandidateErrors: candidate flights-v3 fails 12% of its requests",
    )


@pytest.mark.parametrize(
    "other",
    [alert(status="resolved"), alert(labels={"action": None}), alert(labels={"action": "page"})],
)
def test_only_firing_alerts_that_ask_for_a_rollback_start_one(other):
    assert orders(webhook(other)) == ([], [])


@pytest.mark.parametrize(
    "wrong",
    [
        {"labels": {"delivery": "../../etc"}},
        {"labels": {"delivery": "flights/../x"}},
        {"labels": {"delivery": "Flights"}},
        {"labels": {"delivery": "flights\n"}},
        {"labels": {"delivery": None}},
        {"labels": {"delivery": "planes"}},
        {"labels": {"version": "flights-vx"}},
        {"labels": {"version": None}},
        {"fingerprint": "../x"},
        {"startsAt": "yesterday"},
        {"startsAt": "2026-03-01T12:00:00"},
    ],
)
def test_an_alert_with_strange_names_starts_nothing_and_is_told(wrong):
    found, problems = orders(webhook(alert(**wrong)))
    assert found == []
    assert len(problems) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{not json",
        b"[]",
        b"{}",
        b'{"alerts": 3}',
        b'{"alerts": [3]}',
        b'{"alerts": [{"status": "firing"}]}',
        b'{"alerts": [{"status": "firing", "labels": []}]}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_malformed_body_is_refused(url, airflow, body):
    with pytest.raises(DataError, match="no webhook of Alertmanager"):
        orders(body)
    assert httpx.post(url, headers=TOKEN, content=body).status_code == 400
    assert airflow.runs == {}


def test_an_alert_starts_a_rollback_with_its_reason_and_its_candidate(url, airflow):
    assert httpx.post(url, headers=TOKEN, content=webhook(alert())).status_code == 200
    ((key, (conf,)),) = airflow.runs.items()
    assert key == ("rollback__flights", "alert__0123456789abcdef__20260301T110000Z")
    assert conf == {
        "reason": "alert CandidateErrors: candidate flights-v3 fails 12% of its requests",
        "candidate": "flights-v3",
    }


def test_repeats_of_an_alert_ask_for_the_same_run_and_a_later_one_for_another(url, airflow):
    for fraction in ("25", "250", "250000001"):
        httpx.post(url, headers=TOKEN, content=webhook(alert(startsAt=f"2026-03-01T12:00:00.{fraction}+01:00")))
    assert len(airflow.runs) == 1
    httpx.post(url, headers=TOKEN, content=webhook(alert(startsAt="2026-03-02T12:00:00Z")))
    assert len(airflow.runs) == 2


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eDp5"}])
def test_without_the_token_nothing_is_read(url, airflow, headers):
    assert httpx.post(url, headers=headers, content=webhook(alert())).status_code == 401
    assert airflow.runs == {}


def test_a_huge_body_is_refused_unread(url, airflow):
    answer = httpx.post(url, headers=TOKEN, content=b" " * 1_000_001)
    assert answer.status_code == 413
    assert "more than 1000000" in answer.text


def test_a_body_of_unknown_length_is_refused(url):
    assert httpx.post(url, headers=TOKEN, content=iter([webhook(alert())])).status_code == 411


@pytest.mark.parametrize(("method", "page"), [("GET", ""), ("POST", "/other")])
def test_there_is_one_page(url, method, page):
    assert httpx.request(method, url + page, headers=TOKEN, content=b"").status_code == 404


def test_while_airflow_is_away_alertmanager_is_told_to_try_again(url, airflow):
    airflow.away = Unavailable("Airflow at http://127.0.0.1:1 did not answer")
    assert httpx.post(url, headers=TOKEN, content=webhook(alert())).status_code == 502
    airflow.away = None
    assert httpx.post(url, headers=TOKEN, content=webhook(alert())).status_code == 200
    assert len(airflow.runs) == 1


@pytest.mark.parametrize("status", [401, 404, 500])
def test_an_airflow_that_refuses_is_asked_again(status):
    def answer(request):
        if request.url.path == "/auth/token" and status != 401:
            return httpx.Response(201, json={"access_token": "t"})
        return httpx.Response(status, text="no")

    api = AirflowApi("http://airflow", "admin", "very-secret", transport=httpx.MockTransport(answer))
    assert Relay(api)("POST", "/alerts", webhook(alert())).status == 502


def test_one_strange_alert_does_not_keep_the_others_from_being_started(url, airflow):
    answer = httpx.post(url, headers=TOKEN, content=webhook(alert(fingerprint="?"), alert()))
    assert answer.status_code == 400
    assert "fingerprint" in answer.text
    assert len(airflow.runs) == 1


def test_the_process_tells_neither_token_nor_password(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "token").write_text("very-secret-token\n")
    env = {
        **os.environ,
        "TIDEGATE_RELAY_PORT": str(port),
        "TIDEGATE_RELAY_TOKEN_FILE": str(tmp_path / "token"),
        "TIDEGATE_AIRFLOW": "http://127.0.0.1:1",
        "TIDEGATE_AIRFLOW_USER": "admin",
        "TIDEGATE_AIRFLOW_PASSWORD": "very-secret-password",
    }
    command = (sys.executable, "-m", "tidegate.clients.relay")
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    said = process.stderr.readline()
    headers = {"Authorization": "Bearer very-secret-token"}
    answer = httpx.post(f"http://127.0.0.1:{port}/alerts", headers=headers, content=webhook(alert()))
    httpx.post(f"http://127.0.0.1:{port}/alerts", headers={"Authorization": "Bearer x"}, content=webhook(alert()))
    process.send_signal(signal.SIGTERM)
    said += process.communicate(timeout=10)[1]
    assert process.returncode == 0
    assert answer.status_code == 502
    assert "rollback__flights" in said
    assert "very-secret" not in said


def test_a_missing_setting_is_named():
    env = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    ended = subprocess.run((sys.executable, "-m", "tidegate.clients.relay"), env=env, capture_output=True, text=True)
    assert ended.returncode != 0
    assert "TIDEGATE_AIRFLOW_USER is not set" in ended.stderr
