"""Real traffic of identical versions: how often the judge takes one of them for worse than another.

Five servers of the same bundle stand behind the real Envoy, each a Triton of its own: the first has 60% of the traffic,
the others 10% each. Every ordered pair of them is judged, window after window, on what Prometheus scraped. The windows
of a pair follow each other and the pairs share versions, so they are not independent runs, and no interval is given.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import tiny
from tidegate.clients.envoy import EnvoyTraffic
from tidegate.clients.ledger import Ledger
from tidegate.clients.prometheus import PrometheusMetrics
from tidegate.clients.triton import TritonServer
from tidegate.delivery import Limits, RolloutSpec, Stage, project_root
from tidegate.demo.recorder import Recorder
from tidegate.demo.traffic import LiveTraffic
from tidegate.judge import StageJudge
from tidegate.judge.series import Interval, intervals
from tidegate.lake import Lake
from tidegate.rollout.watch import PAST_S
from tidegate.stack import daemon
from tidegate.stack.config import StackConfig
from tidegate.stack.up import up
from tidegate.wire import kserve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tidegate.judge.series import Scrape

RATE = 150.0
WINDOW_S = 60.0
FAILING = 0.01
"""Share of requests whose carrier the model's graph refuses: failures that every version has alike."""
NAMES = [f"{tiny.DELIVERY}-v{version}" for version in range(1, 6)]
SPEC = RolloutSpec(
    stages=[Stage(weight=0.1, requests=10**6), Stage(weight=1.0, requests=10**6)], limits=Limits(errors=0.1, p99=1.0)
)


@dataclass(frozen=True)
class Found:
    """What was seen."""

    judged: int
    """Windows of a pair."""
    alarms: list[str]
    """What the judge said of each that it took for worse."""
    requests: int
    failed: int


def measure(seconds: float, budget: float, say: Callable[[str], None]) -> Found:
    """Run the traffic for so long, then judge every pair with this budget of false alarms per window."""
    cfg = StackConfig.load(project_root() / "var" / "bench" / "stack")
    say("starting the stack")
    up(cfg)
    metrics = PrometheusMetrics(cfg.url("prometheus"), timeout_s=30.0)
    recorder = Recorder()
    try:
        _serve(cfg, PAST_S + seconds + 60.0)
        url = f"{cfg.url('envoy')}/v2/models/{tiny.DELIVERY}/infer"
        callers = LiveTraffic(url, _bodies(), RATE, recorder)
        callers.start()
        begun = time.time()
        say(f"{len(NAMES)} identical versions, {RATE:.0f} requests/s for {PAST_S + seconds:.0f} s")
        time.sleep(PAST_S + seconds)
        scrapes = metrics.between(NAMES, begun + 5.0, time.time())
        callers.stop()
    finally:
        daemon.stop(cfg)
    alarms, judged = [], 0
    for candidate, champion in permutations(NAMES, 2):
        said = judge(scrapes, candidate, champion, budget)
        judged += len(said)
        alarms += [f"{candidate} beside {champion}: {reason}" for reason in said if reason]
    answers = recorder.between(begun, time.time())
    return Found(judged, alarms, len(answers), sum(one.status != 200 for one in answers))


def judge(scrapes: Sequence[Scrape], candidate: str, champion: str, budget: float) -> list[str]:
    """Return what the judge says of a candidate's windows: why it failed, or nothing."""
    seen = list(intervals(scrapes, candidate, champion))
    first = seen[0].start + PAST_S
    said = []
    for since in np.arange(first, seen[-1].end - WINDOW_S, WINDOW_S):
        stage = Stage(weight=_share(seen, since), requests=10**9)
        one = StageJudge(stage, SPEC, budget, float(since))
        reason = ""
        for interval in seen:
            if interval.champion is not None and since - PAST_S <= interval.start < since:
                one.learn(interval.champion)
            elif since <= interval.start < since + WINDOW_S and not reason:
                one.take(interval)
                verdict = one.verdict(interval.end)
                reason = verdict.reason if verdict.decision == "fail" else ""
        said.append(reason)
    return said


def _share(seen: Sequence[Interval], since: float) -> float:
    """Return the candidate's share of both versions' requests before a window, which its stage then states."""
    pairs = [(one.candidate, one.champion) for one in seen if one.end <= since]
    mine = sum(candidate.requests for candidate, _ in pairs if candidate)
    theirs = sum(champion.requests for _, champion in pairs if champion)
    return mine / (mine + theirs)


def _serve(cfg: StackConfig, seconds: float) -> None:
    """Deploy every version and share the traffic, under a lease for so long: else the guard ends it."""
    lake = Lake(f"file://{cfg.paths.lake}")
    servers = TritonServer(
        daemon.supervision(cfg), cfg.paths.python_serve, cfg.paths.serving, lake, cfg.paths.triton_targets
    )
    traffic = EnvoyTraffic(cfg.paths.xds, admin=cfg.url("envoy-admin"))
    for version, name in enumerate(NAMES, start=1):
        endpoint = servers.deploy(tiny.publish(lake, version, ["AA", "UA"]))
        traffic.route(tiny.DELIVERY, name, endpoint.address)
    split = traffic.read(tiny.DELIVERY)
    ledger = Ledger(cfg.postgres_dsn("tidegate"))
    lease = ledger.acquire(tiny.DELIVERY, "benchmark", seconds, floor=split.fence + 1, seize=True)
    weights = {name: 60 if name == NAMES[0] else 10 for name in NAMES}
    split = traffic.write(
        tiny.DELIVERY, weights, champion=NAMES[0], expected=split.revision, fence=lease.fence, cause="benchmark"
    )
    traffic.confirm(tiny.DELIVERY, split.weights)


def _bodies() -> list[bytes]:
    chance = np.random.default_rng(0)
    carriers = np.where(chance.random(5000) < FAILING, "ZZ", chance.choice(["AA", "B6", "UA"], 5000))
    distances = chance.normal(100.0, 10.0, 5000)
    return kserve.bodies(tiny.FEATURES, {"carrier": carriers.tolist(), "distance": distances.tolist()})
