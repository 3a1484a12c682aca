"""The plan's invariants on the real Envoy and Postgres, under any order of steps, aborts and dead holders."""

from __future__ import annotations

import time
import uuid
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.stack.test_rollout import Registry, Servers, Version
from tidegate.clients.envoy import EnvoyTraffic
from tidegate.clients.ledger import Ledger
from tidegate.delivery import RolloutSpec, Stage
from tidegate.errors import Conflict, LeaseLost
from tidegate.rollout import actions
from tidegate.rollout.plan import NotAllowed
from tidegate.stack.config import StackConfig

pytestmark = pytest.mark.stack
STAGES = [Stage(mirror=1.0, requests=1), *(Stage(weight=share, requests=1) for share in (0.1, 0.5, 1.0))]
SPEC = RolloutSpec(stages=STAGES, bake=0)
REFUSED = (NotAllowed, LeaseLost, Conflict)


class Machine(RuleBasedStateMachine):
    """One delivery with a champion; every rule may be refused, and whatever happens the invariants hold."""

    stack: StackConfig
    versions: dict[int, Version]

    def __init__(self) -> None:
        super().__init__()
        self.delivery = f"m{uuid.uuid4().hex[:10]}"
        named = {f"{self.delivery}-v{number}": version for number, version in self.versions.items()}
        self.servers, self.registry = Servers({}), Registry()
        self.servers._versions = {
            name: SimpleNamespace(name=name, host=version.host, port=version.port) for name, version in named.items()
        }
        traffic = EnvoyTraffic(self.stack.paths.xds, self.stack.url("envoy-admin"))
        self.hands = actions.Hands(
            Ledger(self.stack.postgres_dsn("tidegate")), traffic, traffic, self.servers, self.registry,
            lambda name, number: SimpleNamespace(name=f"{name}-v{number}"), ttl_s=60,
        )  # fmt: skip
        self.number, self.runs = 1, 0
        self.open: tuple[str, object] | None = None
        self.aborted: set[str] = set()
        self._begin(1)
        actions.promote(self.hands, *self.open, "machine")
        self.open = None

    def _begin(self, version: int) -> None:
        self.runs += 1
        rollout_id = f"{self.delivery}-r{self.runs}"
        rollout, lease = actions.begin(
            self.hands, self.delivery, f"{self.delivery}-v{version}", rollout_id, rollout_id, SPEC, "machine"
        )
        actions.deploy(self.hands, rollout.id, lease, "machine")
        self.open = (rollout.id, lease)

    @property
    def split(self):
        return self.hands.traffic.read(self.delivery)

    def _try(self, step, *given):
        try:
            return step(self.hands, *given)
        except REFUSED:
            return None

    @rule(version=st.integers(2, 3))
    def begin(self, version):
        if f"{self.delivery}-v{version}" == self.split.champion:
            return
        try:
            self._begin(version)
        except REFUSED:
            return

    @precondition(lambda self: self.open)
    @rule(stage=st.integers(0, 3))
    def shift(self, stage):
        self._try(actions.shift, *self.open, stage, "machine")

    @precondition(lambda self: self.open)
    @rule()
    def all_stages(self):
        for stage in range(4):
            self._try(actions.shift, *self.open, stage, "machine")

    @precondition(lambda self: self.open)
    @rule()
    def bake(self):
        self._try(actions.bake, *self.open, "machine")

    @precondition(lambda self: self.open)
    @rule()
    def promote(self):
        self._try(actions.promote, *self.open, "machine")

    @precondition(lambda self: self.open)
    @rule()
    def abort(self):
        rollout = self.hands.ledger.rollout(self.open[0])
        if rollout.outcome is None:
            self._try(actions.abort_rollout, rollout.id, self.delivery, "machine", "tried")
            self.aborted.add(rollout.id)

    @rule()
    def roll_back(self):
        self.runs += 1
        self._try(actions.rollback, self.delivery, f"{self.delivery}-b{self.runs}", "machine", "tried")

    @precondition(lambda self: self.open)
    @rule()
    def holder_dies(self):
        """The lease runs out; the stack's own guard, a process beside us, takes the traffic."""
        lease = self.hands.ledger.lease(self.delivery)
        if lease.live and self.split.on_trial:
            self.hands.ledger.acquire(self.delivery, lease.holder, 0.1)
            deadline = time.monotonic() + 10
            while self.split.on_trial:
                assert time.monotonic() < deadline, "the guard takes the traffic of a dead holder's candidate"
                time.sleep(0.1)

    @rule()
    def reconcile(self):
        self._try(actions.reconcile, self.delivery)

    @invariant()
    def the_proxy_serves_what_is_recorded_and_it_sums_to_100(self):
        split = self.split
        self.hands.proxy.confirm(self.delivery, split.weights, split.mirrors)
        assert sum(split.weights.values()) == 100
        assert split.champion is not None

    @invariant()
    def who_has_traffic_or_is_the_champion_has_a_server(self):
        split = self.split
        served = {name for name, share in split.weights.items() if share} | set(split.mirrors) | {split.champion}
        assert served <= self.servers.running

    @invariant()
    def a_candidate_has_traffic_only_in_an_open_rollout_that_was_not_aborted(self):
        on_trial = self.split.on_trial
        if not on_trial:
            return
        opened = [one for one in self.hands.ledger.rollouts(self.delivery) if one.outcome is None]
        assert [one.candidate for one in opened] == list(on_trial)
        assert opened[0].id not in self.aborted
        assert self.hands.ledger.lease(self.delivery).live

    @invariant()
    def the_alias_is_the_champions(self):
        ended = self.hands.ledger.rollouts(self.delivery)[0].outcome is not None
        if ended:
            assert f"{self.delivery}-v{self.registry.aliases['champion']}" == self.split.champion

    def teardown(self):
        self._try(actions.rollback, self.delivery, f"{self.delivery}-end", "machine", "the end")


def test_no_order_of_steps_breaks_the_invariants(stack: StackConfig) -> None:
    versions = {number: Version(f"machine-v{number}") for number in (1, 2, 3)}
    try:
        run_state_machine_as_test(
            type("OnTheStack", (Machine,), {"stack": stack, "versions": versions}),
            settings=settings(
                max_examples=12, stateful_step_count=10, deadline=None, derandomize=True,
                suppress_health_check=list(HealthCheck),
            ),
        )  # fmt: skip
    finally:
        for version in versions.values():
            version.close()
