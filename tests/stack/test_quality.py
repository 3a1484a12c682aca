"""What a candidate says, judged for real: on Triton, the quality process, Prometheus, Kafka, Envoy and Postgres."""

from __future__ import annotations

import json
import math
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import psutil
import pytest
import yaml
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewTopic

from benchmarks.tiny import ENCODINGS, RECORDED, publish
from tests.stack.test_rollout import Registry, until
from tidegate.clients.envoy import EnvoyTraffic
from tidegate.clients.ledger import Ledger
from tidegate.clients.prometheus import PrometheusMetrics
from tidegate.clients.triton import TritonServer
from tidegate.contract.encodings import Encodings
from tidegate.delivery import RolloutSpec, read_delivery
from tidegate.handoff import Bundle, Verdict
from tidegate.lake import Lake
from tidegate.rollout import actions
from tidegate.rollout.watch import Watch
from tidegate.served import Served
from tidegate.stack import daemon
from tidegate.stack.config import StackConfig
from tidegate.stack.services import quality
from tidegate.stack.supervision import Supervision

pytestmark = pytest.mark.stack
MIRROR, HALF, ALL = ({"mirror": "100%"}, {"weight": "50%"}, {"weight": "100%"})
CARRIERS = {"AA": -1.0, "B6": 0.0, "UA": 1.0}


def predicted(carrier: str, distance: float, mean: float = 100.0) -> float:
    return 1.0 / (1.0 + math.exp(-CARRIERS[carrier] - 0.05 * (distance - mean)))


def of_mean(mean: float) -> dict[str, str]:
    """What a bundle needs to be whole, and to answer as if the mean distance were another."""
    text, flag = ENCODINGS.features
    rows = zip(RECORDED.columns["carrier"], RECORDED.columns["distance"], strict=True)
    answers = tuple(predicted(carrier, mean if at is None else at, mean) for carrier, at in rows)
    return {
        "encodings": Encodings((text, replace(flag, mean=mean))).to_json(),
        "probe": replace(RECORDED, probabilities=answers).to_json(),
    }


@dataclass
class Callers:
    """Two that ask the delivery's route for rows that never come again, each with an id, until closed."""

    url: str
    then: Callable[[str, str, float], None] = lambda _id, _carrier, _distance: None
    statuses: list[int] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Callers:
        self._threads = [threading.Thread(target=self._ask, args=(seed,), daemon=True) for seed in (1, 2)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, seed: int) -> None:
        drawn = random.Random(seed)
        with httpx.Client(timeout=5) as client:
            while not self._over.wait(0.01):
                request_id, carrier = uuid.uuid4().hex, drawn.choice(list(CARRIERS))
                distance = round(drawn.uniform(60.0, 140.0), 4)
                inputs = [
                    {"name": name, "datatype": kind, "shape": [1, 1], "data": [value]}
                    for name, kind, value in (("carrier", "BYTES", carrier), ("distance", "FP32", distance))
                ]
                answer = client.post(self.url, json={"id": request_id, "inputs": inputs})
                self.statuses.append(answer.status_code)
                self.then(request_id, carrier, distance)


@dataclass
class Delivery:
    """A delivery of its own on the stack, with a champion."""

    stack: StackConfig
    name: str
    spec: RolloutSpec
    lake: Lake
    servers: TritonServer
    hands: actions.Hands
    metrics: PrometheusMetrics
    bundles: dict[int, Bundle]

    @property
    def url(self) -> str:
        return f"{self.stack.url('envoy')}/v2/models/{self.name}/infer"

    def begin(self, version: int, mean: float) -> tuple[str, object]:
        self.bundles[version] = publish(self.lake, version, ["AA"], self.name, **of_mean(mean))
        rollout_id = f"{self.name}-r{version}"
        rollout, lease = actions.begin(
            self.hands, self.name, f"{self.name}-v{version}", rollout_id, rollout_id, self.spec, "test"
        )
        actions.deploy(self.hands, rollout.id, lease, "test")
        return rollout.id, lease

    def watched(self, opened: tuple[str, object], stage: int) -> Verdict:
        """Give the candidate a stage's share and watch it to its end."""
        rollout_id, lease = opened
        actions.shift(self.hands, rollout_id, lease, stage, "test")
        watch = Watch(self.hands, self.metrics, self.hands.ledger.rollout(rollout_id), lease, self.spec)
        begun = time.monotonic()
        while (verdict := watch.look()).decision == "hold":
            threading.Event().wait(watch.next_scrape_in_s)
        print(f"stage {stage}: {verdict.decision} after {time.monotonic() - begun:.1f} s: {verdict.reason}")
        return verdict


@pytest.fixture
def delivered(stack: StackConfig, tmp_path: Path) -> Iterator[Callable[..., Delivery]]:
    """Makes a delivery with the given stages and quality section; the stack's quality process reads its file."""
    made: list[Delivery] = []
    supervision = daemon.supervision(stack)
    folder = tmp_path / "deliveries"
    folder.mkdir()
    usual = quality.program(stack)
    supervision.add(replace(usual, env={**usual.env, "TIDEGATE_DELIVERIES": str(folder)}))

    def make(stages: list[dict], section: dict) -> Delivery:
        name = f"q{uuid.uuid4().hex[:10]}"
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(spec_of(name, stages, section)))
        whole = read_delivery(path)
        found = delivery_of(stack, supervision, tmp_path, name, whole.rollout, whole.serve.sample)
        made.append(found)
        actions.promote(found.hands, *found.begin(1, 100.0), "test")
        return found

    try:
        yield make
    finally:
        for one in made:
            for name in [name for name in one.servers.endpoints() if name.startswith(f"{one.name}-v")]:
                actions.abort(one.hands.traffic, one.name, "the test is over")
                one.servers.retire(name)
        supervision.add(usual)


def figures(stack: StackConfig) -> str:
    headers = {"Authorization": f"Bearer {stack.secrets['quality']}"}
    try:
        return httpx.get(stack.url("quality") + "/metrics", headers=headers).text
    except httpx.HTTPError:  # it starts
        return ""


def spec_of(name: str, stages: list[dict], section: dict) -> dict:
    return {
        "delivery": name,
        "sources": {"one": {"contract": "one", "postgres": {"connection": "c", "table": "t", "time": "at"}}},
        "folder": "examples/flights",
        "dataset": {"sql": "dataset.sql", "label": "late"},
        "train": {"model": "model:build"},
        "serve": {"sample": "100%"},
        "rollout": {
            "stages": [{"requests": 50, "at_least": "2s", **stage} for stage in stages],
            "limits": {"errors": "5%", "p99": "2s"},
            "versus_champion": {"errors": "3x", "p99": "20x"},
            "non_inferior": {"errors": "20%", "slow": "60%", "confidence": "90%"},
            "deadline": "90s",
            "bake": "0s",
            "quality": section,
        },
    }


def delivery_of(
    stack: StackConfig, supervision: Supervision, folder: Path, name: str, spec: RolloutSpec, share: float
) -> Delivery:
    lake = Lake(f"file://{folder / 'lake'}")
    servers = TritonServer(
        supervision,
        stack.paths.python_serve,
        stack.paths.serving,
        lake,
        stack.paths.triton_targets,
        sample=lambda _: share,
    )
    traffic = EnvoyTraffic(stack.paths.xds, stack.url("envoy-admin"))
    ledger = Ledger(stack.postgres_dsn("tidegate"))
    bundles: dict[int, Bundle] = {}
    hands = actions.Hands(ledger, traffic, traffic, servers, Registry(), lambda _, version: bundles[version], ttl_s=60)
    return Delivery(stack, name, spec, lake, servers, hands, PrometheusMetrics(stack.url("prometheus")), bundles)


def test_wrong_values_under_a_mirror_lead_back_and_an_equal_candidate_passes(
    stack: StackConfig, delivered: Callable[..., Delivery]
) -> None:
    section = {
        "disagreement": {"above": 0.1, "at_most": "5%", "at_least": 100},
        "predictions": {"differ": "20%", "at_least": 100},
    }
    one = delivered([MIRROR, HALF, ALL], section)
    with Callers(one.url) as callers:
        wrong = one.begin(2, 130.0)
        verdict = one.watched(wrong, 0)
        assert verdict.decision == "fail"
        assert "answers otherwise than the champion: " in verdict.reason
        assert "of the same inputs differ by more than 0.1, allowed 5%" in verdict.reason
        assert not one.hands.traffic.read(one.name).on_trial
        (aborted,) = [event for event in one.hands.ledger.events(one.name) if event.kind == "aborted"]
        assert aborted.detail["reason"] == verdict.reason
        shares = {check.name: check for check in verdict.checks}
        assert not shares["disagreement"].ok
        actions.rollback(one.hands, one.name, f"{one.name}-b2", "test", verdict.reason, rollout_id=wrong[0])

        equal = one.begin(3, 100.0)
        for stage in (0, 1):
            verdict = one.watched(equal, stage)
            assert verdict.decision == "pass", verdict.reason
            shares = {check.name: check for check in verdict.checks}
            assert shares["predictions"].ok
        assert shares["predictions"].value < 20
    assert set(callers.statuses) == {200}, "nobody but the judge saw the wrong values"
    files = list((stack.paths.serving / f"{one.name}-v1" / "served").iterdir())
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    kept = Served.from_line(files[0].read_bytes().splitlines()[-1])
    row = kept.features
    assert len(kept.id) == 32
    assert kept.prediction == pytest.approx(predicted(row["carrier"], row["distance"]), abs=1e-5)


def test_labels_that_call_the_candidate_wrong_abort_it_while_it_has_half_of_the_traffic(
    stack: StackConfig, delivered: Callable[..., Delivery]
) -> None:
    topic = f"labels-{uuid.uuid4().hex[:8]}"
    with closing(KafkaAdminClient(bootstrap_servers=stack.kafka)) as admin:
        admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    section = {"labels": {"kafka": {"connection": "events", "topic": topic}, "worse": "2%"}}
    one = delivered([{**HALF, "at_least": "40s"}, ALL], section)
    position = stack.paths.quality_token.parent / f"{one.name}.{topic}.json"
    until(position.exists)  # it reads the topic from its end on

    with closing(KafkaProducer(bootstrap_servers=stack.kafka)) as producer:
        producer.send(topic, b"this is no label")

        def label(request_id: str, carrier: str, distance: float) -> None:
            truth = int(predicted(carrier, distance) > 0.5)
            producer.send(topic, json.dumps({"id": request_id, "label": truth}).encode())

        with Callers(one.url, label) as callers:
            verdict = one.watched(one.begin(2, 120.0), 0)
    assert verdict.decision == "fail"
    assert "wrong more often than the champion: " in verdict.reason
    assert "labelled answers, the champion 0 of " in verdict.reason
    assert not one.hands.traffic.read(one.name).on_trial
    assert set(callers.statuses) == {200}
    assert httpx.get(stack.url("quality") + "/metrics").status_code == 401
    bad = f'tidegate_labels_bad_total{{delivery="{one.name}"}}'
    assert f"{bad} 1.0" in figures(stack)

    supervision = daemon.supervision(stack)
    first = supervision.states()["quality"].pid
    psutil.Process(first).kill()
    until(lambda: supervision.states()["quality"].pid not in (0, first))
    with closing(KafkaProducer(bootstrap_servers=stack.kafka)) as producer:
        producer.send(topic, b"nor is this")
    until(lambda: bad in figures(stack))
    assert f"{bad} 1.0" in figures(stack), "what was read before the restart is not read again"
