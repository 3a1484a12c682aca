"""The guard as a process, and its page."""

import os
import signal
import subprocess
import sys
import threading

import httpx
import pytest
from prometheus_client.core import CollectorRegistry

from tidegate.clients.envoy import EnvoyTraffic
from tidegate.clients.exporter import Exporter
from tidegate.errors import SetupError
from tidegate.guard import __main__ as process


@pytest.fixture
def page():
    with Exporter(CollectorRegistry(), 0, "right") as exporter:
        yield f"http://127.0.0.1:{exporter.port}"


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/metrics", {}, 401),
        ("/metrics", {"Authorization": "Bearer wrong"}, 401),
        ("/metrics", {"Authorization": "right"}, 401),
        ("/other", {}, 401),
        ("/other", {"Authorization": "Bearer right"}, 404),
        ("/metrics", {"Authorization": "Bearer right"}, 200),
    ],
)
def test_the_page_is_for_those_who_know_the_token(page, path, headers, status):
    assert httpx.get(page + path, headers=headers).status_code == status


def test_the_page_takes_no_posts(page):
    assert httpx.post(page + "/metrics", headers={"Authorization": "Bearer right"}, content=b"x").status_code == 404


def test_an_empty_token_is_refused():
    with pytest.raises(SetupError, match="token is empty"):
        Exporter(CollectorRegistry(), 0, "")


def test_a_taken_port_is_named(page):
    port = int(page.rpartition(":")[2])
    with pytest.raises(SetupError, match=f"port {port} "):
        Exporter(CollectorRegistry(), port, "right")


@pytest.fixture
def env(tmp_path):
    (tmp_path / "token").write_text("right\n")
    return {
        **os.environ,
        "TIDEGATE_DB": "postgresql://tide:very-secret@127.0.0.1:1/tidegate",
        "TIDEGATE_ENVOY_XDS": str(tmp_path / "xds"),
        "TIDEGATE_GUARD_STATE": str(tmp_path / "guard" / "state.json"),
        "TIDEGATE_GUARD_PORT": "0",
        "TIDEGATE_GUARD_TOKEN_FILE": str(tmp_path / "token"),
        "TIDEGATE_GUARD_PATIENCE": "1.5",
    }


def test_the_process_guards_while_the_ledger_is_away_and_ends_on_sigterm(tmp_path, env):
    traffic = EnvoyTraffic(tmp_path / "xds")
    for number in (1, 2):
        traffic.route("flights", f"flights-v{number}", f"127.0.0.1:{number}")
    split = traffic.read("flights")
    weights = {"flights-v1": 90, "flights-v2": 10}
    traffic.write("flights", weights, champion="flights-v1", expected=split.revision, fence=4)
    running = subprocess.Popen([sys.executable, "-m", "tidegate.guard"], env=env, stderr=subprocess.PIPE, text=True)
    said = ""
    for line in running.stderr:
        said += line
        if "all traffic to flights-v1" in line:
            break
    running.send_signal(signal.SIGTERM)
    said += running.communicate(timeout=10)[1]
    assert running.returncode == 0
    assert traffic.read("flights").weights == {"flights-v1": 100, "flights-v2": 0}
    assert "leases are counted down without" in said
    assert "very-secret" not in said
    assert (tmp_path / "guard" / "state.json").exists()


class Told:
    """Stands for the guard: keeps what it is told of the ledger."""

    def __init__(self):
        self.told = []

    def heard(self, asked_at, leases):
        self.told.append(("heard", leases))

    def unheard(self, asked_at):
        self.told.append(("unheard",))


@pytest.mark.parametrize("nonsense", [KeyError("expires_at"), ValueError("no fence"), OverflowError("infinity")])
def test_a_ledger_that_answers_nonsense_has_not_answered(caplog, nonsense):
    guard, stop = Told(), threading.Event()

    class Ledger:
        def leases(self):
            if guard.told:
                stop.set()
            raise nonsense

    process._ask(Ledger(), guard, stop)
    assert guard.told == [("unheard",), ("unheard",)]
    assert caplog.text.count("the ledger gives no answer") == 1


def refused(env):
    ended = subprocess.run([sys.executable, "-m", "tidegate.guard"], env=env, capture_output=True, text=True)
    assert ended.returncode != 0
    return ended.stderr


def test_a_missing_setting_is_named():
    env = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    assert "TIDEGATE_ENVOY_XDS is not set" in refused(env)


@pytest.mark.parametrize("value", ["soon", "-1", "0", "nan", "inf"])
def test_a_patience_that_is_no_time_is_refused(env, value):
    assert "TIDEGATE_GUARD_PATIENCE is" in refused({**env, "TIDEGATE_GUARD_PATIENCE": value})
