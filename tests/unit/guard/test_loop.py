"""The guard's look, with traffic in memory and clocks that tests move."""

from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client.core import CollectorRegistry
from prometheus_client.exposition import generate_latest

from tidegate.clients.envoy import EnvoyTraffic
from tidegate.clients.records import Lease
from tidegate.clients.traffic import FakeTraffic
from tidegate.errors import DataError
from tidegate.guard.core import Rules
from tidegate.guard.figures import Figures
from tidegate.guard.loop import Guard
from tidegate.guard.memory import Memory

CHAMPION, CANDIDATE = "flights-v1", "flights-v2"


class Bench:
    """A guard over 10% of candidate traffic under fence 4; `begin` starts it anew on the same disk."""

    def __init__(self, folder, traffic=None):
        self.now = 1000.0
        self.logged = []
        self.traffic = traffic or FakeTraffic()
        for number in (1, 2):
            self.traffic.route("flights", f"flights-v{number}", f"127.0.0.1:{number}")
        self.give(10)
        self._file = folder / "guard" / "state.json"
        self.guard = self.another()

    def another(self, boot="this boot"):
        memory = Memory(self._file, boot)
        return Guard(self.traffic, memory, Rules(), lambda: self.now, lambda: 5e8 + self.now, self._log)

    def _log(self, *what):
        self.logged.append(what)

    def give(self, share, fence=4):
        split = self.traffic.read("flights")
        weights = {CHAMPION: 100 - share, CANDIDATE: share}
        fence = max(split.fence, fence)
        return self.traffic.write("flights", weights, champion=CHAMPION, expected=split.revision, fence=fence)

    def heard(self, remaining_s, holder="run-1", fence=4):
        expires_at = datetime(2013, 4, 1, tzinfo=UTC) + timedelta(seconds=self.now + remaining_s)
        lease = Lease(delivery="flights", holder=holder, fence=fence, expires_at=expires_at, remaining_s=remaining_s)
        self.guard.heard(self.now, [lease])

    def steps(self, seconds, answers=False):
        """Let time pass in looks of one second; the ledger fails to answer before each, or says nothing new."""
        done = []
        for _ in range(seconds):
            self.now += 1.0
            if not answers:
                self.guard.unheard(self.now)
            done += self.guard.step()
        return done

    @property
    def candidates(self):
        return self.traffic.read("flights").candidates


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    assert made.steps(1) == []
    return made


def test_a_live_lease_is_left_alone_and_one_that_runs_out_gives_the_champion_everything_once(bench):
    bench.heard(5.0)
    assert bench.steps(4) == []
    assert bench.candidates == {CANDIDATE: 10}
    assert bench.steps(1) == ["flights"]
    assert bench.candidates == {}
    ((delivery, split, why),) = bench.logged
    assert (delivery, split.champion, split.fence) == ("flights", CHAMPION, 5)
    assert "lease of run-1 (fence 4) expired 0.0 s ago" in why
    assert bench.traffic.read("flights").cause == f"guard: {why}"
    assert bench.steps(30) == []
    assert bench.guard.aborts == {"flights": 1}


def test_a_ledger_that_never_answered_is_given_the_whole_patience(bench):
    assert bench.steps(14) == []
    assert bench.steps(1) == ["flights"]


def test_a_restarted_guard_does_not_begin_its_patience_anew(bench):
    bench.steps(10)
    bench.guard = bench.another()
    assert bench.steps(4) == []
    assert bench.steps(1) == ["flights"]


def test_a_restarted_guard_counts_the_lease_down_that_it_had_heard_of(bench):
    bench.heard(15.0)
    assert bench.steps(10) == []
    bench.guard = bench.another()
    assert bench.steps(4) == []
    assert bench.steps(1) == ["flights"]
    assert "the lease of run-1 (fence 4) expired" in bench.logged[0][2]


def test_restarted_each_second_it_still_acts_in_time(bench):
    bench.heard(7.0)
    bench.steps(1)
    for _ in range(5):
        bench.guard = bench.another()
        assert bench.steps(1) == []
    bench.guard = bench.another()
    assert bench.steps(1) == ["flights"]


def test_after_a_reboot_no_lease_of_the_boot_before_holds_and_the_ledger_is_asked_first(bench):
    bench.heard(100.0)
    bench.steps(1)
    bench.now = 40.0  # seconds since the new boot
    bench.guard = bench.another(boot="the next boot")
    assert bench.guard.step() == []
    assert bench.steps(1) == ["flights"]
    assert "has not answered for 41 s" in bench.logged[0][2]


def test_after_a_reboot_a_live_owner_keeps_the_traffic(bench):
    bench.steps(1)
    bench.now = 40.0
    bench.guard = bench.another(boot="the next boot")
    assert bench.guard.step() == []
    bench.heard(15.0)
    assert bench.steps(5, answers=True) == []


def freeze(bench, seconds):
    bench.now += seconds


def test_a_guard_that_was_frozen_asks_the_ledger_before_it_acts(bench):
    bench.heard(15.0)
    bench.steps(1)
    freeze(bench, 60)
    assert bench.guard.step() == []  # by what it knows, the lease ran out 46 s ago
    bench.now += 0.1
    bench.heard(12.0)  # its owner was alive all the time
    assert bench.steps(5, answers=True) == []
    assert bench.candidates == {CANDIDATE: 10}


def test_an_answer_to_a_question_from_before_the_pause_does_not_count(bench):
    asked_at = bench.now
    bench.heard(15.0)
    bench.steps(1)
    freeze(bench, 60)
    bench.guard.unheard(asked_at)
    assert bench.guard.step() == []


def test_a_frozen_guard_that_then_hears_that_the_lease_is_gone_acts(bench):
    bench.heard(15.0)
    bench.steps(1)
    freeze(bench, 60)
    bench.heard(-45.0)
    assert bench.guard.step() == ["flights"]


def test_a_frozen_guard_whose_ledger_hangs_acts_four_seconds_later(bench):
    bench.heard(15.0)
    bench.steps(1)
    freeze(bench, 60)
    assert bench.guard.step() == []
    assert bench.steps(3, answers=True) == []
    assert bench.steps(1, answers=True) == ["flights"]


def test_a_guard_frozen_between_its_look_and_its_act_does_not_act(bench):
    bench.heard(-1.0)
    times = iter([bench.now + 1, bench.now + 1, bench.now + 30])
    bench.guard._clock = lambda: next(times)
    assert bench.guard.step() == []
    assert bench.candidates == {CANDIDATE: 10}


def test_two_guards_make_one_change(bench):
    other, writes = bench.another(), len(bench.traffic.history)
    bench.heard(-1.0)
    other.heard(bench.now, [])
    assert bench.steps(1, answers=True) == ["flights"]
    assert other.step() == []
    assert len(bench.traffic.history) == writes + 1


def test_traffic_that_changed_after_it_was_judged_is_judged_anew(tmp_path):
    """The other guard, or the owner under a new lease, writes between this one's look and its write."""

    class Raced(FakeTraffic):
        race = None

        def write(self, *args, **kwargs):
            race, self.race = self.race, None
            if race:
                race()
            return super().write(*args, **kwargs)

    bench = Bench(tmp_path, Raced())
    bench.steps(1)
    bench.heard(-1.0)
    bench.traffic.race = lambda: bench.give(50, fence=5)
    assert bench.steps(1, answers=True) == []
    assert bench.candidates == {CANDIDATE: 50}  # fence 5 is new: nothing is known against it yet
    bench.heard(-1.0, fence=5)
    bench.traffic.race = lambda: bench.give(0, fence=5)
    assert bench.steps(1, answers=True) == []
    assert bench.guard.aborts == {}


def test_one_delivery_that_cannot_be_looked_at_does_not_hold_up_the_others(tmp_path):
    class Broken(FakeTraffic):
        def deliveries(self):
            return ["broken", "flights"]

        def read(self, delivery):
            if delivery == "broken":
                raise DataError("state.json is not JSON")
            return super().read(delivery)

    bench = Bench(tmp_path, Broken())
    bench.heard(-1.0)
    assert bench.steps(1, answers=True) == ["flights"]
    assert bench.guard.looked_at == 0  # the look was not completed: the heartbeat stands still


def test_nothing_is_written_to_disk_while_nothing_is_at_stake(tmp_path):
    bench = Bench(tmp_path)
    bench.give(0)
    for _ in range(3):
        bench.heard(60.0)
        bench.steps(1, answers=True)
    assert not (tmp_path / "guard").exists()


def test_the_files_that_envoy_watches_are_rewritten(tmp_path):
    bench = Bench(tmp_path, EnvoyTraffic(tmp_path / "xds"))
    bench.steps(1)
    bench.heard(-1.0)
    assert bench.steps(1, answers=True) == ["flights"]
    assert CANDIDATE not in (tmp_path / "xds" / "rds.yaml").read_text()


def figures(bench):
    registry = CollectorRegistry()
    registry.register(Figures(bench.guard))
    return generate_latest(registry).decode()


def test_the_figures_tell_weights_roles_leases_aborts_quarantine_and_the_heartbeat(bench):
    assert 'tidegate_traffic_role{delivery="flights",role="candidate",version="flights-v2"} 1.0' in figures(bench)
    bench.heard(-1.0)
    bench.heard(15.0, fence=3)
    bench.guard.quarantined = {("flights", "weather", "not a time"): 3}
    bench.steps(1, answers=True)
    text = figures(bench)
    for line in (
        'tidegate_traffic_weight{delivery="flights",version="flights-v1"} 100.0',
        'tidegate_traffic_weight{delivery="flights",version="flights-v2"} 0.0',
        'tidegate_traffic_role{delivery="flights",role="champion",version="flights-v1"} 1.0',
        'tidegate_guard_aborts_total{delivery="flights"} 1.0',
        'tidegate_guard_disbelieved_total{delivery="flights"} 1.0',
        'tidegate_lease_expires_seconds{delivery="flights"} -2.0',
        'tidegate_rows_quarantined_total{delivery="flights",reason="not a time",source="weather"} 3.0',
        "tidegate_guard_heartbeat_timestamp_seconds 5.00001002e+08",
        "tidegate_guard_ledger_answered_timestamp_seconds 5.00001001e+08",
    ):
        assert line in text
    assert 'role="candidate"' not in text
