"""Traffic, ledger, metrics and guard on real Envoy, Postgres and Prometheus, with two tiny servers as versions."""

import json
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import httpx
import psycopg2
import pytest

from tidegate.clients.envoy import EnvoyTraffic
from tidegate.clients.ledger import Ledger
from tidegate.clients.model_server import Endpoint
from tidegate.clients.prometheus import PrometheusMetrics
from tidegate.delivery import RolloutSpec, Stage
from tidegate.errors import Conflict, LeaseLost
from tidegate.handoff import Slice, ValidatedSlice, Window
from tidegate.judge import intervals
from tidegate.rollout import actions

pytestmark = pytest.mark.stack
SPEC = RolloutSpec(stages=[Stage(weight=share, requests=1) for share in (0.1, 0.5, 1.0)], bake=0)


class Version:
    """A server that stands for one model version, on a free loopback port, and counts what it answers."""

    def __init__(self, name):
        self.name, self.host, self.status = name, "127.0.0.1", 200
        self.answered = 0
        version = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                version.answered += 1
                body = json.dumps({"model_name": version.name}).encode()
                self.send_response(version.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Load:
    """Requests through Envoy, one after the other, until closed; keeps (status, version) of each."""

    def __init__(self, url, delivery):
        self.answers = []
        self._stop = threading.Event()
        self._url = f"{url}/v2/models/{delivery}/infer"
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        with httpx.Client(timeout=5) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post(self._url, json={})
                    self.answers.append((answer.status_code, answer.headers.get("x-tidegate-version")))
                except httpx.HTTPError as error:
                    self.answers.append((type(error).__name__, None))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def reach(self, count):
        """Return once this many requests have been answered."""
        until(lambda: len(self.answers) >= count)


def until(holds, within_s=15.0):
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def delivery():
    return f"t{uuid.uuid4().hex[:10]}"


@pytest.fixture
def versions(delivery):
    made = {number: Version(f"{delivery}-v{number}") for number in (1, 2, 3)}
    yield made
    for version in made.values():
        version.close()


@pytest.fixture
def traffic(stack):
    return EnvoyTraffic(stack.paths.xds, stack.url("envoy-admin"))


@pytest.fixture
def ledger(stack):
    return Ledger(stack.postgres_dsn("tidegate"))


@pytest.fixture
def lease(ledger, delivery):
    """Without one the stack's guard would take the candidates' traffic away."""
    held = ledger.acquire(delivery, "test", 120)
    yield held
    ledger.release(held)


def install(traffic, delivery, *versions):
    for version in versions:
        traffic.route(delivery, version.name, f"127.0.0.1:{version.port}")
    split = traffic.read(delivery)
    champion = versions[0].name
    split = traffic.write(delivery, {champion: 100}, champion=champion, expected=split.revision, fence=split.fence)
    traffic.confirm(delivery, split.weights)
    return split


def test_weights_move_under_load_and_no_request_fails(stack, traffic, delivery, versions, lease):
    one, two = versions[1], versions[2]
    split = install(traffic, delivery, one, two)
    with Load(stack.url("envoy"), delivery) as load:
        for share in (10, 50, 100, 0, 50, 0, 100, 10, 0):
            weights = {one.name: 100 - share, two.name: share}
            split = traffic.write(delivery, weights, champion=one.name, expected=split.revision, fence=lease.fence)
            traffic.confirm(delivery, weights)
            load.reach(len(load.answers) + 40)
    assert {status for status, _ in load.answers} == {200}
    assert {version for _, version in load.answers} == {one.name, two.name}
    assert sum(version == two.name for _, version in load.answers) == two.answered


def test_a_version_is_added_and_taken_away_under_load_and_no_request_fails(stack, traffic, delivery, versions, lease):
    install(traffic, delivery, versions[1])
    with Load(stack.url("envoy"), delivery) as load:
        for _ in range(10):
            traffic.route(delivery, versions[2].name, f"127.0.0.1:{versions[2].port}")
            split = traffic.read(delivery)
            weights = {versions[1].name: 50, versions[2].name: 50}
            split = traffic.write(
                delivery,
                weights,
                champion=versions[1].name,
                expected=split.revision,
                fence=max(split.fence, lease.fence),
            )
            traffic.confirm(delivery, weights)
            load.reach(len(load.answers) + 20)
            split = actions.abort(traffic, delivery, "test")
            traffic.confirm(delivery, split.weights)
            traffic.unroute(delivery, versions[2].name)
    assert {status for status, _ in load.answers} == {200}


def test_envoy_goes_on_with_the_same_split_after_its_files_are_written_again(traffic, delivery, versions):
    split = install(traffic, delivery, versions[1], versions[2])
    (traffic.xds / "rds.yaml").unlink()
    traffic.reapply()
    traffic.confirm(delivery, split.weights)
    assert traffic.applied(delivery) == {versions[1].name: 100}


def test_an_edited_route_is_noticed_and_mended(traffic, delivery, versions):
    split = install(traffic, delivery, versions[1], versions[2])
    config = (traffic.xds / "rds.yaml").read_text()
    one, two = (f'"name": "{versions[number].name}"' for number in (1, 2))
    drifted = config.replace(one, two)
    assert drifted != config
    aside = traffic.xds.parent / "edited.yaml"
    aside.write_text(drifted)
    aside.replace(traffic.xds / "rds.yaml")
    until(lambda: traffic.applied(delivery) == {versions[2].name: 100})
    quick = EnvoyTraffic(traffic.xds, traffic.admin, within_s=0.1)
    with pytest.raises(Conflict, match="does not serve"):
        quick.confirm(delivery, split.weights)
    traffic.reapply()
    traffic.confirm(delivery, split.weights)


def test_prometheus_counts_exactly_what_the_versions_answered(stack, traffic, delivery, versions, lease):
    one, two = versions[1], versions[2]
    split = install(traffic, delivery, one, two)
    metrics = PrometheusMetrics(stack.url("prometheus"))
    until(lambda: any(one.name in scrape.versions for scrape in metrics.scrapes([one.name], 5).scrapes))
    begun = metrics.scrapes([one.name], 5).now
    traffic.write(delivery, {one.name: 50, two.name: 50}, champion=one.name, expected=split.revision, fence=lease.fence)
    two.status = 500
    with Load(stack.url("envoy"), delivery) as load:
        load.reach(300)
    done = metrics.scrapes([one.name], 5).now

    def counted():
        seen = metrics.scrapes([one.name, two.name, f"{delivery}-v9"], time.time() - begun + 5)
        scrapes = [scrape for scrape in seen.scrapes if scrape.at >= begun - 2]
        return list(intervals(scrapes, two.name, one.name)) if scrapes[-1].at > done + 1 else []

    until(counted)
    found = counted()
    assert not any(interval.broken for interval in found)

    def totals(name):
        did = [getattr(interval, name) for interval in found if getattr(interval, name)]
        return sum(one.requests for one in did), sum(one.errors for one in did), sum(sum(one.buckets) for one in did)

    assert totals("champion") == (one.answered, 0, one.answered)
    assert totals("candidate") == (two.answered, two.answered, two.answered)


def test_one_of_many_gets_the_lease_and_the_fence_rises_with_each_holder(ledger, delivery):
    def take(number):
        try:
            return ledger.acquire(delivery, f"holder-{number}", 60)
        except LeaseLost:
            return None

    with ThreadPoolExecutor(8) as pool:
        won = [lease for lease in pool.map(take, range(8)) if lease is not None]
    assert len(won) == 1
    first = won[0]
    assert ledger.acquire(delivery, first.holder, 60).fence == first.fence
    with pytest.raises(LeaseLost, match=f"held by {first.holder} until"):
        ledger.acquire(delivery, "late", 60)
    taken = ledger.acquire(delivery, "way-back", 60, floor=first.fence + 5, seize=True)
    assert taken.fence == first.fence + 5
    with pytest.raises(LeaseLost, match="no longer holds"):
        ledger.renew(first, 60)
    ledger.release(first)
    assert ledger.lease(delivery).holder == "way-back"
    ledger.release(taken)
    assert not ledger.lease(delivery).live
    assert ledger.acquire(delivery, "next", 60).fence == taken.fence + 1


def test_a_lease_expires_by_the_databases_clock(ledger, delivery):
    lease = ledger.acquire(delivery, "one", 0.3)
    assert ledger.renew(lease, 0.3).live
    until(lambda: not ledger.lease(delivery).live)
    with pytest.raises(LeaseLost):
        ledger.renew(lease, 60)
    assert ledger.acquire(delivery, "one", 60).fence == lease.fence + 1


@pytest.mark.parametrize(
    "change", ["UPDATE tidegate.events SET kind = 'x'", "DELETE FROM tidegate.events", "TRUNCATE tidegate.events"]
)
def test_the_event_log_refuses_changes(stack, ledger, delivery, change):
    ledger.log(delivery, "begun", "test", fence=1, rollout_id="r", detail={"revision": 7})
    connection = psycopg2.connect(stack.postgres_dsn("tidegate"))
    with pytest.raises(psycopg2.errors.RaiseException, match="append-only"), connection, connection.cursor() as cursor:
        cursor.execute(change)
    connection.close()
    assert [(e.kind, e.fence, e.detail) for e in ledger.events(delivery)] == [("begun", 1, {"revision": 7})]
    assert ledger.logged(delivery, 7)
    assert not ledger.logged(delivery, 8)


def test_a_request_is_claimed_once(ledger, delivery):
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda _: ledger.claim_request(delivery, "req-1", {"a": "'; DROP"}), range(8)))
    assert sorted(claims) == [False] * 7 + [True]
    assert ledger.claim_request(delivery, "req-2", {})


def test_a_slice_recorded_twice_counts_once(ledger, delivery):
    window = Window(start="2013-01-01", end="2013-02-01")
    part = Slice(
        delivery=delivery,
        source="weather",
        contract="weather",
        window=window,
        key="k",
        rows=10,
        digest="d",
        position={},
    )
    validated = ValidatedSlice(
        slice=part, key="k", clean=7, quarantined=3, reasons={"not a time": 2, "no value": 1}, digest="d"
    )
    ledger.record_slice(validated)
    ledger.record_slice(validated)
    found = {key[1:]: rows for key, rows in ledger.quarantined().items() if key[0] == delivery}
    assert found == {("weather", "not a time"): 2, ("weather", "no value"): 1}


def test_the_guard_takes_traffic_from_a_candidate_whose_lease_has_expired(stack, traffic, ledger, delivery, versions):
    split = install(traffic, delivery, versions[1], versions[2])
    lease = ledger.acquire(delivery, "a triggerer that dies", 3)
    weights = {versions[1].name: 90, versions[2].name: 10}
    traffic.write(delivery, weights, champion=versions[1].name, expected=split.revision, fence=lease.fence)
    begun = time.monotonic()
    until(lambda: not traffic.read(delivery).candidates)
    assert 2.0 < time.monotonic() - begun < 8.0
    after = traffic.read(delivery)
    traffic.confirm(delivery, {versions[1].name: 100})
    assert after.cause.startswith("guard: the lease of a triggerer that dies")
    with pytest.raises(LeaseLost):
        traffic.write(delivery, weights, champion=versions[1].name, expected=after.revision, fence=lease.fence)
    until(lambda: [event.actor for event in ledger.events(delivery)] == ["guard"])
    figures = httpx.get(
        stack.url("guard") + "/metrics", headers={"Authorization": f"Bearer {stack.secrets['guard']}"}
    ).text
    assert f'tidegate_guard_aborts_total{{delivery="{delivery}"}} 1.0' in figures
    assert f'tidegate_traffic_weight{{delivery="{delivery}",version="{versions[2].name}"}} 0.0' in figures


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eDp5"}])
def test_the_guards_figures_need_its_token(stack, headers):
    assert httpx.get(stack.url("guard") + "/metrics", headers=headers).status_code == 401


class Servers:
    """A model server whose versions are the tiny ones above."""

    def __init__(self, versions):
        self._versions = {version.name: version for version in versions.values()}
        self.running = set()

    def deploy(self, bundle):
        self.running.add(bundle.name)
        version = self._versions[bundle.name]
        return Endpoint(name=version.name, host=version.host, port=version.port, metrics_port=0)

    def endpoints(self):
        return {}

    def ready(self, name):
        return name in self.running

    def retire(self, name):
        self.running.discard(name)


class Registry:
    def __init__(self):
        self.aliases = {}

    def set_alias(self, delivery, alias, version):
        self.aliases[alias] = version

    def drop_alias(self, delivery, alias):
        self.aliases.pop(alias, None)


def test_a_delivery_is_installed_promoted_rolled_back_and_reverted_under_load(
    stack, traffic, ledger, delivery, versions
):
    servers, registry = Servers(versions), Registry()
    hands = actions.Hands(
        ledger, traffic, traffic, servers, registry, lambda name, number: SimpleNamespace(name=f"{name}-v{number}")
    )

    def start(number):
        rollout, lease = actions.begin(
            hands, delivery, f"{delivery}-v{number}", f"{delivery}-r{number}", f"run-{number}", SPEC, "test"
        )
        actions.deploy(hands, rollout.id, lease, "test")
        return rollout.id, lease

    assert actions.promote(hands, *start(1), "test").outcome == "promoted"
    with Load(stack.url("envoy"), delivery) as load:
        rollout, lease = start(2)
        for stage in range(3):
            actions.shift(hands, rollout, lease, stage, "test")
            load.reach(len(load.answers) + 30)
        actions.bake(hands, rollout, lease, "test")
        assert actions.promote(hands, rollout, lease, "test").champion == f"{delivery}-v2"
        assert registry.aliases == {"champion": 2}
        rollout, lease = start(3)
        actions.shift(hands, rollout, lease, 0, "test")
        actions.abort_rollout(hands, rollout, delivery, "sensor", "errors 3 above 2")
        with pytest.raises(LeaseLost):
            traffic.write(
                delivery,
                {f"{delivery}-v2": 0, f"{delivery}-v3": 100},
                champion=f"{delivery}-v2",
                expected=traffic.read(delivery).revision,
                fence=lease.fence,
            )
        back = actions.rollback(hands, delivery, f"{delivery}-b1", "dag", "errors 3 above 2", rollout_id=rollout)
        assert (back.outcome, back.champion) == ("rolled_back", f"{delivery}-v2")
        assert servers.running == {f"{delivery}-v2"}
        again = actions.rollback(hands, delivery, f"{delivery}-b2", "dag", "errors 3 above 2", rollout_id=rollout)
        assert again.outcome == "already"
        undone = actions.rollback(hands, delivery, f"{delivery}-b3", "a person", "looks odd", version=1)
        assert (undone.outcome, undone.champion) == ("reverted", f"{delivery}-v1")
        load.reach(len(load.answers) + 30)
    assert {status for status, _ in load.answers} == {200}
    assert traffic.applied(delivery) == {f"{delivery}-v1": 100}
    assert registry.aliases == {"champion": 1}
    assert actions.reconcile(hands, delivery) == []
    kinds = [event.kind for event in ledger.events(delivery)]
    assert [kind for kind in kinds if kind in ("promoted", "aborted", "rolled_back", "reverted")] == [
        "promoted",
        "promoted",
        "aborted",
        "rolled_back",
        "reverted",
    ]
