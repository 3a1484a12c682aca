import os
import signal
import subprocess
import sys
from datetime import UTC, datetime

import httpx
import pytest
from prometheus_client.core import CollectorRegistry
from prometheus_client.exposition import generate_latest

from tidegate.clients.envoy import EnvoyTraffic
from tidegate.clients.exporter import Exporter
from tidegate.clients.records import Lease
from tidegate.clients.traffic import FakeTraffic
from tidegate.errors import SetupError
from tidegate.guard import Figures, Guard


def lease(remaining_s, holder="run-1", fence=4):
    return Lease(
        delivery="flights",
        holder=holder,
        fence=fence,
        expires_at=datetime(2013, 4, 1, tzinfo=UTC),
        remaining_s=remaining_s,
    )


class Bench:
    """A guard over 10% of candidate traffic, with a clock that tests move."""

    def __init__(self, traffic=None):
        self.now = 1000.0
        self.logged = []
        self.traffic = traffic or FakeTraffic()
        for number in (1, 2):
            self.traffic.route("flights", f"flights-v{number}", f"127.0.0.1:{number}")
        self.give(10)
        self.guard = Guard(self.traffic, self.traffic, 60.0, lambda: self.now, lambda *what: self.logged.append(what))

    def give(self, share):
        split = self.traffic.read("flights")
        weights = {"flights-v1": 100 - share, "flights-v2": share}
        self.traffic.write("flights", weights, champion="flights-v1", expected=split.revision, fence=split.fence)

    def saw(self, *leases):
        self.guard.saw(self.now, leases, {("flights", "weather", "not a time"): 3})

    def step(self, seconds=1.0):
        self.now += seconds
        return self.guard.step()

    @property
    def candidates(self):
        return self.traffic.read("flights").candidates


@pytest.fixture
def bench():
    made = Bench()
    made.guard.step()
    made.now += 1
    return made


def test_a_live_lease_is_left_alone(bench):
    bench.saw(lease(5.0))
    assert bench.step(4.9) == []
    assert bench.candidates == {"flights-v2": 10}


def test_an_expired_lease_gives_the_champion_everything_and_says_so_once(bench):
    bench.saw(lease(-0.5))
    assert bench.step() == ["flights"]
    assert bench.candidates == {}
    ((delivery, split, why),) = bench.logged
    assert (delivery, split.champion) == ("flights", "flights-v1")
    assert "lease of run-1 (fence 4) expired" in why
    assert bench.traffic.read("flights").cause == f"guard: {why}"
    assert bench.step() == []


def test_without_the_ledger_a_lease_is_counted_down_to_its_last_known_expiry(bench):
    bench.saw(lease(30.0))
    assert bench.step(29.5) == []
    assert bench.step(1.0) == ["flights"]
    assert "the ledger has been silent for 30 s" in bench.logged[0][2]


def test_traffic_without_any_holder_goes_back(bench):
    bench.saw(lease(50.0, holder=None))
    assert bench.step() == ["flights"]
    assert "nobody holds the lease" in bench.logged[0][2]


def test_a_delivery_the_ledger_does_not_know_loses_its_candidate(bench):
    bench.saw()
    assert bench.step() == ["flights"]


def test_a_ledger_that_never_answered_is_given_the_whole_patience(bench):
    assert bench.step(58) == []
    assert bench.step(3) == ["flights"]
    assert "has not answered" in bench.logged[0][2]


def test_what_the_ledger_said_before_the_candidate_came_says_nothing_against_it():
    bench = Bench()
    bench.give(0)
    bench.saw(lease(-100.0, holder=None))
    bench.step()
    bench.give(10)  # under a lease that the ledger granted since
    assert bench.step(0.5) == []
    bench.now += 0.2
    bench.saw(lease(60.0))
    assert bench.step() == []
    assert bench.candidates == {"flights-v2": 10}


def test_a_delivery_without_candidates_is_left_alone(bench):
    bench.give(0)
    bench.saw()
    before = bench.traffic.read("flights")
    assert bench.step() == []
    assert bench.traffic.read("flights") == before


def test_the_files_that_envoy_watches_are_rewritten(tmp_path):
    bench = Bench(EnvoyTraffic(tmp_path / "xds"))
    bench.guard.step()
    bench.now += 1
    bench.saw(lease(-1.0))
    assert bench.step() == ["flights"]
    assert "flights-v2" not in (tmp_path / "xds" / "rds.yaml").read_text()


def test_the_figures_tell_weights_leases_aborts_and_quarantine(bench):
    bench.saw(lease(-1.0))
    bench.step()
    registry = CollectorRegistry()
    registry.register(Figures(bench.guard))
    text = generate_latest(registry).decode()
    for line in (
        'tidegate_traffic_weight{delivery="flights",version="flights-v1"} 100.0',
        'tidegate_traffic_weight{delivery="flights",version="flights-v2"} 0.0',
        'tidegate_guard_aborts_total{delivery="flights"} 1.0',
        'tidegate_lease_expires_seconds{delivery="flights"} -2.0',
        'tidegate_rows_quarantined_total{delivery="flights",reason="not a time",source="weather"} 3.0',
    ):
        assert line in text


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


def test_an_empty_token_is_refused():
    with pytest.raises(SetupError, match="token is empty"):
        Exporter(CollectorRegistry(), 0, "")


def test_a_taken_port_is_named(page):
    port = int(page.rpartition(":")[2])
    with pytest.raises(SetupError, match=f"port {port} "):
        Exporter(CollectorRegistry(), port, "right")


def test_the_process_guards_while_the_ledger_is_away_and_ends_on_sigterm(tmp_path):
    Bench(EnvoyTraffic(tmp_path / "xds"))
    (tmp_path / "token").write_text("right\n")
    env = {
        **os.environ,
        "TIDEGATE_DB": "postgresql://tide:very-secret@127.0.0.1:1/tidegate",
        "TIDEGATE_ENVOY_XDS": str(tmp_path / "xds"),
        "TIDEGATE_GUARD_PORT": "0",
        "TIDEGATE_GUARD_TOKEN_FILE": str(tmp_path / "token"),
        "TIDEGATE_GUARD_PATIENCE": "0.5",
    }
    process = subprocess.Popen([sys.executable, "-m", "tidegate.guard"], env=env, stderr=subprocess.PIPE, text=True)
    said = ""
    for line in process.stderr:
        said += line
        if "all traffic to flights-v1" in line:
            break
    process.send_signal(signal.SIGTERM)
    said += process.communicate(timeout=10)[1]
    assert process.returncode == 0
    assert EnvoyTraffic(tmp_path / "xds").read("flights").weights == {"flights-v1": 100, "flights-v2": 0}
    assert "leases are counted down without the ledger" in said
    assert "very-secret" not in said


def test_a_missing_setting_is_named():
    env = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    ended = subprocess.run([sys.executable, "-m", "tidegate.guard"], env=env, capture_output=True, text=True)
    assert ended.returncode != 0
    assert "TIDEGATE_ENVOY_XDS is not set" in ended.stderr
