import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tidegate.clients.envoy import EnvoyTraffic
from tidegate.clients.envoy_resources import addresses, clusters, from_json, mirrored, reached, routes, served, to_json
from tidegate.clients.traffic import FakeTraffic, Routing, Split
from tidegate.errors import Conflict, DataError, LeaseLost, SpecError, TidegateError, Unavailable
from tidegate.rollout.steps import abort

NAMES = ("flights-v1", "flights-v2", "flights-v3")


@pytest.fixture
def traffic(tmp_path):
    made = EnvoyTraffic(tmp_path / "xds")
    made.route("flights", "flights-v1", "127.0.0.1:9001")
    made.write("flights", {"flights-v1": 100}, champion="flights-v1", expected=1, fence=1, cause="install")
    made.route("flights", "flights-v2", "127.0.0.1:9002")
    return made


def table(traffic, name):
    return yaml.safe_load((traffic.xds / name).read_text())


def test_a_split_is_rendered_with_the_candidate_first_and_a_header_that_names_the_version(traffic):
    traffic.write("flights", {"flights-v1": 90, "flights-v2": 10}, champion="flights-v1", expected=3, fence=1)
    config = table(traffic, "rds.yaml")["resources"][0]
    assert config["name"] == "tidegate"
    (host,) = config["virtual_hosts"]
    (route,) = host["routes"]
    assert host["domains"] == ["*"]
    assert route["match"] == {"prefix": "/v2/models/flights/"}
    assert route["route"]["weighted_clusters"] == {
        "clusters": [
            {"name": name, "weight": weight, "response_headers_to_add": [version_header(name)]}
            for name, weight in (("flights-v2", 10), ("flights-v1", 90))
        ]
    }
    assert route["route"]["hash_policy"] == route["route"]["request_mirror_policies"] == []


def test_callers_of_tensorflow_serving_are_routed_by_its_paths(tmp_path):
    traffic = EnvoyTraffic(tmp_path / "xds")
    routing = Routing(pin_header="x-pin", protocol="tfserving")
    traffic.route("flights", "flights-v1", "127.0.0.1:9001", routing)
    traffic.write("flights", {"flights-v1": 100}, champion="flights-v1", expected=1, fence=1)
    (host,) = table(traffic, "rds.yaml")["resources"][0]["virtual_hosts"]
    assert [route["match"]["prefix"] for route in host["routes"]] == ["/v1/models/flights:"] * 3
    dump = {"configs": [{"route_config": {"virtual_hosts": [host]}}]}
    assert served(dump, "flights") == {"flights-v1": 100}
    assert reached(dump, "flights") == {"flights-v1", "flights-v1-pinned"}
    assert served(dump, "flight") == {}


def test_a_state_of_an_older_version_speaks_kserve(traffic):
    state = traffic.xds.parent / "traffic" / "state.json"
    stored = json.loads(state.read_text())
    assert stored["flights"]["routing"].pop("protocol") == "kserve"
    state.write_text(json.dumps(stored))
    assert traffic.read("flights").routing.protocol == "kserve"
    assert json.loads((traffic.xds / "rds.yaml").read_text())["version_info"]


def version_header(name):
    return {
        "header": {"key": "x-tidegate-version", "value": name},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }


def shown(split):
    return routes({"flights": split})["resources"][0]["virtual_hosts"][0]["routes"]


SPLIT = Split(
    weights={"flights-v1": 100, "flights-v2": 0},
    champion="flights-v1",
    endpoints={"flights-v1": "127.0.0.1:9001", "flights-v2": "127.0.0.1:9002"},
)


@pytest.mark.parametrize(
    ("routing", "policy"),
    [
        (Routing(sticky_header="x-user"), [{"header": {"header_name": "x-user"}, "terminal": True}]),
        (Routing(sticky_cookie="session"), [{"cookie": {"name": "session"}}]),
        (
            Routing(sticky_header="x-user", sticky_cookie="session"),
            [{"header": {"header_name": "x-user"}, "terminal": True}, {"cookie": {"name": "session"}}],
        ),
    ],
)
def test_sticky_callers_are_hashed_and_get_no_cookie_from_the_proxy(routing, policy):
    (route,) = shown(replace(SPLIT, routing=routing))
    assert route["route"]["weighted_clusters"]["use_hash_policy"] is True
    assert route["route"]["hash_policy"] == policy


def test_a_pin_has_a_cluster_of_its_own_and_an_unknown_one_an_answer_before_the_shares():
    split = replace(SPLIT, routing=Routing(pin_header="x-pin"))
    one, two, unknown, shares = shown(split)
    for route, name in ((one, "flights-v1"), (two, "flights-v2")):
        assert route["match"]["headers"] == [{"name": "x-pin", "string_match": {"exact": name}}]
        assert route["route"]["cluster"] == f"{name}-pinned"
        assert route["response_headers_to_add"] == [version_header(name)]
    assert unknown["match"]["headers"] == [{"name": "x-pin", "present_match": True}]
    assert unknown["direct_response"]["status"] == 404
    assert "routed: flights-v1, flights-v2" in unknown["direct_response"]["body"]["inline_string"]
    assert "headers" not in shares["match"]
    assert addresses({"flights": split}) == {
        "flights-v1": "127.0.0.1:9001",
        "flights-v1-pinned": "127.0.0.1:9001",
        "flights-v2": "127.0.0.1:9002",
        "flights-v2-pinned": "127.0.0.1:9002",
    }


def test_every_route_to_a_version_ends_after_10_s_and_tries_again_only_what_was_never_sent():
    for route in shown(replace(SPLIT, routing=Routing(pin_header="x-pin"))):
        if "direct_response" not in route:
            assert route["route"]["timeout"] == "10s"
            assert route["route"]["retry_policy"]["retry_on"] == "connect-failure"
            assert route["route"]["retry_policy"]["num_retries"] == 3


def test_a_draining_version_keeps_its_clusters_and_has_no_route():
    split = replace(SPLIT, routing=Routing(pin_header="x-pin"), draining={"flights-v0": "127.0.0.1:9000"})
    dump = {"configs": [{"route_config": routes({"flights": split})["resources"][0]}]}
    assert reached(dump, "flights") == {"flights-v1", "flights-v1-pinned", "flights-v2-pinned"}
    assert {"flights-v0", "flights-v0-pinned"} <= {made["name"] for made in clusters({"flights": split})["resources"]}


def test_a_state_of_an_older_tidegate_is_read_and_one_of_this_is_read_as_written():
    old = {"weights": {"a": 100}, "champion": "a", "revision": 3, "fence": 2, "endpoints": {"a": "h:1"}, "cause": "x"}
    read = from_json(json.dumps({"flights": old}))["flights"]
    assert read == Split({"a": 100}, "a", 3, 2, {"a": "h:1"}, "x")
    assert (read.routing, read.mirrors, read.draining) == (Routing(), {}, {})
    full = replace(
        SPLIT, routing=Routing("x-user", "session", "x-pin"), mirrors={"flights-v2": 7}, draining={"d": "h:2"}
    )
    assert from_json(to_json({"flights": full})) == {"flights": full}


def test_a_cluster_is_a_fixed_loopback_address_with_a_short_connect_timeout(traffic):
    first = table(traffic, "cds.yaml")["resources"][0]
    assert (first["name"], first["type"], first["connect_timeout"]) == ("flights-v1", "STATIC", "0.25s")
    (endpoint,) = first["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert endpoint["endpoint"]["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 9001}


def test_a_delivery_without_traffic_has_clusters_but_no_route():
    splits = {"flights": Split(weights={"flights-v1": 0}, endpoints={"flights-v1": "127.0.0.1:1"})}
    assert routes(splits)["resources"][0]["virtual_hosts"][0]["routes"] == []
    assert len(clusters(splits)["resources"]) == 1


def test_the_served_split_is_read_from_envoys_dump(traffic):
    config = table(traffic, "rds.yaml")["resources"][0]
    dump = {"configs": [{"route_config": config}]}
    assert served(dump, "flights") == {"flights-v1": 100}
    assert mirrored(dump, "flights") == {}
    assert served(dump, "other") == {}
    assert served({}, "flights") == {}


def test_another_revision_is_a_conflict_and_changes_nothing(traffic):
    before = traffic.read("flights")
    with pytest.raises(Conflict, match="at revision 3, not 2"):
        traffic.write("flights", {"flights-v2": 100}, champion="flights-v1", expected=2, fence=9)
    assert traffic.read("flights") == before


def test_a_lower_fence_is_refused(traffic):
    traffic.write("flights", {"flights-v1": 100}, champion="flights-v1", expected=3, fence=7)
    with pytest.raises(LeaseLost, match="fence 7, yours is 6"):
        traffic.write("flights", {"flights-v2": 100}, champion="flights-v1", expected=4, fence=6)


@pytest.mark.parametrize(
    ("weights", "champion"),
    [
        ({"flights-v1": 90}, "flights-v1"),
        ({"flights-v1": 110, "flights-v2": -10}, "flights-v1"),
        ({"flights-v9": 100}, "flights-v1"),
        ({"flights-v1": 100}, "flights-v9"),
    ],
)
def test_impossible_weights_are_refused(traffic, weights, champion):
    with pytest.raises(DataError):
        traffic.write("flights", weights, champion=champion, expected=3, fence=1)


@pytest.mark.parametrize("name", ["flights-v1", "flights-v2"])
def test_a_version_with_traffic_or_the_champion_keeps_its_route(traffic, name):
    traffic.write("flights", {"flights-v2": 100}, champion="flights-v1", expected=3, fence=1)
    with pytest.raises(Conflict, match="move its traffic away first"):
        traffic.unroute("flights", name)


def test_a_cluster_is_known_before_its_route_and_leaves_after_it(traffic, monkeypatch):
    order = []
    put = EnvoyTraffic._replace

    def spy(self, target, text):
        order.append(target.name)
        put(self, target, text)

    monkeypatch.setattr(EnvoyTraffic, "_replace", spy)
    traffic.route("flights", "flights-v3", "127.0.0.1:9003")
    traffic.unroute("flights", "flights-v3")
    assert order == ["state.json", "cds.yaml", "rds.yaml", "state.json", "rds.yaml", "cds.yaml"]


def test_nothing_but_whole_files_ever_appears_in_the_watched_folder(traffic):
    assert {path.name for path in traffic.xds.iterdir()} == {"rds.yaml", "cds.yaml"}


def test_routing_a_known_version_again_changes_nothing_and_a_new_port_is_taken_over(traffic):
    before = traffic.read("flights")
    assert traffic.route("flights", "flights-v1", "127.0.0.1:9001") == before
    moved = traffic.route("flights", "flights-v1", "127.0.0.1:9009")
    assert moved.endpoints["flights-v1"] == "127.0.0.1:9009"
    assert moved.weights == before.weights


def test_lost_files_are_written_again_from_the_state(traffic):
    (traffic.xds / "rds.yaml").unlink()
    traffic.reapply()
    assert table(traffic, "rds.yaml")["resources"][0]["virtual_hosts"][0]["routes"]


@pytest.mark.parametrize("text", ["{", "[1]", '{"flights": {"unheard_of": 1}}', '{"flights": 1}'])
def test_a_damaged_state_file_is_named(traffic, text):
    (traffic.xds.parent / "traffic" / "state.json").write_text(text)
    with pytest.raises(DataError, match=r"state\.json is not JSON"):
        traffic.read("flights")


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


CHANGES = {
    "a new weight": lambda traffic: traffic.write(
        "flights", {"flights-v2": 100}, champion="flights-v1", expected=3, fence=1, mirrors={"flights-v2": 5}
    ),
    "a new version": lambda traffic: traffic.route("flights", "flights-v3", "127.0.0.1:9003"),
    "a version that goes": lambda traffic: traffic.unroute("flights", "flights-v2"),
}
MENDERS = {
    "a reader": lambda traffic: traffic.read("flights"),
    "a writer of nothing new": lambda traffic: traffic.route("flights", "flights-v1", "127.0.0.1:9001"),
    "a writer of another delivery": lambda traffic: traffic.route("other", "other-v1", "127.0.0.1:9009"),
    "reapply": lambda traffic: traffic.reapply(),
}


@pytest.mark.parametrize("mender", MENDERS)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("step", range(3))
def test_whoever_comes_next_finishes_the_work_of_a_killed_writer(traffic, monkeypatch, step, change, mender):
    before, left, put = traffic.read("flights"), [step], os.replace

    def replace_or_die(*args):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        put(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_or_die)
        with pytest.raises(Killed):
            CHANGES[change](traffic)
    MENDERS[mender](traffic)
    splits = {name: EnvoyTraffic(traffic.xds).read(name) for name in traffic.deliveries()}
    assert (splits["flights"] == before) is (step == 0)
    assert table(traffic, "rds.yaml") == routes(splits)
    assert table(traffic, "cds.yaml") == clusters(splits)


def test_an_edited_file_is_left_to_confirm_and_reapply(traffic):
    edited = (traffic.xds / "rds.yaml").read_text().replace('"weight": 100', '"weight": 99')
    (traffic.xds / "rds.yaml").write_text(edited)
    traffic.read("flights")
    assert (traffic.xds / "rds.yaml").read_text() == edited
    traffic.reapply()
    assert (traffic.xds / "rds.yaml").read_text() != edited


def test_of_many_writers_at_one_revision_exactly_one_gets_through(traffic):
    def write(share):
        weights = {"flights-v1": 100 - share, "flights-v2": share}
        try:
            EnvoyTraffic(traffic.xds).write("flights", weights, champion="flights-v1", expected=3, fence=1)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(write, range(8))) == 1
    assert traffic.read("flights").revision == 4


class BesideTheFake(RuleBasedStateMachine):
    """Any calls in any order: the files and the fake agree, and Envoy is never told anything inconsistent."""

    @initialize()
    def begin(self):
        self.folder = tempfile.TemporaryDirectory()
        self.real, self.fake = EnvoyTraffic(Path(self.folder.name) / "xds"), FakeTraffic()

    def both(self, call):
        answers = []
        for traffic in (self.real, self.fake):
            try:
                answers.append(call(traffic))
            except TidegateError as error:
                answers.append((type(error), str(error)))
        assert answers[0] == answers[1]

    @rule(
        name=st.sampled_from(NAMES),
        port=st.integers(9000, 9002),
        routing=st.sampled_from((None, None, Routing(), Routing("x-user", "session", "x-pin"))),
    )
    def route(self, name, port, routing):
        self.both(lambda traffic: traffic.route("flights", name, f"127.0.0.1:{port}", routing))

    @rule(name=st.sampled_from(NAMES))
    def unroute(self, name):
        self.both(lambda traffic: traffic.unroute("flights", name))

    @rule(
        share=st.integers(0, 110),
        pair=st.permutations(NAMES),
        champion=st.sampled_from(NAMES),
        late=st.sampled_from((0, 0, 0, 1)),
        fence=st.integers(1, 3),
        mirrors=st.none() | st.dictionaries(st.sampled_from(NAMES), st.integers(0, 101), max_size=2),
    )
    def write(self, share, pair, champion, late, fence, mirrors):
        expected = self.fake.read("flights").revision - late
        weights = {pair[0]: share, pair[1]: 100 - share}
        self.both(
            lambda traffic: traffic.write(
                "flights", weights, champion=champion, expected=expected, fence=fence, mirrors=mirrors
            )
        )

    @invariant()
    def files_are_consistent(self):
        split = self.real.read("flights")
        assert sum(split.weights.values()) in (0, 100)
        assert set(split.weights) == set(split.endpoints)
        if split.revision == 0:
            return
        table = yaml.safe_load((self.real.xds / "rds.yaml").read_text())["resources"]
        known = yaml.safe_load((self.real.xds / "cds.yaml").read_text())["resources"]
        dump = {"configs": [{"route_config": table[0]}]}
        assert served(dump, "flights") == {name: weight for name, weight in split.weights.items() if weight}
        assert mirrored(dump, "flights") == split.mirrors
        assert reached(dump, "flights") <= {cluster["name"] for cluster in known}
        assert json.loads((self.real.xds.parent / "traffic" / "state.json").read_text())

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()


TestBesideTheFake = BesideTheFake.TestCase
TestBesideTheFake.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)


def test_an_envoy_that_is_away_is_named_and_one_without_an_address_is_refused(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        admin = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(Unavailable, match=f"admin port at {admin} did not answer within 2 s"):
        EnvoyTraffic(tmp_path / "xds", admin).applied("flights")
    with pytest.raises(SpecError, match="no admin address"):
        EnvoyTraffic(tmp_path / "xds").applied("flights")


def test_a_writer_that_stands_still_is_passed_by_and_writes_nothing_when_it_goes_on(traffic, tmp_path):
    """A process stopped in the midst of raising a candidate must neither hold up the way back nor undo it later."""
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tidegate.clients.envoy import EnvoyTraffic\n"
        "from tidegate.errors import Conflict\n"
        "made = EnvoyTraffic(Path(sys.argv[1]))\n"
        "load = made._load\n"
        "def stopped():\n"
        "    found = load()\n"
        "    os.kill(os.getpid(), signal.SIGSTOP)\n"
        "    return found\n"
        "made._load = stopped\n"
        "try:\n"
        "    made.write('flights', {'flights-v1': 0, 'flights-v2': 100}, champion='flights-v1', expected=3, fence=1)\n"
        "except Conflict as error:\n"
        "    print(error)\n"
        "    sys.exit(7)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(traffic.xds)], stdout=subprocess.PIPE, text=True)
    try:
        _, status = os.waitpid(child.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        begun = time.monotonic()
        after = abort(traffic, "flights", "guard")
        assert time.monotonic() - begun < 5
        child.send_signal(signal.SIGCONT)
        told, _ = child.communicate(timeout=20)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 7
    assert "was taken over while this process stood still" in told
    assert traffic.read("flights") == after
    assert after.weights == {"flights-v1": 100, "flights-v2": 0}
