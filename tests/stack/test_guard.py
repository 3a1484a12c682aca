"""The guard and the relay on the real services: owners die, Postgres freezes, the guard itself freezes and dies."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from datetime import UTC, datetime

import httpx
import psutil
import pytest
import yaml

from tidegate.clients.airflow import AirflowApi
from tidegate.clients.envoy import EnvoyTraffic
from tidegate.clients.ledger import Ledger
from tidegate.stack import daemon

pytestmark = pytest.mark.stack

LEASE_S = 3
OWNER = f"""
import os, time
from tidegate.clients.ledger import Ledger
ledger = Ledger(os.environ["TIDEGATE_DB"])
holder, floor = f"an owner {{os.getpid()}}", int(os.environ["FLOOR"])
lease = ledger.acquire(os.environ["DELIVERY"], holder, {LEASE_S}, floor=floor, seize=True)
print(lease.fence, flush=True)
while True:
    time.sleep(0.5)
    lease = ledger.renew(lease, {LEASE_S})
"""


def until(holds, within_s=20.0):
    deadline = time.monotonic() + within_s
    while not (value := holds()):
        assert time.monotonic() < deadline, f"did not happen within {within_s} s"
        time.sleep(0.02)
    return value


def started(stack, code_or_module, **env):
    """A process of ours in the stack's own environment."""
    command = (sys.executable, *code_or_module)
    everything = {**daemon.environment(stack), "TIDEGATE_DB": stack.postgres_dsn("tidegate"), **env}
    return subprocess.Popen(command, env=everything, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def delivery():
    return f"t{uuid.uuid4().hex[:10]}"


@pytest.fixture
def traffic(stack):
    return EnvoyTraffic(stack.paths.xds, stack.url("envoy-admin"))


@pytest.fixture
def ledger(stack):
    return Ledger(stack.postgres_dsn("tidegate"))


@pytest.fixture
def owner(stack, traffic, delivery):
    """Starts owners of the delivery's lease, which renew it until they are killed; gives (process, fence)."""
    processes = []

    def start():
        process = started(stack, ("-c", OWNER), DELIVERY=delivery, FLOOR=str(traffic.read(delivery).fence))
        processes.append(process)
        return process, int(process.stdout.readline())

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def on_trial(traffic, delivery, fence):
    """Give a candidate 10% under this fence; both versions' servers are only names here."""
    champion, candidate = f"{delivery}-v1", f"{delivery}-v2"
    for port, name in enumerate((champion, candidate), start=1):
        traffic.route(delivery, name, f"127.0.0.1:{port}")
    revision, weights = traffic.read(delivery).revision, {champion: 90, candidate: 10}
    split = traffic.write(delivery, weights, champion=champion, expected=revision, fence=fence)
    traffic.confirm(delivery, weights)
    return split


class GuardPage:
    """The figures of one guard process."""

    def __init__(self, stack, port):
        self._url = f"http://127.0.0.1:{port}/metrics"
        self._headers = {"Authorization": f"Bearer {stack.secrets['guard']}"}

    def value(self, name, **labels):
        shown = "".join(f',?{key}="{value}"' for key, value in labels.items())
        text = httpx.get(self._url, headers=self._headers).text
        (found,) = re.findall(rf"^{name}(?:\{{{shown}\}})? (\S+)$", text, re.MULTILINE)
        return float(found)

    def aborts(self, delivery):
        return self.value("tidegate_guard_aborts_total", delivery=delivery)

    def looks_again(self, seconds=3.0):
        """Return once a look was completed so many seconds from now."""
        since = time.time() + seconds
        until(lambda: self.value("tidegate_guard_heartbeat_timestamp_seconds") > since)


@pytest.fixture
def guard(stack):
    return GuardPage(stack, stack.ports["guard"])


@pytest.fixture
def second_guard(stack, tmp_path):
    process = started(
        stack,
        ("-m", "tidegate.guard"),
        TIDEGATE_ENVOY_XDS=str(stack.paths.xds),
        TIDEGATE_GUARD_STATE=str(tmp_path / "second.json"),
        TIDEGATE_GUARD_PORT="0",
        TIDEGATE_GUARD_TOKEN_FILE=str(stack.paths.guard_token),
    )
    port = re.search(r"figures on 127\.0\.0\.1:(\d+)", process.stderr.readline())[1]
    yield GuardPage(stack, port)
    process.terminate()
    process.communicate(timeout=10)


@pytest.fixture
def frozen(stack):
    """Freezes a service of the stack, with all its children, until told otherwise or the test ends."""
    stopped = []

    def freeze(name):
        process = psutil.Process(daemon.supervision(stack).states()[name].pid)
        family = [process, *process.children(recursive=True)]
        for one in family:
            one.suspend()
        stopped.extend(family)

    def thaw():
        for one in stopped:
            if one.is_running():
                one.resume()
        stopped.clear()

    freeze.thaw = thaw
    yield freeze
    thaw()


@pytest.mark.parametrize("postgres", ["up", "frozen"])
def test_a_dead_owners_candidate_is_off_the_traffic_within_its_lease(traffic, guard, delivery, owner, frozen, postgres):
    took = []
    for _ in range(3):
        process, fence = owner()
        on_trial(traffic, delivery, fence)
        guard.looks_again(1.5)  # it has seen the candidate and heard of the lease
        killed = time.monotonic()
        os.kill(process.pid, signal.SIGKILL)
        if postgres == "frozen":
            frozen("postgres")
        until(lambda: traffic.applied(delivery) == {f"{delivery}-v1": 100})
        took.append(time.monotonic() - killed)
        frozen.thaw()
        assert traffic.read(delivery).cause.startswith("guard: the lease of an owner")
    print(f"Postgres {postgres}: SIGKILL of the owner to the champion at 100% at Envoy, lease {LEASE_S} s: {took} s")
    assert min(took) > LEASE_S / 2  # the owner renewed it up to a second before it died
    assert max(took) < 3 * LEASE_S  # the figure is printed; a guard that waits for its patience of 15 s fails


def test_two_guards_make_one_change_and_then_leave_it(traffic, ledger, guard, second_guard, delivery):
    lease = ledger.acquire(delivery, "an owner that dies", LEASE_S)
    split = on_trial(traffic, delivery, lease.fence)
    until(lambda: not traffic.read(delivery).candidates)
    for page in (guard, second_guard):
        page.looks_again()
    after = traffic.read(delivery)
    assert (after.revision, after.fence) == (split.revision + 1, split.fence + 1)
    assert guard.aborts(delivery) + second_guard.aborts(delivery) == 1
    until(lambda: ledger.events(delivery))
    assert [(event.kind, event.actor) for event in ledger.events(delivery)] == [("aborted", "guard")]


def test_a_guard_that_died_while_postgres_is_frozen_acts_by_what_it_kept(
    stack, traffic, guard, delivery, owner, frozen
):
    _, fence = owner()
    on_trial(traffic, delivery, fence)
    guard.looks_again(1.5)
    frozen("postgres")
    control = daemon.supervision(stack)
    pid = control.states()["guard"].pid
    os.kill(pid, signal.SIGKILL)
    until(lambda: traffic.applied(delivery) == {f"{delivery}-v1": 100})
    assert control.states()["guard"].pid not in (0, pid)
    assert traffic.read(delivery).cause.startswith("guard: the lease of an owner")


def alerts(stack, name):
    found = httpx.get(stack.url("alertmanager") + "/api/v2/alerts", params={"filter": f'alertname="{name}"'}).json()
    return [alert for alert in found if alert["status"]["state"] == "active"]


def test_a_frozen_guard_is_reported_and_takes_nothing_away_when_it_wakes(
    stack, traffic, guard, delivery, owner, frozen
):
    _, fence = owner()
    split = on_trial(traffic, delivery, fence)
    guard.looks_again(1.5)
    begun = time.monotonic()
    frozen("guard")
    until(lambda: alerts(stack, "GuardSilent"), 40)
    took = time.monotonic() - begun
    print(f"SIGSTOP of the guard to GuardSilent at Alertmanager: {took:.1f} s")
    assert took > 2 * LEASE_S  # by what it knows, the lease ran out long ago
    frozen.thaw()
    guard.looks_again(5)
    assert traffic.read(delivery) == split
    assert guard.aborts(delivery) == 0


@pytest.fixture
def airflow(stack):
    api = AirflowApi(stack.url("airflow"), *stack.airflow_login)
    until(lambda: "rollback__flights" in api.dags(), 120)
    yield api
    api.close()


def runs_about(api, summary):
    """The runs of rollback__flights whose reason ends so."""
    found = api._call("GET", "/api/v2/dags/rollback__flights/dagRuns", params={"limit": 100})["dag_runs"]
    return [run for run in found if str(run["conf"].get("reason", "")).endswith(summary)]


LABELS = {"alertname": "CandidateErrors", "severity": "critical", "delivery": "flights", "action": "rollback"}


@pytest.fixture
def version():
    """A version that no other run of these tests had: Alertmanager remembers what it told whom."""
    return f"flights-v{uuid.uuid4().int % 10**9}"


def test_an_alert_starts_the_rollback_once_however_often_it_comes(stack, airflow, version):
    """Posted to Alertmanager's own API, as Prometheus does, then twice more to the relay, as Alertmanager repeats."""
    summary = f"test {uuid.uuid4().hex}"
    alert = {
        "labels": {**LABELS, "version": version},
        "annotations": {"summary": summary},
        "startsAt": datetime.now(UTC).isoformat(),
    }
    begun = time.monotonic()
    for _ in range(2):
        httpx.post(stack.url("alertmanager") + "/api/v2/alerts", json=[alert]).raise_for_status()
    until(lambda: runs_about(airflow, summary), 60)
    print(f"alert at Alertmanager to its run in Airflow: {time.monotonic() - begun:.1f} s")
    (known,) = [one for one in alerts(stack, "CandidateErrors") if one["annotations"]["summary"] == summary]
    token = stack.paths.relay_token.read_text()
    again = {"version": "4", "alerts": [{**known, "status": "firing"}]}
    for _ in range(2):
        answer = httpx.post(
            stack.url("relay") + "/alerts", json=again, headers={"Authorization": f"Bearer {token}"}, timeout=30
        )
        assert answer.status_code == 200
    (run,) = runs_about(airflow, summary)
    assert run["dag_run_id"].startswith(f"alert__{known['fingerprint']}__")
    assert airflow.wait("rollback__flights", run["dag_run_id"], 120).state == "success"
    said = airflow.result("rollback__flights", run["dag_run_id"], "rollback")
    assert said == {"outcome": "nothing", "sentence": f"{version} is not on trial"}


def test_a_rule_of_prometheus_starts_the_rollback(stack, airflow, version):
    """The whole way: a rule file beside the generated ones, Prometheus, Alertmanager, the relay, Airflow."""
    summary = f"test {uuid.uuid4().hex}"
    rule = {
        "alert": "CandidateErrors",
        "expr": "vector(1)",
        "labels": {**LABELS, "version": version},
        "annotations": {"summary": summary},
    }
    file = stack.paths.rules / "test.yaml"
    prometheus = daemon.supervision(stack).states()["prometheus"].pid
    begun = time.monotonic()
    try:
        file.write_text(yaml.safe_dump({"groups": [{"name": "test", "rules": [rule]}]}))
        os.kill(prometheus, signal.SIGHUP)
        (run,) = until(lambda: runs_about(airflow, summary), 60)
        print(f"rule file to its run in Airflow: {time.monotonic() - begun:.1f} s")
    finally:
        file.unlink()
        os.kill(prometheus, signal.SIGHUP)
    assert airflow.wait("rollback__flights", run["dag_run_id"], 120).state == "success"
    assert len(runs_about(airflow, summary)) == 1


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
def test_the_relay_needs_its_token(stack, headers):
    assert httpx.post(stack.url("relay") + "/alerts", json={"alerts": []}, headers=headers).status_code == 401


def test_prometheus_evaluates_the_rules_of_every_delivery(stack):
    groups = httpx.get(stack.url("prometheus") + "/api/v1/rules").json()["data"]["groups"]
    made = {group["name"]: group["rules"] for group in groups}
    assert {"tidegate", "tidegate-flights"} <= set(made)
    assert {rule["health"] for rules in made.values() for rule in rules} <= {"ok", "unknown"}
