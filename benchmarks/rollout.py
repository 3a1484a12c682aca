"""How soon a bad candidate is off the traffic: repeated rollouts on the real Envoy, Prometheus and Postgres.

`python -m benchmarks.rollout [--quick]` starts an embedded stack of its own (var/bench/stack), puts two small servers
behind the proxy as champion and candidate, and sends 100 requests/s of open-loop traffic with the candidate at 10%. The
watch is the very code that Airflow's triggerer runs. It also counts requests failed over 100 weight changes. What other
rules would need, and how often they abort identical versions, is in benchmarks/judge.py.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aiohttp import web
from rich.console import Console
from rich.table import Table

from tidegate.clients.envoy import EnvoyTraffic
from tidegate.clients.ledger import Ledger
from tidegate.clients.model_server import Endpoint
from tidegate.clients.prometheus import PrometheusMetrics
from tidegate.delivery import Limits, RolloutSpec, Stage, project_root
from tidegate.demo.recorder import Recorder, by_switching
from tidegate.demo.traffic import LiveTraffic
from tidegate.rollout import actions
from tidegate.rollout.watch import PAST_S, Watch
from tidegate.stack import daemon
from tidegate.stack.config import StackConfig
from tidegate.stack.up import up

RATE, WEIGHT = 100.0, 0.1
DELIVERY = "bench"
SPEC = RolloutSpec(
    stages=[Stage(weight=WEIGHT, requests=10**6), Stage(weight=1.0, requests=10**6)],
    limits=Limits(errors=0.5, p99=5.0),  # far away: what is measured is the comparison with the champion
    deadline=600,
    lease=30,
)
BASE_S, SPREAD = 0.005, 0.3


@dataclass(frozen=True)
class Trouble:
    """What is wrong with a candidate, and within how many seconds it should be gone."""

    name: str
    errors: float
    slower: float
    goal_s: float


TROUBLES = (
    Trouble("every answer fails", 1.0, 1.0, 2.0),
    Trouble("5% fail", 0.05, 1.0, 3.0),
    Trouble("3x slower", 0.0, 3.0, 4.0),
)


class Version:
    """A small server that answers after a log-normal time and fails by chance, as told."""

    def __init__(self, name: str, seed: int):
        import random

        self.name, self.port = name, 0
        self.errors, self.slower = 0.0, 1.0
        self._chance = random.Random(seed)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        self._ready.wait(10)

    async def _serve(self) -> None:
        app = web.Application()
        app.router.add_post("/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]  # its public API tells no port
        self._ready.set()
        await asyncio.Event().wait()

    async def _answer(self, request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(BASE_S * self.slower * self._chance.lognormvariate(0.0, SPREAD))
        return web.json_response({}, status=500 if self._chance.random() < self.errors else 200)


class Servers:
    """The two servers as a model-server backend that has nothing to load."""

    def __init__(self, versions: dict[str, Version]):
        self._versions = versions

    def deploy(self, bundle: Any) -> Endpoint:
        """Return where the version listens."""
        return Endpoint(name=bundle.name, host="127.0.0.1", port=self._versions[bundle.name].port, metrics_port=0)

    def ready(self, name: str) -> bool:
        """Whether it is one of the two."""
        return name in self._versions

    def retire(self, name: str) -> None:
        """Leave it running for the next rollout."""

    def endpoints(self) -> dict[str, Endpoint]:
        """Return none: nothing is kept."""
        return {}


class NoAliases:
    """No registry takes part in what is measured."""

    def set_alias(self, delivery: str, alias: str, version: int) -> None:
        """Do nothing."""

    def drop_alias(self, delivery: str, alias: str) -> None:
        """Do nothing."""


class Bench:
    """The stack, the two versions and the callers."""

    def __init__(self, cfg: StackConfig):
        self.versions = {name: Version(name, seed) for seed, name in enumerate((f"{DELIVERY}-v1", f"{DELIVERY}-v2"))}
        self.metrics = PrometheusMetrics(cfg.url("prometheus"))
        traffic = EnvoyTraffic(cfg.paths.xds, admin=cfg.url("envoy-admin"))
        self.hands = actions.Hands(
            Ledger(cfg.postgres_dsn("tidegate")),
            traffic,
            traffic,
            Servers(self.versions),  # type: ignore[arg-type]
            NoAliases(),
            lambda name, version: SimpleNamespace(name=f"{name}-v{version}"),  # type: ignore[arg-type,return-value]
            ttl_s=SPEC.lease,
        )
        self.recorder = Recorder()
        url = f"{cfg.url('envoy')}/v2/models/{DELIVERY}/infer"
        self.callers = LiveTraffic(url, [b"{}"], RATE, self.recorder)
        self._stamp = f"{time.time():.0f}"
        self._number = 0

    def install(self, seconds: float) -> None:
        """Make the first version champion and let callers come for a while, as a champion has them."""
        split = self.hands.traffic.read(DELIVERY)
        if split.champion is None:
            rollout, lease = self._begin(1)
            actions.promote(self.hands, rollout.id, lease, "bench")
        else:
            for name, version in self.versions.items():
                self.hands.traffic.route(DELIVERY, name, f"127.0.0.1:{version.port}")
        self.callers.start()
        time.sleep(seconds)

    def rollout(self, trouble: Trouble) -> tuple[float, int, str]:
        """Roll a bad candidate out; return seconds from its first bad answer to its last one, its answers, and why."""
        bad = self.versions[f"{DELIVERY}-v2"]
        bad.errors, bad.slower = trouble.errors, trouble.slower
        rollout, lease = self._begin(2)
        begun = time.time()
        actions.shift(self.hands, rollout.id, lease, 0, "bench")
        known = self.hands.ledger.rollout(rollout.id)
        if known is None:
            raise SystemExit(f"the ledger has lost rollout {rollout.id}")
        watch = Watch(self.hands, self.metrics, known, lease, SPEC)
        while (verdict := watch.look()).decision == "hold":
            time.sleep(watch.next_scrape_in_s)
        actions.rollback(self.hands, DELIVERY, f"{rollout.id}-back", "bench", verdict.reason, rollout_id=rollout.id)
        time.sleep(1.0)
        mine = [one for one in self.recorder.between(begun - 1, time.time()) if one.version == bad.name]
        wrong = [one.scheduled_at + one.latency_s for one in mine if trouble.slower > 1 or one.status != 200]
        last = max(one.scheduled_at for one in mine)
        time.sleep(4.0)
        return last - min(wrong), len(mine), verdict.reason

    def switches(self, count: int) -> tuple[int, int]:
        """Change the weights so many times under traffic; return (requests failed by switching, requests)."""
        good = self.versions[f"{DELIVERY}-v2"]
        good.errors, good.slower = 0.0, 1.0
        rollout, lease = self._begin(2)
        begun = time.time()
        traffic = self.hands.traffic
        for number in range(count):
            share = (10, 50, 90, 100, 0)[number % 5]
            split = traffic.read(DELIVERY)
            weights = {f"{DELIVERY}-v1": 100 - share, f"{DELIVERY}-v2": share}
            split = traffic.write(
                DELIVERY, weights, champion=f"{DELIVERY}-v1", expected=split.revision, fence=lease.fence
            )
            self.hands.proxy.confirm(DELIVERY, split.weights)
            self.hands.ledger.renew(lease, SPEC.lease)
            time.sleep(0.1)
        actions.rollback(self.hands, DELIVERY, f"{rollout.id}-back", "bench", "done", rollout_id=rollout.id)
        time.sleep(1.0)
        answers = self.recorder.between(begun, time.time())
        return sum(by_switching(one) for one in answers), len(answers)

    def _begin(self, version: int) -> Any:
        self._number += 1
        name = f"bench-{self._stamp}-{self._number}"
        rollout, lease = actions.begin(self.hands, DELIVERY, f"{DELIVERY}-v{version}", name, name, SPEC, "bench")
        actions.deploy(self.hands, rollout.id, lease, "bench")
        return rollout, lease


def plot(times: dict[str, list[float]], folder: Path) -> Path:
    """Draw every rollout's time, with the goals; return the file's path."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axis = figure.subplots()
    for place, trouble in enumerate(TROUBLES):
        values = times[trouble.name]
        axis.plot(values, [place] * len(values), "|", ms=14, color="#2a6f97")
        axis.plot(statistics.median(values), place, "o", color="#2a6f97", label="median" if place == 0 else None)
        axis.plot(trouble.goal_s, place, "x", color="#a4243b", label="goal" if place == 0 else None)
    axis.set_yticks(range(len(TROUBLES)), [trouble.name for trouble in TROUBLES])
    axis.invert_yaxis()
    axis.set_xlabel("seconds from a candidate's first bad answer to its last one")
    axis.set_xlim(left=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "rollout.png", dpi=110)
    return folder / "rollout.png"


def main() -> None:
    """Measure, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one rollout of each kind, after the stack is up")
    asked = parser.parse_args()
    console, repeats = Console(width=150), 1 if asked.quick else 20
    folder = project_root() / "var" / "bench"
    cfg = StackConfig.load(folder / "stack")
    console.print("starting the stack", highlight=False)
    up(cfg)
    try:
        bench = Bench(cfg)
        bench.install(10.0 if asked.quick else PAST_S)
        times: dict[str, list[float]] = {}
        answers: dict[str, list[int]] = {}
        for trouble in TROUBLES:
            for number in range(repeats):
                seconds, count, reason = bench.rollout(trouble)
                times.setdefault(trouble.name, []).append(seconds)
                answers.setdefault(trouble.name, []).append(count)
                console.print(f"{trouble.name} {number + 1}/{repeats}: {seconds:.1f} s; {reason}", highlight=False)
        failed, requests = bench.switches(20 if asked.quick else 100)
        bench.callers.stop()
    finally:
        daemon.stop(cfg)
    table = Table(title=f"{RATE:.0f} requests/s, candidate at {WEIGHT:.0%}, scrape 1 s", title_justify="left")
    titles = (
        "candidate",
        "median s",
        "fastest",
        "slowest",
        "its answers",
        "goal",
    )
    for title in titles:
        table.add_column(title, justify="left" if title == "candidate" else "right")
    figures = []
    for trouble in TROUBLES:
        seen = times[trouble.name]
        median = statistics.median(seen)
        table.add_row(
            trouble.name,
            f"{median:.1f}",
            f"{min(seen):.1f}",
            f"{max(seen):.1f}",
            f"{statistics.median(answers[trouble.name]):.0f}",
            f"{trouble.goal_s:g}",
        )
        figures.append(
            {
                "id": f"seconds.{trouble.name}",
                "what": f"median seconds from first bad answer to 0%, {trouble.name}",
                "value": round(median, 2),
                "unit": "s",
                "peer": None,
                "peer_value": None,
                "ratio": None,
                "goal": f"<= {trouble.goal_s:g} s",
                "met": median <= trouble.goal_s,
            }
        )
    console.print(table)
    console.print(f"requests failed by switching: {failed} of {requests}", highlight=False)
    figures.append(
        {
            "id": "failed_by_switching", "what": "requests failed over weight changes under load", "value": failed,
            "unit": "requests", "peer": None, "peer_value": None, "ratio": None, "goal": "0", "met": failed == 0,
        }
    )  # fmt: skip
    console.print(f"plot: {plot(times, folder)}", highlight=False, soft_wrap=True)
    print(json.dumps({"benchmark": "rollout", "quick": asked.quick, "figures": figures}))


if __name__ == "__main__":
    main()
