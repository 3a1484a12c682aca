"""What callers see of a traffic split: a real Envoy with the stack's own configuration, tiny servers as versions."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import httpx
import pytest

from tidegate.clients.envoy import EnvoyTraffic
from tidegate.clients.traffic import Routing
from tidegate.errors import Conflict
from tidegate.gate.load import drive, fixed
from tidegate.stack.config import StackConfig
from tidegate.stack.services import envoy

pytestmark = pytest.mark.stack


class Version:
    """A server that stands for one model version, on a loopback port; `answer` says what it does with a request."""

    def __init__(self, name, port=0):
        self.name, self.status = name, 200
        self.asked = []
        self.hold = None
        """Once set to an event, answers wait for it."""
        self.drop = False
        """Whether the connection is closed once the request was read."""
        version = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                version.asked.append({name.lower(): value for name, value in self.headers.items()})
                if version.hold is not None:
                    version.hold.wait(30)
                if version.drop:
                    self.close_connection = True
                    return
                body = json.dumps({"model_name": version.name}).encode()
                self.send_response(version.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 512

            def get_request(self):
                connection, caller = super().get_request()
                version._connections.append(connection)
                return connection, caller

            def handle_error(self, request, client_address):
                pass  # a caller that has gone

        self._connections = []
        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.address = f"127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self):
        """Refuse new connections and break those that are open."""
        if self.hold is not None:
            self.hold.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for connection in self._connections:
            with suppress(OSError):  # broken already
                connection.shutdown(socket.SHUT_RDWR)


class Proxy:
    """The stack's Envoy, alone, with ports and folders of its own."""

    def __init__(self, folder):
        self.cfg = StackConfig.load(folder)
        service = envoy.service(self.cfg)
        service.prepare()
        program = service.program()
        self.cfg.paths.logs.mkdir(parents=True, exist_ok=True)
        with program.log_file.open("w") as log:
            self._process = subprocess.Popen(program.command, cwd=program.directory, stdout=log, stderr=log)
        self.url, self.admin = self.cfg.url("envoy"), self.cfg.url("envoy-admin")
        until(lambda: service.ready(self.cfg))

    def close(self):
        self._process.terminate()
        self._process.wait(20)

    def counts(self, cluster):
        """Envoy's Prometheus figures of one cluster without their prefix; those that are 0 left out."""
        text = httpx.get(self.admin + "/stats/prometheus?usedonly").text
        found = re.findall(r'^envoy_cluster_(\w+)\{(.*)envoy_cluster_name="([^"]*)"\} (\S+)$', text, re.M)
        return {
            name + (f"{{{labels.rstrip(',')}}}" if labels else ""): float(value)
            for name, labels, which, value in found
            if which == cluster and float(value) and "_bucket" not in name
        }


def until(holds, within_s=20.0):
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    made = Proxy(tmp_path_factory.mktemp("envoy"))
    yield made
    made.close()


@pytest.fixture
def traffic(proxy):
    return EnvoyTraffic(proxy.cfg.paths.xds, proxy.admin)


@pytest.fixture
def delivery():
    return f"t{uuid.uuid4().hex[:10]}"


@pytest.fixture
def one(delivery):
    version = Version(f"{delivery}-v1")
    yield version
    version.close()


@pytest.fixture
def two(delivery):
    version = Version(f"{delivery}-v2")
    yield version
    version.close()


@pytest.fixture
def url(proxy, delivery):
    return f"{proxy.url}/v2/models/{delivery}/infer"


@pytest.fixture
def http():
    with httpx.Client(timeout=15, limits=httpx.Limits(max_connections=64)) as client:
        yield client


def install(traffic, delivery, *versions, routing=None):
    for version in versions:
        traffic.route(delivery, version.name, version.address, routing)
    return share(traffic, delivery, versions[0], versions[0])


def share(traffic, delivery, champion, other, percent=0, mirrors=None):
    """Give the other version its percent and the champion the rest; return once Envoy serves that."""
    weights = {other.name: percent, champion.name: 100 - percent} if percent else {champion.name: 100}
    before = traffic.read(delivery)
    split = traffic.write(
        delivery, weights, champion=champion.name, expected=before.revision, fence=before.fence, mirrors=mirrors
    )
    traffic.confirm(delivery, weights, mirrors or {})
    return split


@contextmanager
def load(url, rate):
    """Keep an open loop of requests going meanwhile; the list of its answers is complete at the end."""
    answers, loop = [], asyncio.new_event_loop()
    stop = asyncio.Event()
    work = drive([b"{}"], url, fixed(rate), answers.append, stop)
    thread = threading.Thread(target=loop.run_until_complete, args=(work,))
    thread.start()
    try:
        yield answers
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def quantile(answers, q):
    return sorted(answer.latency_s for answer in answers)[int(q * (len(answers) - 1))] * 1000


def times(answers):
    return f"p50 {quantile(answers, 0.5):.1f} ms, p99 {quantile(answers, 0.99):.1f} ms"


STICKY = [
    (Routing(sticky_header="X-User"), lambda key: {"x-user": key}),
    (Routing(sticky_cookie="session"), lambda key: {"cookie": f"a=b; session={key}"}),
    (Routing(sticky_header="x-user", sticky_cookie="session"), lambda key: {"x-user": key, "cookie": "session=all"}),
    (Routing(sticky_header="x-user", sticky_cookie="session"), lambda key: {"cookie": f"session={key}"}),
]


@pytest.mark.parametrize(("routing", "headers"), STICKY, ids=["header", "cookie", "header first", "else the cookie"])
def test_a_caller_changes_versions_only_as_far_as_the_weights_make_it(
    traffic, delivery, one, two, url, http, routing, headers
):
    install(traffic, delivery, one, two, routing=routing)
    keys = [f"user-{number}" for number in range(400)]

    def callers():
        """The callers that are on the candidate; asked twice."""
        seen = [
            {key for key in keys if http.post(url, json={}, headers=headers(key)).json()["model_name"] == two.name}
            for _ in range(2)
        ]
        assert seen[0] == seen[1]
        return seen[0]

    on = {}
    for percent in (10, 50, 100):
        share(traffic, delivery, one, two, percent)
        on[percent] = callers()
    assert on[10] < on[50] < on[100] == set(keys)
    assert 20 <= len(on[10]) <= 62
    assert 160 <= len(on[50]) <= 240
    share(traffic, delivery, one, two, 10)
    assert callers() == on[10]
    share(traffic, delivery, one, two, 0)
    assert callers() == set()


def test_callers_that_cannot_be_told_apart_are_shared_by_chance_and_get_no_cookie(
    traffic, delivery, one, two, url, http
):
    install(traffic, delivery, one, two, routing=Routing(sticky_cookie="session"))
    share(traffic, delivery, one, two, 50)
    answers = [http.post(url, json={}) for _ in range(300)]
    assert 100 < sum(answer.headers["x-tidegate-version"] == two.name for answer in answers) < 200
    assert not any("set-cookie" in answer.headers for answer in answers)


def test_callers_of_tensorflow_serving_are_split_and_cannot_go_round_the_weights(proxy, traffic, delivery, one, two):
    """The server's own paths to a version or a label lead nowhere, nor does another delivery of the same beginning."""
    install(traffic, delivery, one, two, routing=Routing(pin_header="x-pin", protocol="tfserving"))
    share(traffic, delivery, one, two, percent=50)
    with httpx.Client(base_url=proxy.url) as callers:
        model = f"/v1/models/{delivery}"
        answers = [callers.post(f"{model}:predict", content=b"{}") for _ in range(100)]
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.headers["x-tidegate-version"] for answer in answers} == {one.name, two.name}
        pinned = callers.post(f"{model}:predict", content=b"{}", headers={"x-pin": two.name})
        assert pinned.json() == {"model_name": two.name}
        others = (f"{model}/versions/2:predict", f"{model}/labels/canary:predict", f"{model}_late:predict", model)
        assert {callers.post(path, content=b"{}").status_code for path in others} == {404}
        assert callers.post(f"/v2/models/{delivery}/infer", content=b"{}").status_code == 404


def test_a_promoted_version_keeps_its_callers_when_the_next_one_comes(traffic, delivery, one, two, url, http):
    install(traffic, delivery, one, two, routing=Routing(sticky_header="x-user"))
    share(traffic, delivery, two, two)
    share(traffic, delivery, two, one, 30)
    before = Counter(
        http.post(url, json={}, headers={"x-user": str(n)}).headers["x-tidegate-version"] for n in range(200)
    )
    assert 30 < before[one.name] < 90


def test_a_tester_is_pinned_to_a_version_and_enters_no_figure_of_it(proxy, traffic, delivery, one, two, url, http):
    install(traffic, delivery, one, two, routing=Routing(pin_header="x-pin"))
    for version in (one, two, two):
        answer = http.post(url, json={}, headers={"x-pin": version.name})
        assert (answer.status_code, answer.json()["model_name"]) == (200, version.name)
        assert answer.headers.get_list("x-tidegate-version") == [version.name]
    assert http.post(url, json={}).json()["model_name"] == one.name
    assert proxy.counts(one.name)["upstream_rq_completed"] == 1
    assert "upstream_rq_completed" not in proxy.counts(two.name)
    assert proxy.counts(f"{two.name}-pinned")["upstream_rq_completed"] == 2


@pytest.mark.parametrize("pin", ["{}-v9", "", "{0}-v1,{0}-v2", "{}-v2-pinned"])
def test_an_unknown_pin_is_told_so_and_reaches_no_version(traffic, delivery, one, two, url, http, pin):
    install(traffic, delivery, one, two, routing=Routing(pin_header="x-pin"))
    answer = http.post(url, json={}, headers={"x-pin": pin.format(delivery)})
    assert answer.status_code == 404
    assert answer.headers.get_list("content-type") == ["application/json"]
    assert answer.json()["error"].startswith(
        f"x-pin names no routed version of {delivery}; routed: {one.name}, {two.name};"
    )
    assert "x-tidegate-version" not in answer.headers
    assert one.asked == two.asked == []


def test_a_version_can_be_tested_before_the_first_one_is_installed(traffic, delivery, one, url, http):
    traffic.route(delivery, one.name, one.address, Routing(pin_header="x-pin"))
    until(lambda: http.post(url, json={}, headers={"x-pin": one.name}).status_code == 200)
    assert http.post(url, json={}).status_code == 404
    assert traffic.applied(delivery) == {}


def test_a_mirrored_version_that_fails_is_counted_and_no_user_sees_it(proxy, traffic, delivery, one, two, url, http):
    install(traffic, delivery, one, two)
    share(traffic, delivery, one, two, mirrors={two.name: 100})
    two.status = 500
    answers = [http.post(url, json={}, headers={"x-user": "u"}) for _ in range(200)]
    assert {(a.status_code, a.json()["model_name"], a.headers["x-tidegate-version"]) for a in answers} == {
        (200, one.name, one.name)
    }
    until(lambda: proxy.counts(two.name).get("upstream_rq_completed") == 200)
    counts = proxy.counts(two.name)
    print(f"\nmirror that answers 500, 200 requests: {counts}")
    assert counts["upstream_rq_total"] == 200
    assert counts['upstream_rq_xx{envoy_response_code_class="5"}'] == 200
    assert counts['upstream_rq{envoy_response_code="500"}'] == 200
    until(lambda: proxy.counts(two.name).get("upstream_rq_time_count") == 200)
    assert proxy.counts(one.name)["upstream_rq_completed"] == 200
    assert {asked["host"] for asked in two.asked} == {asked["host"] for asked in one.asked}
    with pytest.raises(Conflict, match=r"100% of .* is mirrored to"):
        traffic.unroute(delivery, two.name)
    share(traffic, delivery, one, two)
    http.post(url, json={})
    traffic.unroute(delivery, two.name)
    assert len(two.asked) == 200


def test_a_mirror_takes_the_share_that_it_was_given(traffic, delivery, one, two, url, http):
    install(traffic, delivery, one, two)
    share(traffic, delivery, one, two, mirrors={two.name: 20})
    for _ in range(400):
        http.post(url, json={})
    until(lambda: len(two.asked) > 40)
    assert len(two.asked) < 130
    assert len(one.asked) == 400
    patient = EnvoyTraffic(traffic.xds, traffic.admin, within_s=0.1)
    with pytest.raises(Conflict, match="does not mirror"):
        patient.confirm(delivery, {one.name: 100}, {two.name: 21})


@dataclass
class Silent:
    """A server to which connections can be made, and that is all; costs this process nothing."""

    name: str
    address: str


def test_a_mirrored_version_that_hangs_or_is_gone_costs_users_nothing(proxy, traffic, delivery, one, url):
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as server:
        two = Silent(f"{delivery}-v2", f"127.0.0.1:{server.getsockname()[1]}")
        install(traffic, delivery, one, two)
        with load(url, 50) as alone:
            until(lambda: len(alone) >= 500)
        share(traffic, delivery, one, two, mirrors={two.name: 100})
        begun = time.monotonic()
        with load(url, 50) as hanging:
            until(lambda: proxy.counts(two.name).get("upstream_rq_timeout", 0) >= 50)
        cut_s = time.monotonic() - begun
    timed_out = proxy.counts(two.name)
    with load(url, 50) as gone:
        until(lambda: len(gone) >= 250)
    refused = proxy.counts(two.name)
    for what, answers in (("no mirror", alone), ("mirror hangs", hanging), ("mirror gone", gone)):
        print(f"\n{what}: {len(answers)} answers, {times(answers)}")
    print(f"first 50 time-outs after {cut_s:.1f} s: {timed_out}\nthen refused: {refused}")
    assert {(a.status, a.version) for a in (*alone, *hanging, *gone)} == {(200, one.name)}
    for answers in (hanging, gone):
        assert quantile(answers, 0.5) < 3 * quantile(alone, 0.5) + 20
        assert quantile(answers, 0.99) < 1000
    assert 10 <= cut_s < 13
    assert timed_out['upstream_rq{envoy_response_code="504"}'] == timed_out["upstream_rq_timeout"]
    assert timed_out['upstream_rq_xx{envoy_response_code_class="5"}'] == timed_out["upstream_rq_completed"]
    assert "upstream_rq_time_count" not in timed_out
    assert refused['upstream_rq{envoy_response_code="503"}'] >= 200
    assert refused['upstream_rq_xx{envoy_response_code_class="5"}'] == refused["upstream_rq_completed"]
    assert "upstream_rq_retry" not in refused


def test_a_request_that_was_refused_is_tried_again_until_the_server_is_back(proxy, traffic, delivery, one, url, http):
    install(traffic, delivery, one)
    assert http.post(url, json={}).status_code == 200
    one.close()
    served = 0
    for _ in range(10):
        refused = proxy.counts(one.name).get("upstream_cx_connect_fail", 0)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(http.post, url, json={})
            until(lambda at=refused: proxy.counts(one.name).get("upstream_cx_connect_fail", 0) > at)
            again = Version(one.name, one.port)
            served += answer.result().status_code == 200
        again.close()
        assert len(again.asked) <= 1
    print(f"\n{served} of 10 requests that met a closed port were answered after a retry")
    assert proxy.counts(one.name)["upstream_rq_retry_success"] == served > 0


def test_a_server_that_stays_away_is_tried_four_times_and_no_more(proxy, traffic, delivery, url, http):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    name = f"{delivery}-v1"
    traffic.route(delivery, name, address)
    traffic.write(delivery, {name: 100}, champion=name, expected=1, fence=0)
    traffic.confirm(delivery, {name: 100})
    assert http.post(url, json={}).status_code == 503
    counts = proxy.counts(name)
    assert (counts["upstream_cx_connect_fail"], counts["upstream_rq_retry"], counts["upstream_rq_completed"]) == (
        4,
        3,
        1,
    )


CALLERS_ORDERS = {"x-envoy-retry-on": "5xx,reset,retriable-status-codes", "x-envoy-max-retries": "5"}


@pytest.mark.parametrize("headers", [{}, CALLERS_ORDERS], ids=["plain", "with orders to the proxy"])
@pytest.mark.parametrize("failure", ["drops", "answers 503"])
def test_a_request_that_was_sent_is_never_sent_twice(traffic, delivery, one, url, http, failure, headers):
    install(traffic, delivery, one)
    one.drop, one.status = failure == "drops", 503
    for number in range(1, 6):
        answer = http.post(url, json={}, headers=headers)
        assert answer.status_code == 503
        assert len(one.asked) == number


def test_a_caller_cannot_set_the_proxys_time_out(traffic, delivery, one, url, http):
    install(traffic, delivery, one)
    one.hold = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(http.post, url, json={}, headers={"x-envoy-upstream-rq-timeout-ms": "50"})
        until(lambda: one.asked)
        with pytest.raises(TimeoutError):
            slow.result(0.5)
        one.hold.set()
        assert slow.result().status_code == 200


def test_a_request_that_its_caller_never_finishes_is_ended_after_15_s(proxy, traffic, delivery, one, url, http):
    install(traffic, delivery, one)
    head = f"POST /v2/models/{delivery}/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"
    with socket.create_connection(("127.0.0.1", proxy.cfg.ports["envoy"]), timeout=20) as caller:
        begun = time.monotonic()
        caller.sendall(head.encode() + b"half")
        assert caller.recv(1000).startswith(b"HTTP/1.1 408 ")
        assert 14.5 < time.monotonic() - begun < 18


KILLED_SERVER = """
import os, sys
from itertools import pairwise
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
journal = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer is sent whole: killed between its head and its body, it would be cut for the caller
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        os.write(journal, body + b"\\n")
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
    def log_message(self, *args):
        pass
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_nothing_is_sent_twice_to_a_server_that_is_killed_and_started_again(tmp_path, proxy, traffic, delivery, url):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    journal = tmp_path / "journal"

    def start():
        child = subprocess.Popen([sys.executable, "-c", KILLED_SERVER, str(port), str(journal)])
        until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        return child

    child = start()
    name = f"{delivery}-v1"
    traffic.route(delivery, name, f"127.0.0.1:{port}")
    traffic.write(delivery, {name: 100}, champion=name, expected=1, fence=0)
    traffic.confirm(delivery, {name: 100})
    statuses, bodies = [], (json.dumps({"id": number}).encode() for number in range(10**6))

    class Unique(list):
        def __iter__(self):
            return bodies

    async def ask(stop):
        await drive(Unique(), url, fixed(200), lambda answer: statuses.append(answer.status), stop)

    stop, loop = asyncio.Event(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(ask(stop),))
    thread.start()
    try:
        for _ in range(5):
            have = len(statuses)
            until(lambda h=have: len(statuses) > h + 100)
            child.send_signal(signal.SIGKILL)
            child.wait()
            child = start()
        have = len(statuses)
        until(lambda: len(statuses) > have + 100)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        child.kill()
        child.wait()
    sent = Counter(json.loads(line)["id"] for line in journal.read_text().splitlines())
    retried = proxy.counts(name)["upstream_rq_retry"]
    print(
        f"\n5 kills under 200 requests/s: {Counter(statuses)}, {retried:g} retries, "
        f"each sent at most {max(sent.values())} time"
    )
    assert max(sent.values()) == 1
    assert retried > 0
    assert set(statuses) <= {200, 503}
    assert set(statuses[-100:]) == {200}


@pytest.mark.parametrize("pinned", [False, True], ids=["a share", "pinned"])
def test_requests_in_flight_are_answered_when_their_version_goes(proxy, traffic, delivery, one, two, url, http, pinned):
    install(traffic, delivery, one, two, routing=Routing(pin_header="x-pin"))
    headers = {"x-pin": two.name} if pinned else {}
    if not pinned:
        share(traffic, delivery, one, two, 100)
    two.hold = threading.Event()
    with ThreadPoolExecutor(20) as pool:
        slow = [pool.submit(http.post, url, json={}, headers=headers) for _ in range(20)]
        until(lambda: len(two.asked) == 20)
        share(traffic, delivery, one, two, 0)
        threading.Timer(1.5, two.hold.set).start()
        begun = time.monotonic()
        after = traffic.unroute(delivery, two.name)
        took = time.monotonic() - begun
        two.close()
        assert [answer.result().status_code for answer in slow] == [200] * 20
    print(f"\nunroute took {took:.2f} s with requests of 1.5 s in flight")
    assert 1.4 < took < 5
    assert two.name not in after.endpoints
    assert after.draining == {} == traffic.read(delivery).draining
    until(lambda: two.name not in httpx.get(proxy.admin + "/clusters").text)


def test_a_version_whose_requests_do_not_end_keeps_its_cluster_until_it_is_asked_again(
    proxy, traffic, delivery, one, two, url, http
):
    install(traffic, delivery, one, two)
    share(traffic, delivery, one, two, 100)
    two.hold = threading.Event()
    hasty = EnvoyTraffic(traffic.xds, traffic.admin, drain_s=0.3)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(http.post, url, json={})
        until(lambda: two.asked)
        split = share(traffic, delivery, one, two, 0)
        with pytest.raises(Conflict, match=r"1 requests to .*-v2 of .* have not ended 0\.3 s after"):
            hasty.unroute(delivery, two.name)
        assert traffic.read(delivery).draining == {two.name: two.address}
        two.hold.set()
        assert slow.result().status_code == 200
    after = hasty.unroute(delivery, two.name)
    assert (after.draining, after.revision) == ({}, split.revision + 1)


def test_a_tester_whose_version_goes_is_told_so_and_never_meets_a_missing_cluster(
    traffic, delivery, one, two, url, http
):
    install(traffic, delivery, one, two, routing=Routing(pin_header="x-pin"))
    statuses, stop = [], threading.Event()

    def test():
        while not stop.is_set():
            statuses.append(http.post(url, json={}, headers={"x-pin": two.name}).status_code)

    thread = threading.Thread(target=test)
    thread.start()
    for _ in range(5):
        traffic.unroute(delivery, two.name)
        until(lambda: statuses[-1] == 404)
        traffic.route(delivery, two.name, two.address)
        until(lambda: statuses[-1] == 200)
    traffic.unroute(delivery, two.name)
    stop.set()
    thread.join()
    left = [(a, b) for a, b in pairwise(statuses) if a == 200 and b != 200]
    assert len(left) == 6
    assert {b for _, b in left} == {404}


def test_requests_in_flight_are_answered_when_their_server_moves_to_another_port(traffic, delivery, one, url, http):
    install(traffic, delivery, one)
    one.hold = threading.Event()
    moved = Version(one.name)
    with ThreadPoolExecutor(10) as pool:
        slow = [pool.submit(http.post, url, json={}) for _ in range(10)]
        until(lambda: len(one.asked) == 10)
        traffic.route(delivery, one.name, moved.address)
        until(lambda: http.post(url, json={}).status_code == 200 and moved.asked)
        one.hold.set()
        assert [answer.result().status_code for answer in slow] == [200] * 10
    moved.close()


KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from tidegate.clients.envoy import EnvoyTraffic
xds, delivery, one, two, step = sys.argv[1:]
replaced, left = os.replace, [int(step)]
def replace(*args):
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    replaced(*args)
os.replace = replace
traffic = EnvoyTraffic(Path(xds))
split = traffic.read(delivery)
traffic.write(delivery, {one: 100}, champion=one, expected=split.revision, fence=split.fence + 1)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("mended_by", ["a reader", "a writer", "reapply"])
@pytest.mark.parametrize("step", range(4))
def test_a_writer_that_is_killed_in_between_has_written_all_or_nothing(
    traffic, delivery, one, two, url, http, step, mended_by
):
    install(traffic, delivery, one, two)
    share(traffic, delivery, one, two, 50)
    args = (str(traffic.xds), delivery, one.name, two.name, str(step))
    child = subprocess.run([sys.executable, "-c", KILLED_WRITER, *args])
    assert child.returncode == -signal.SIGKILL
    if mended_by == "reapply":
        traffic.reapply()
    elif mended_by == "a writer":
        traffic.route(delivery, one.name, one.address)
    split = traffic.read(delivery)
    assert split.candidates == ({two.name: 50} if step == 0 else {})
    traffic.confirm(delivery, split.weights, {})
    versions = {http.post(url, json={}).headers["x-tidegate-version"] for _ in range(40)}
    assert versions == ({one.name, two.name} if step == 0 else {one.name})
    assert {path.name for path in traffic.xds.iterdir()} == {"rds.yaml", "cds.yaml"}


def test_no_request_fails_over_100_changes_of_weights(proxy, traffic, delivery, one, two, url):
    install(traffic, delivery, one, two)
    with load(url, 100) as answers:
        begun = time.monotonic()
        for number in range(100):
            have = len(answers)
            share(
                traffic,
                delivery,
                one,
                two,
                (10, 50, 100, 0)[number % 4],
                mirrors={two.name: 10} if number % 3 else None,
            )
            until(lambda h=have: len(answers) > h + 5)
        took = time.monotonic() - begun
    failed = [answer for answer in answers if answer.status != 200]
    print(
        f"\n100 weight changes in {took:.1f} s under 100 requests/s: {len(answers)} requests, {len(failed)} failed, "
        f"{times(answers)}; {Counter(answer.version for answer in answers)}"
    )
    assert failed == []
    assert len(answers) >= 600
    assert {answer.version for answer in answers} == {one.name, two.name}
