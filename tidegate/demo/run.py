"""The demonstration: what a team does in a quarter, in minutes, on the embedded stack.

Nothing here goes round Airflow: every run is started and read by its REST API, as a user would. Live traffic is real
rows through the proxy; what failed is judged by what callers saw.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from tidegate.clients.airflow import AirflowApi, Run
from tidegate.clients.ledger import Event, Ledger, Rollout
from tidegate.demo import example, report
from tidegate.demo.recorder import Recorder, by_switching, is_failed
from tidegate.demo.traffic import LiveTraffic
from tidegate.errors import DataError, Unavailable
from tidegate.handoff import Feature, Window
from tidegate.stack import status
from tidegate.stack import up as starting
from tidegate.stack.config import StackConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tidegate.demo.story import Story

T = TypeVar("T")

DELIVERY = "flights"
QUARTER = Window.model_validate({"start": "2013-01-01", "end": "2013-04-01"})
FIRST = Window.model_validate({"start": "2013-01-01", "end": "2013-03-01"})
DAGS = ("ingest", "requests", "retrain", "rollout", "rollback")
RUN_TIMEOUT_S = 600.0


@dataclass
class Demo:
    """One demonstration and what it has seen so far."""

    cfg: StackConfig
    story: Story
    rate: float = 150.0
    begun: float = field(default_factory=time.time)
    recorder: Recorder = field(default_factory=Recorder)
    training: list[dict[str, Any]] = field(default_factory=list)
    deliveries: list[dict[str, Any]] = field(default_factory=list)
    ingest: list[dict[str, Any]] = field(default_factory=list)
    features: list[Feature] = field(default_factory=list)
    traffic: LiveTraffic | None = None

    def __post_init__(self) -> None:
        user, password = self.cfg.airflow_login
        self.airflow = AirflowApi(self.cfg.url("airflow"), user, password)
        self.ledger = Ledger(self.cfg.postgres_dsn("tidegate"))
        self.seen: set[tuple[str, str]] = set()

    def run(self) -> Path:
        """Do all of it; returns the path of report.html."""
        self.story.step("load January to April into Postgres, Kafka and HDFS")
        for line in example.load(self.cfg):
            self.story.say(line)
        self._await_dags()
        self._forget_earlier_runs()
        self.story.step("backfill ingest__flights for January to March")
        self._backfill()
        stamp = f"{self.begun:.0f}"
        try:
            if champion := self._champion():  # it knows February: a model of January alone could only lose to it
                self.story.step(f"{champion} is the champion of an earlier demonstration: there is no first delivery")
            else:
                self.story.step("first delivery: train on January, hold February out, gate, champion")
                self._first(f"first-{stamp}")
            self.story.step("Kafka asks for a retrain: January and February, hold March out; 10% -> 50% -> 100%")
            self._by_kafka(f"quarter-{stamp}", None, "promoted")
            self.story.step("Kafka asks for a model that passes its gate, but not a flight number it never saw")
            self._by_kafka(f"by-flight-{stamp}", "model:build_by_flight_number", "rolled_back")
        finally:
            if self.traffic:
                self.traffic.stop()
        return self._report()

    def _start_traffic(self) -> None:
        """Send real April flights through the proxy, from now to the end; does nothing the second time."""
        if self.traffic is None:
            self.story.step(f"live traffic: real April flights through the proxy, {self.rate:.0f}/s, until the end")
            url = f"{self.cfg.url('envoy')}/v2/models/{DELIVERY}/infer"
            self.traffic = LiveTraffic(url, example.bodies(self.features), self.rate, self.recorder)
            self.traffic.start()

    def _await_dags(self) -> None:
        wanted = {f"{kind}__{DELIVERY}" for kind in DAGS} | {"reconcile"}
        self._until("Airflow to know the DAGs", lambda: wanted <= set(self.airflow.dags()), 120)
        if errors := self.airflow.import_errors():
            raise DataError("Airflow could not import:\n" + "\n".join(errors))

    def _forget_earlier_runs(self) -> None:
        """Take note of the runs of an earlier demonstration on this stack, so that the report is about this one."""
        for dag_id in self._dag_ids():
            self.seen |= {(run.dag_id, run.run_id) for run in self.airflow.runs(dag_id)}

    def _backfill(self) -> None:
        dag_id = f"ingest__{DELIVERY}"
        months = {QUARTER.start.month, QUARTER.start.month + 1, QUARTER.start.month + 2}
        if not self._ingested(dag_id, months):
            last = Window(start=QUARTER.start, end=QUARTER.end.replace(month=QUARTER.end.month - 1))
            self.airflow.backfill(dag_id, last)
            self._until("the backfill", lambda: self._ingested(dag_id, months), RUN_TIMEOUT_S)
        for run in self._runs_of_months(dag_id, months):
            published = self.airflow.result(dag_id, run.run_id, "publish")
            for source, counts in published["sources"].items():
                figures = {key: counts[key] for key in ("read", "clean", "quarantined", "reasons")}
                self.ingest.append({"source": source, "window": published["window"], **figures})
        self.ingest.sort(key=lambda item: (item["source"], item["window"]))
        self.story.ingested(self.ingest)

    def _ingested(self, dag_id: str, months: set[int]) -> bool:
        runs = self._runs_of_months(dag_id, months)
        if broken := [run for run in runs if run.state == "failed"]:
            raise DataError(f"{dag_id} failed for {broken[0].run_id}; read its log at {self.cfg.url('airflow')}")
        self.story.waiting(f"{sum(run.ended for run in runs)} of {len(months)} windows are ingested")
        return len(runs) == len(months) and all(run.ended for run in runs)

    def _runs_of_months(self, dag_id: str, months: set[int]) -> list[Run]:
        wanted = {f"2013-{month:02d}-01" for month in months}
        return [run for run in self.airflow.runs(dag_id) if (run.interval_start or "")[:10] in wanted]

    def _first(self, request_id: str) -> None:
        conf = {
            "window_start": f"{FIRST.start:%Y-%m-%d}",
            "window_end": f"{FIRST.end:%Y-%m-%d}",
            "request_id": request_id,
            "reason": "the demonstration's first delivery",
        }
        run = self.airflow.trigger(f"retrain__{DELIVERY}", conf, run_id=f"demo__{request_id}")
        self._deliver(run, "promoted")

    def _by_kafka(self, request_id: str, model: str | None, expected: str) -> None:
        message = {
            "request_id": request_id,
            "window": {"start": QUARTER.start.isoformat(), "end": QUARTER.end.isoformat()},
            "reason": "asked by the demonstration",
        }
        sent = time.time()
        example.ask(self.cfg, "retrain", message | ({"model": model} if model else {}))
        dag_id = f"retrain__{DELIVERY}"
        run = self._until("the request to start a run", lambda: self._partition(dag_id, request_id), 120)
        self.story.say(f"{dag_id} started {time.time() - sent:.1f} s after the message")
        self._deliver(run, expected)

    def _partition(self, dag_id: str, key: str) -> Run | None:
        return next((run for run in self.airflow.runs(dag_id) if run.partition == key), None)

    def _deliver(self, run: Run, expected: str) -> None:
        """Follow a retrain run and the rollout that its candidate starts."""
        ended = self._follow(run)
        if ended.state != "success":
            raise DataError(f"{run.dag_id} {run.run_id} failed; read its log at {self.cfg.url('airflow')}")
        bundle = self.airflow.result(run.dag_id, run.run_id, "register")
        trained = self.airflow.result(run.dag_id, run.run_id, "train")
        gate = self.airflow.result(run.dag_id, run.run_id, "gate")
        self.features = [Feature.model_validate(item) for item in bundle["dataset"]["features"]]
        version = f"{DELIVERY}-v{bundle['version']}"
        self._trained(version, bundle, trained)
        self.story.gated(gate)
        if self._champion():  # of an earlier demonstration: a rollout beside it needs traffic
            self._start_traffic()
        rollout = self._until("the rollout to start", lambda: self._partition(f"rollout__{DELIVERY}", version), 120)
        self._follow(rollout)
        outcome = self._outcome(f"{rollout.dag_id}/{rollout.run_id}")
        delivered = self._delivered(outcome)
        self.deliveries.append(delivered)
        self.story.delivered(delivered)
        if delivered["outcome"] != expected:
            raise DataError(f"{delivered['version']} was {delivered['outcome']}, not {expected}: {delivered['reason']}")
        self._start_traffic()

    def _champion(self) -> str | None:
        return champion_after(self.ledger.rollouts(DELIVERY))

    def _follow(self, run: Run) -> Run:
        """Show each task of a run as it ends, until the run has ended."""
        shown: dict[str, str | None] = {}

        def ended() -> Run | None:
            for task, state in self.airflow.tasks(run.dag_id, run.run_id).items():
                if state and shown.get(task) != state:
                    shown[task] = state
                    self.story.task(run.dag_id, task, state)
            found = self.airflow.run(run.dag_id, run.run_id)
            return found if found.ended else None

        return self._until(f"{run.dag_id} to end", ended, RUN_TIMEOUT_S)

    def _trained(self, version: str, bundle: dict[str, Any], trained: dict[str, Any]) -> None:
        metrics = trained["metrics"]
        self.training.append(
            {
                "version": version,
                "model": bundle["request"]["model"] or "the delivery's own",
                "workers": trained["workers"],
                "steps": trained["steps"],
                "seconds": trained["seconds"],
                **{name: metrics[name] for name in ("auc", "base_auc", "log_loss", "base_log_loss")},
            }
        )
        self.story.trained(self.training[-1])

    def _outcome(self, rollout_id: str) -> Rollout:
        """Return the rollout's record once it has an outcome: a rollback ends it after the rollout's own run."""

        def ended() -> Rollout | None:
            found = self.ledger.rollout(rollout_id)
            return found if found and found.outcome else None

        return self._until("the rollout's outcome", ended, 120)

    def _delivered(self, outcome: Rollout) -> dict[str, Any]:
        events = self.ledger.events(DELIVERY, outcome.id)
        start = outcome.started_at.timestamp()
        end = outcome.ended_at.timestamp() if outcome.ended_at else time.time()
        answers = self.recorder.between(start, end)
        mine = [a for a in answers if a.version == outcome.candidate]
        failed = [a for a in mine if is_failed(a)]
        aborted = _first(events, "aborted")
        rolled_back = outcome.outcome == "rolled_back"
        return {
            "version": outcome.candidate,
            "outcome": outcome.outcome,
            "reason": outcome.reason,
            "requests": len(mine),
            "failed": len(failed) + sum(by_switching(a) for a in answers if a.version != outcome.candidate),
            "failed_by_switching": sum(by_switching(a) for a in answers),
            "first_bad_at": min((a.scheduled_at + a.latency_s for a in failed), default=None),
            "detected_at": aborted,
            "zero_at": max((a.scheduled_at for a in mine), default=None) if rolled_back else None,
            "rollout_id": outcome.id,
        }

    def _report(self) -> Path:
        self.story.step("the report")
        started = starting.remembered(self.cfg)
        memory = {row.name: row.rss_mb for row in status.rows(self.cfg)}
        times = {one.name: one for one in started.services} if started else {}
        services = [
            {
                "name": name,
                "version": times[name].version if name in times else name.rsplit("-", 1)[-1],
                "ready_s": times[name].ready_s if name in times else None,
                "rss_mb": rss,
            }
            for name, rss in memory.items()
        ]
        data = {
            "wall_s": round(time.time() - self.begun, 1),
            "stack_ready_s": started.wall_s if started else None,
            "services": services,
            "ingest": self.ingest,
            "training": self.training,
            "deliveries": self.deliveries,
            "dag_runs": [
                {"dag_id": run.dag_id, "run_id": run.run_id, "state": run.state}
                for dag_id in self._dag_ids()
                for run in self.airflow.runs(dag_id)
                if (run.dag_id, run.run_id) not in self.seen
            ],
        }
        return report.write(self.cfg.paths.var / "demo", data, self.recorder, self._weights())

    def _weights(self) -> list[dict[str, Any]]:
        changes = []
        for item in self.deliveries:
            for event in self.ledger.events(DELIVERY, item["rollout_id"]):
                if "weights" in event.detail:
                    changes.append({"at": event.at.timestamp(), "weights": event.detail["weights"]})
        return sorted(changes, key=lambda change: change["at"])

    def _dag_ids(self) -> list[str]:
        return [f"{kind}__{DELIVERY}" for kind in DAGS]

    def _until(self, what: str, found: Callable[[], T | None], timeout_s: float) -> T:
        deadline = time.monotonic() + timeout_s
        while not (value := found()):
            if time.monotonic() > deadline:
                raise Unavailable(f"waited {timeout_s:.0f} s for {what}; see {self.cfg.url('airflow')} and var/logs")
            time.sleep(1.0)  # Airflow's API has no way to await a state
        return value


def champion_after(rollouts: Sequence[Rollout]) -> str | None:
    """Return the version that past rollouts (the newest first) left in production, or None before the first one."""
    for past in rollouts:
        if past.outcome is not None:
            return past.champion if past.outcome == "rolled_back" else past.candidate
    return None


def _first(events: list[Event], kind: str) -> float | None:
    return next((event.at.timestamp() for event in events if event.kind == kind), None)
