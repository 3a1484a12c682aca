"""How often the judge errs and how soon it sees: beside the limit, and beside what a user would pick instead.

`python -m benchmarks.judge [--quick] [--real MINUTES]` prints tables, writes var/bench/judge.png, and ends with a JSON
object. Without --quick it also starts an embedded stack of its own for real traffic of identical versions.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from scipy import stats

from benchmarks import identical, peers
from benchmarks.peers import Run
from benchmarks.simulated import EDGES, KINDS, Kind, Version, run, worse
from tidegate.delivery import project_root
from tidegate.rollout.watch import PAST_S

BUDGET = 0.01
MARGIN_ERRORS, MARGIN_LATENCY = peers.SPEC.versus_champion.errors, peers.SPEC.versus_champion.p99
SECONDS = 420
SEED = 20261125
"""Of all runs here; the judge's priors were chosen on other seeds. Take a new one after you touched a prior."""
PLAIN = KINDS[0]


@dataclass(frozen=True)
class Trouble:
    """A way in which a candidate is bad."""

    name: str
    candidate: Version

    @property
    def is_errors(self) -> bool:
        """Whether it is about failures, not about time."""
        return self.candidate.errors != PLAIN.base.errors


TROUBLES = (
    Trouble("every answer fails", worse(PLAIN.base, errors=1.0)),
    Trouble("20% errors", worse(PLAIN.base, errors=0.2)),
    Trouble("5% errors", worse(PLAIN.base, errors=0.05)),
    Trouble("2% errors", worse(PLAIN.base, errors=0.02)),
    Trouble("1% errors", worse(PLAIN.base, errors=0.01)),
    Trouble("3x slower", worse(PLAIN.base, median_ms=15.0)),
    Trouble("2x slower", worse(PLAIN.base, median_ms=10.0)),
    Trouble("1.7x slower", worse(PLAIN.base, median_ms=8.5)),
    Trouble("1.5x slower", worse(PLAIN.base, median_ms=7.5)),
    Trouble("2% of answers 500 ms late", worse(PLAIN.base, late=0.02)),
)
RULES: dict[str, tuple[Any, tuple[float, ...]]] = {
    "Flagger (10 s)": (peers.flagger, (1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)),
    "Argo (1 s)": (peers.argo, (0, 1, 2, 3, 5, 8, 12, 20, 40, 80, 160, 420)),
    "Argo (documented)": (peers.argo_documented, (3,)),
    "Kayenta": (peers.kayenta, (0.02, 0.01, 0.003, 0.001, 1e-4, 1e-5)),
    "fixed sample": (peers.fixed_sample, (0.01, 0.003, 0.001, 3e-4, 1e-4, 1e-5, 1e-6, 1e-8)),
}


def recorded(kind: Kind, candidate: Version, seconds: int, seed: int) -> Run:
    """Return a run as arrays; where scrapes are lost, an interval counts as one second."""
    chance = np.random.default_rng((SEED, seed))
    found = list(run(kind, candidate, seconds, chance))
    sides = [(one.candidate, one.champion) for one in found]
    before = [one.champion for one in run(kind, kind.base, round(PAST_S), chance) if one.champion]
    return Run(
        np.array([[side.requests for side in pair] for pair in sides]),
        np.array([[side.errors for side in pair] for pair in sides]),
        np.array([[side.buckets for side in pair] for pair in sides]),
        kind.weight,
        np.array([did.buckets for did in before]),
        np.array([did.errors for did in before]),
        kind.base.errors,
    )


def alarms(kind: Kind, seconds: int, seed: int) -> bool:
    """Whether a whole rollout of an identical candidate is aborted: 10% (or the kind's weight), then 50%."""
    first = recorded(kind, kind.base, seconds, seed)
    if peers.ours(first, 0.5 * BUDGET) is not None:
        return True
    half = Kind(**{**kind.__dict__, "weight": 0.5})
    return peers.ours(recorded(half, kind.base, seconds // 2, seed + 500_000), 0.25 * BUDGET) is not None


def detected(trouble: Trouble, knobs: dict[str, float], seed: int) -> dict[str, tuple[float, float]]:
    """Return (seconds, requests) to detection per method; infinite where it was not detected in the run."""
    one = recorded(PLAIN, trouble.candidate, SECONDS, seed)
    found: dict[str, int | None] = {"Tidegate": peers.ours(one, 0.5 * BUDGET)}
    found |= {name: rule(one, knobs[name]) for name, (rule, _) in RULES.items()}
    for name, margins in (("limit", (MARGIN_ERRORS, MARGIN_LATENCY)), ("limit without margin", (1.0, 1.0))):
        found[name] = peers.sprt(one, *_truth(trouble, *margins))
    asked = one.requests[:, 0].cumsum()
    return {
        name: (float(second), float(asked[second - 1])) if second else (np.inf, np.inf)
        for name, second in found.items()
    }


def _truth(trouble: Trouble, errors: float, latency: float) -> tuple[Any, Any]:
    base, candidate = PLAIN.base, trouble.candidate
    if trouble.is_errors:
        return (errors * base.errors, candidate.errors), None
    if candidate.late:  # the nearest version that is allowed is the champion itself: most answers are just as fast
        latency = 1.0
    return None, (_shares(worse(base, median_ms=base.median_ms * latency)), _shares(candidate))


def _shares(version: Version) -> Any:
    """Return the chances [buckets] of an answer's bucket."""

    def within(edges: Any) -> Any:
        shifted = np.maximum(edges, 1e-9)
        return stats.norm.cdf(np.log(shifted / version.median_ms) / version.spread)

    edges = np.array(EDGES)
    below = (1 - version.late) * within(edges) + version.late * within(np.maximum(edges - 500.0, 1e-9))
    shares = np.diff([0.0, *below])
    return np.maximum(shares, 1e-12) / np.maximum(shares, 1e-12).sum()


def interval(count: int, of: int) -> tuple[float, float]:
    """Return the 95% interval of a share (Clopper and Pearson, Biometrika 26, 1934)."""
    low = float(stats.beta.ppf(0.025, count, of - count + 1)) if count else 0.0
    high = float(stats.beta.ppf(0.975, count + 1, of - count)) if count < of else 1.0
    return low, high


def measure(pool: ProcessPoolExecutor, quick: bool, progress: Progress) -> dict[str, Any]:
    """Run everything and return the raw results."""
    rollouts, runs, seconds = (30, 21, 150) if quick else (400, 201, 300)
    found: dict[str, Any] = {"rollouts": rollouts, "runs": runs, "alarms": {}, "power": {}}
    task = progress.add_task("identical versions", total=len(KINDS))
    for kind in KINDS:
        found["alarms"][kind.name] = sum(pool.map(partial(alarms, kind, seconds), range(rollouts), chunksize=10))
        progress.advance(task)
    each = 10 if quick else 100
    identical = {
        kind.name: list(pool.map(partial(recorded, kind, kind.base, SECONDS), range(9000, 9000 + each), chunksize=5))
        for kind in KINDS
    }
    task = progress.add_task("rules tuned to 1%", total=len(RULES))
    found["knobs"], found["rule_alarms"], found["untuned"] = {}, {}, {}
    tuning = {
        name: (
            pool.submit(peers.tuned, rule, knobs[:1], identical, 1.0),
            pool.submit(peers.tuned, rule, knobs, identical, BUDGET),
        )
        for name, (rule, knobs) in RULES.items()
    }
    for name, (as_is, compared) in tuning.items():
        found["untuned"][name] = max(as_is.result()[1].values())
        found["knobs"][name], by_kind = compared.result()
        found["rule_alarms"][name] = max(by_kind.values())
        progress.advance(task)
    task = progress.add_task("bad versions", total=len(TROUBLES))
    for trouble in TROUBLES:
        each = list(pool.map(partial(detected, trouble, found["knobs"]), range(runs), chunksize=5))
        found["power"][trouble.name] = {
            name: (float(np.median([one[name][0] for one in each])), float(np.median([one[name][1] for one in each])))
            for name in each[0]
        }
        progress.advance(task)
    return found


def figures(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the figures with their goals."""
    listed = []
    for kind, count in found["alarms"].items():
        share = count / found["rollouts"]
        listed.append(
            _figure(
                f"false_alarms.{kind}",
                f"false alarms, {kind}",
                share,
                "share",
                "budget",
                BUDGET,
                "<= 1%",
                share <= BUDGET,
            )
        )
    for trouble, methods in found["power"].items():
        mine, limit = methods["Tidegate"][1], methods["limit"][1]
        listed.append(
            _figure(
                f"requests.{trouble}",
                f"median requests to detection, {trouble}",
                mine,
                "requests",
                "SPRT that knows the truth",
                limit,
                "<= 2.5x the limit",
                mine <= 2.5 * limit,
            )
        )
        for peer in RULES:
            theirs, unequal = methods[peer][1], found["rule_alarms"][peer] > BUDGET
            what = f"requests to detection, {trouble}" + (f"; {peer} raises more false alarms" if unequal else "")
            key = f"versus.{peer}.{trouble}"
            goal = "not later at equal false alarms"
            listed.append(_figure(key, what, mine, "requests", peer, theirs, goal, unequal or mine <= theirs))
    return listed


def _real(found: identical.Found) -> dict[str, Any]:
    share = len(found.alarms) / found.judged
    what = f"false alarms in {found.judged} dependent windows of {identical.WINDOW_S:.0f} s, real Envoy and Triton"
    return _figure("false_alarms.real", what, share, "share", "budget", 0.5 * BUDGET, "<= 1%", share <= BUDGET)


def _told(found: identical.Found) -> str:
    lines = [
        f"real Envoy and Triton, identical versions: {len(found.alarms)} of {found.judged} windows aborted "
        f"({found.requests} requests, {found.failed} failed)"
    ]
    return "\n".join([*lines, *(f"  {alarm}" for alarm in found.alarms)])


def _figure(
    key: str, what: str, value: float, unit: str, peer: str, peer_value: float, goal: str, met: bool
) -> dict[str, Any]:
    def finite(number: float) -> float | None:
        return number if np.isfinite(number) else None

    ratio = value / peer_value if peer_value and np.isfinite(value) and np.isfinite(peer_value) else None
    return {
        "id": key, "what": what, "value": finite(value), "unit": unit, "peer": peer, "peer_value": finite(peer_value),
        "ratio": ratio, "goal": goal, "met": bool(met),
    }  # fmt: skip


def tables(found: dict[str, Any]) -> list[Table]:
    """Return what people read."""
    first = Table(
        title=f"identical versions: rollouts aborted, of {found['rollouts']} (budget 1%)", title_justify="left"
    )
    for title in ("traffic", "aborted", "95% interval"):
        first.add_column(title, justify="left" if title == "traffic" else "right")
    for kind, count in found["alarms"].items():
        low, high = interval(count, found["rollouts"])
        first.add_row(kind, f"{count / found['rollouts']:.2%}", f"{low:.2%} to {high:.2%}")
    second = Table(
        title=f"median candidate requests (seconds) to detection: {found['runs']} runs, 200 requests/s, 10% of them",
        title_justify="left",
    )
    names = ("limit without margin", "limit", "Tidegate", *RULES)
    second.add_column("candidate")
    for name in names:
        second.add_column(name, justify="right")
    second.add_column("ratio", justify="right")
    second.add_row(
        "false alarms as configured, worst traffic",
        "",
        "",
        "",
        *(f"{found['untuned'][name]:.0%}" for name in RULES),
        "",
    )
    second.add_row(
        "false alarms as compared, worst traffic",
        "",
        "",
        "",
        *(f"{found['rule_alarms'][name]:.0%}" for name in RULES),
        "",
    )
    for trouble, methods in found["power"].items():
        shown = [_shown(*methods[name]) for name in names]
        second.add_row(trouble, *shown, f"{methods['Tidegate'][1] / methods['limit'][1]:.1f}x")
    return [first, second]


def _shown(seconds: float, requests: float) -> str:
    return "never" if not np.isfinite(seconds) else f"{requests:.0f} ({seconds:.0f} s)"


def plot(found: dict[str, Any]) -> str:
    """Draw false alarms and requests to detection; return the file's path."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.7))
    kinds = list(found["alarms"])
    for place, kind in enumerate(kinds):
        count = found["alarms"][kind]
        low, high = interval(count, found["rollouts"])
        left.plot([100 * low, 100 * high], [place, place], color="#2a6f97", lw=2)
        left.plot(100 * count / found["rollouts"], place, "o", color="#2a6f97")
    left.axvline(100 * BUDGET, color="#a4243b", ls=":")
    left.set_yticks(range(len(kinds)), kinds)
    left.invert_yaxis()
    left.set_xlabel("rollouts of identical versions aborted, % (95% interval)")
    styles = {
        "limit": ("black", "_"),
        "Tidegate": ("#2a6f97", "o"),
        "Flagger (10 s)": ("#e07a1f", "s"),
        "Argo (1 s)": ("#6a994e", "^"),
        "Kayenta": ("#6d597a", "D"),
        "fixed sample": ("#a4243b", "v"),
    }
    names = list(found["power"])
    for name, (colour, marker) in styles.items():
        values = [found["power"][trouble][name][1] for trouble in names]
        alarms = found["rule_alarms"].get(name, 0.0)
        label = name if alarms <= BUDGET else f"{name}, tuned as far as it goes: {alarms:.0%} false alarms"
        right.plot(values, range(len(names)), marker, color=colour, label=label, ms=12 if marker == "_" else 6, mew=2)
    right.set_xscale("log")
    right.set_yticks(range(len(names)), names)
    right.invert_yaxis()
    right.set_xlabel("median candidate requests to detection (missing: never)")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="x", alpha=0.25)
    folder = project_root() / "var" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "judge.png", dpi=110)
    return str(folder / "judge.png")


def main() -> None:
    """Measure, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer runs: within a minute, wider intervals")
    parser.add_argument("--real", type=float, metavar="MINUTES", help="of real traffic; default 10, with --quick none")
    asked = parser.parse_args()
    console = Console(width=200)
    minutes = asked.real if asked.real is not None else 0.0 if asked.quick else 10.0
    real = identical.measure(60 * minutes, 0.5 * BUDGET, lambda line: console.print(line)) if minutes else None
    with Progress(console=Console(stderr=True), transient=True) as progress, ProcessPoolExecutor() as pool:
        found = measure(pool, asked.quick, progress)
    for table in tables(found):
        console.print(table)
    if real is not None:
        console.print(_told(real), highlight=False, soft_wrap=True)
    console.print(f"plot: {plot(found)}", highlight=False, soft_wrap=True)
    listed = figures(found) + ([_real(real)] if real is not None else [])
    print(json.dumps({"benchmark": "judge", "quick": asked.quick, "figures": listed}))


if __name__ == "__main__":
    main()
