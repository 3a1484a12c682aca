"""The backend `tfserving` against a stand-in for TensorFlow Serving that runs real TensorFlow (see its docstring).

Models are made by the real optimise stage. Needs .envs/train and no service of the stack.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidegate import keys
from tidegate.bundle import SERVABLE, SERVING_LOCK
from tidegate.clients.model_server import Endpoint
from tidegate.clients.tfserving import Pool, TfServing, pool_of
from tidegate.clients.tfserving_api import DEFINITIONS
from tidegate.contract.encodings import Encodings, FeatureEncoding
from tidegate.delivery import GateSpec
from tidegate.errors import Conflict, DataError, Unavailable
from tidegate.gate.run import run
from tidegate.gate.task import GateTask
from tidegate.handoff import Bundle, Dataset, Feature, Optimised, OptimiseTask, Request, Trained, Window
from tidegate.lake import Lake
from tidegate.recorded import PROBE, RecordedAnswers
from tidegate.stack.config import ROOT

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

PYTHON = ROOT / ".envs" / "train" / "bin" / "python"
HERE = ROOT / "tests" / "stack" / "tfserving"
WINDOW = Window(start="2013-01-01", end="2013-02-01")
ENCODINGS = Encodings(
    (
        FeatureEncoding("carrier", "vocabulary", "BYTES", vocabulary=("AA", "B6", "UA")),
        FeatureEncoding("distance", "standardise", "FP32", mean=100.0, std=10.0),
    )
)
FEATURES = [Feature(name=e.name, encoding=e.encoding, dtype=e.dtype, size=e.size) for e in ENCODINGS.features]
WEIGHTS = ("0.5", "0.25")
ROWS = 300


@dataclass
class Process:
    """One stand-in on loopback, started again as a supervisor would when it ends."""

    name: str
    folder: Path
    grpc: int
    rest: int
    running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [PYTHON, HERE / "stand_in.py", "--port", str(self.grpc), "--rest_api_port", str(self.rest)]
        command += ["--model_config_file", self.folder / "models.config"]
        with (self.folder.parent / f"{self.name}.log").open("ab") as log:
            self.running = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log)

    def kill(self) -> None:
        if self.running is not None:
            self.running.send_signal(signal.SIGKILL)
            self.running.wait(20)

    def tell(self, what: str) -> None:
        httpx.post(f"http://127.0.0.1:{self.rest}/test/{what}", trust_env=False).raise_for_status()

    def calls(self) -> list[Any]:
        """Every configuration that it was ever given since its start: versions and labels by model."""
        try:
            return list(httpx.get(f"http://127.0.0.1:{self.rest}/test/calls", trust_env=False).json())
        except httpx.ConnectError:
            return []


@dataclass
class Place:
    """A lake with optimised models, two slots and the backend over both."""

    folder: Path
    lake: Lake
    dataset: Dataset
    optimised: list[Optimised]
    processes: dict[str, Process]
    last: int = 0

    @property
    def targets(self) -> Path:
        return self.folder / "targets"

    def server(self, timeout_s: float = 60.0) -> TfServing:
        return TfServing(self.pool(), self.lake, self.targets, timeout_s)

    def pool(self) -> Pool:
        slots = [
            {"name": each.name, "grpc": f"127.0.0.1:{each.grpc}", "rest": f"127.0.0.1:{each.rest}"}
            for each in self.processes.values()
        ]
        return pool_of({"folder": str(self.folder / "slots"), "slots": slots}, "the test")

    def bundle(self, change: Callable[[Path], None] = lambda folder: None) -> Bundle:
        """Publish a bundle of the next version, whose models take turns; `change` is made to its files before."""
        self.last += 1
        optimised, key = self.optimised[self.last % len(WEIGHTS)], keys.bundle("tiny", self.last)
        with self.lake.publish(key) as draft:
            self.lake.fetch(optimised.key, draft.folder)
            draft.file("encodings.json").write_text(ENCODINGS.to_json())
            draft.file(SERVING_LOCK).write_text("numpy==2\n")
            change(draft.folder)
        return Bundle(
            delivery="tiny", version=self.last, key=key, target="savedmodel", dataset=self.dataset, metrics={},
            request=Request(request_id=f"r{self.last}", delivery="tiny", window=WINDOW),
            digest=self.lake.require(key)["digest"],
        )  # fmt: skip

    def slot(self, endpoint: Endpoint) -> Process:
        return next(each for each in self.processes.values() if each.rest == endpoint.port)

    def copy(self, endpoint: Endpoint) -> Path:
        """The folder that the server loaded a version from."""
        return self.slot(endpoint).folder / "tiny" / str(endpoint.version)

    def retire_all(self) -> None:
        for name in self.server().endpoints():
            self.server().retire(name)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return found


def carrier(row: int) -> str | None:
    return ("AA", "B6", "UA", "ZZ", None)[row % 5]


def distance(row: int) -> float | None:
    return None if row % 7 == 0 else 80.0 + row % 40


def write_dataset(lake: Lake) -> Dataset:
    key = keys.dataset("tiny", WINDOW)
    rows = {"carrier": [carrier(row) for row in range(ROWS)], "distance": [distance(row) for row in range(ROWS)]}
    late = [int((value or 0) > 100) for value in rows["distance"]]
    with lake.publish(key) as draft:
        pq.write_table(pa.table({**rows, "late": late}), draft.file("test.parquet"))
        draft.file("encodings.json").write_text(ENCODINGS.to_json())
    return Dataset(
        delivery="tiny", window=WINDOW, key=key, train_rows=0, test_rows=ROWS, label="late", features=FEATURES,
        digest=lake.require(key)["digest"], slices={},
    )  # fmt: skip


def optimise(lake: Lake, dataset: Dataset, folder: Path, weight: str) -> Optimised:
    key = keys.model("tiny", f"w{weight}")
    with lake.publish(key) as draft:
        shutil.copytree(folder / weight / "saved_model", draft.folder / "saved_model")
    trained = Trained(
        request_id=f"w{weight}", key=key, workers=1, steps=1, seconds=1.0, metrics={},
        digest=lake.require(key)["digest"],
    )  # fmt: skip
    task = OptimiseTask(trained=trained, dataset=dataset, lake=lake.url, target="savedmodel", tolerance=1e-5)
    given, out = folder / f"{weight}.in.json", folder / f"{weight}.out.json"
    given.write_text(task.to_json())
    command = [PYTHON, "-m", "tidegate.optimise", "--handoff", given, "--out", out]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return Optimised.model_validate_json(out.read_bytes())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("tfserving")
    lake = Lake(f"file://{folder / 'lake'}")
    subprocess.run([PYTHON, HERE / "trained_models.py", folder, *WEIGHTS], check=True, capture_output=True)
    dataset = write_dataset(lake)
    optimised = [optimise(lake, dataset, folder, weight) for weight in WEIGHTS]
    ports = free_ports(4)
    slots = folder / "slots"
    processes = {name: Process(name, slots / name, ports[2 * n], ports[2 * n + 1]) for n, name in enumerate("ab")}
    for process in processes.values():
        process.start()
    try:
        yield Place(folder, lake, dataset, optimised, processes)
    finally:
        for process in processes.values():
            process.kill()


@pytest.fixture(autouse=True)
def nothing_deployed(place: Place) -> None:
    place.retire_all()


def ask(endpoint: Endpoint, carrier: str, distance: float) -> float:
    body = f'{{"inputs":{{"carrier":[["{carrier}"]],"distance":[[{json.dumps(distance)}]]}}}}'
    answer = httpx.post(endpoint.predict_url, content=body, trust_env=False)
    assert answer.status_code == 200, answer.text
    return float(answer.json()["outputs"][0][0])


def wanted(version: int, value: float, distance: float) -> float:
    scaled = 0.0 if math.isnan(distance) else (distance - 100) / 10
    return 1 / (1 + math.exp(-(value + float(WEIGHTS[version % 2]) * scaled)))


def test_the_messages_are_those_of_the_package_that_defines_them() -> None:
    command = "from tidegate.clients.tfserving_definitions import definitions; print(definitions(), end='')"
    found = subprocess.run([PYTHON, "-c", command], check=True, capture_output=True, text=True, cwd=ROOT)
    assert json.loads(found.stdout) == json.loads(DEFINITIONS.read_text())


def test_the_optimise_stage_puts_the_encodings_into_the_graph_and_proves_it_on_real_rows(place: Place) -> None:
    for optimised in place.optimised:
        assert optimised.rows == ROWS
        assert optimised.max_difference <= 1e-6
        files = place.lake.require(optimised.key)["files"]
        assert {f"{SERVABLE}/saved_model.pb", f"{SERVABLE}/assets.extra/tf_serving_warmup_requests"} < set(files)
        recorded = RecordedAnswers.from_json(place.lake.read(optimised.key, PROBE))
        assert None in recorded.columns["carrier"]
        assert None in recorded.columns["distance"]


def test_a_version_is_served_warm_by_raw_values_with_unknown_and_missing_ones_among_them(place: Place) -> None:
    bundle, server = place.bundle(), place.server()
    endpoint = server.deploy(bundle)
    assert server.endpoints() == {bundle.name: endpoint}
    assert server.ready(bundle.name)
    for carrier, value in (("AA", -1.0), ("UA", 1.0), ("never seen", 0.25), ("", 0.25)):
        for distance in (100.0, 120.0, float("nan")):
            assert ask(endpoint, carrier, distance) == pytest.approx(wanted(bundle.version, value, distance), abs=1e-6)
    (target,) = json.loads((place.targets / f"{bundle.name}.json").read_text())
    assert target["labels"] == {
        "delivery": "tiny", "version": bundle.name, "__metrics_path__": "/monitoring/prometheus/metrics",
    }  # fmt: skip
    page = httpx.get(f"http://{target['targets'][0]}{target['labels']['__metrics_path__']}", trust_env=False)
    assert ":tensorflow:serving:request_count" in page.text


def test_a_slot_gets_the_next_version_in_the_safe_order_and_the_other_slot_is_not_touched(place: Place) -> None:
    server = place.server()
    champion, old, new = place.bundle(), place.bundle(), place.bundle()
    serving = server.deploy(champion)
    slot = place.slot(server.deploy(old))
    untouched, before = place.slot(serving).calls(), slot.calls()

    with pytest.raises(Unavailable, match=rf"none of 2 slots is free for {new.name} .*{champion.name}"):
        server.deploy(new)
    server.retire(old.name)
    assert not server.ready(old.name)
    found = server.deploy(new)

    assert place.slot(found) is slot
    both, n, m = [old.version, new.version], old.version, new.version
    assert slot.calls()[len(before) :] == [
        {"tiny": [both, {"stable": n}]},
        {"tiny": [both, {"stable": n, "canary": m}]},
        {"tiny": [both, {"stable": m, "canary": m}]},
        {"tiny": [[m], {"stable": m}]},
    ]
    assert place.slot(serving).calls() == untouched
    assert not (slot.folder / "tiny" / str(n)).exists()
    assert "label" not in (slot.folder / "models.config").read_text(), "a starting server would refuse it"
    by_label = f"http://{found.address}/v1/models/tiny/labels/stable:predict"
    assert httpx.post(by_label, content=b'{"inputs":{"carrier":[["AA"]],"distance":[[1]]}}').status_code == 200


def test_deploying_again_changes_nothing_and_answers_from_the_same_slot(place: Place) -> None:
    bundle, server = place.bundle(), place.server()
    endpoint = server.deploy(bundle)
    config = (place.slot(endpoint).folder / "models.config").read_bytes()
    inode = (place.copy(endpoint) / "saved_model.pb").stat().st_ino
    assert server.deploy(bundle) == endpoint
    assert place.slot(endpoint).calls()[-1] == {"tiny": [[bundle.version], {"stable": bundle.version}]}
    assert (place.slot(endpoint).folder / "models.config").read_bytes() == config
    assert (place.copy(endpoint) / "saved_model.pb").stat().st_ino == inode


def test_a_retired_version_comes_back_into_the_slot_that_still_has_it_loaded(place: Place) -> None:
    bundle, server = place.bundle(), place.server()
    endpoint = server.deploy(bundle)
    server.retire(bundle.name)
    assert server.endpoints() == {}
    assert server.deploy(bundle) == endpoint


def test_a_half_copied_version_is_replaced_before_it_is_ever_asked_for(place: Place) -> None:
    bundle = place.bundle()
    for process in place.processes.values():
        half = process.folder / "tiny" / str(bundle.version)
        half.mkdir(parents=True)
        (half / "saved_model.pb").write_bytes(b"half of")
    endpoint = place.server().deploy(bundle)
    assert ask(endpoint, "UA", 100.0) == pytest.approx(wanted(bundle.version, 1.0, 100.0), abs=1e-6)


def test_an_altered_bundle_is_refused_before_any_server_is_told(place: Place) -> None:
    bundle = place.bundle()
    path = place.lake.path(bundle.key, f"{SERVABLE}/saved_model.pb")
    Path(path).write_bytes(b"altered")
    before = [process.calls() for process in place.processes.values()]
    with pytest.raises(DataError, match=r"servable/saved_model\.pb differs from its manifest"):
        place.server().deploy(bundle)
    assert [process.calls() for process in place.processes.values()] == before
    assert place.server().endpoints() == {}


def test_a_version_whose_files_were_altered_after_it_was_loaded_moves_to_another_slot(place: Place) -> None:
    bundle, server = place.bundle(), place.server()
    first = server.deploy(bundle)
    (place.copy(first) / "saved_model.pb").write_bytes(b"altered")
    second = server.deploy(bundle)
    assert second.port != first.port
    assert server.endpoints() == {bundle.name: second}
    (place.copy(second) / "saved_model.pb").write_bytes(b"altered as well")
    with pytest.raises(Unavailable, match="altered files of this version"):
        server.deploy(bundle)
    assert server.ready(bundle.name), "what serves goes on"


def test_a_version_that_cannot_be_loaded_is_refused_in_the_servers_own_words(place: Place) -> None:
    server = place.server()
    old = place.bundle()
    slots = [server.deploy(bundle) for bundle in (place.bundle(), old)]
    server.retire(old.name)
    broken = place.bundle(lambda folder: (folder / SERVABLE / "saved_model.pb").write_bytes(b"no graph") and None)
    for _ in range(2):  # the second time the first one's error is still on record
        with pytest.raises(DataError, match=rf"could not load tiny v{broken.version}: .*SavedModel"):
            server.deploy(broken)
    slot = place.slot(slots[1])
    assert slot.calls()[-1] == {"tiny": [[old.version], {"stable": old.version}]}
    assert f"versions: {old.version}\n" in (slot.folder / "models.config").read_text()
    assert broken.name not in server.endpoints()
    assert server.deploy(old) == slots[1], "the slot is as it was"


def test_a_version_that_answers_otherwise_than_recorded_gives_its_slot_back(place: Place) -> None:
    def other_answers(folder: Path) -> None:
        recorded = json.loads((folder / PROBE).read_text())
        recorded["probability"] = [value / 2 for value in recorded["probability"]]
        (folder / PROBE).write_text(json.dumps(recorded))

    server, wrong = place.server(), place.bundle(other_answers)
    with pytest.raises(DataError, match="the trained model said"):
        server.deploy(wrong)
    assert server.endpoints() == {}
    assert not list(place.folder.glob(f"slots/*/tiny/{wrong.version}"))


def test_a_refused_label_fails_for_now_and_the_next_try_succeeds(place: Place) -> None:
    server = place.server()
    server.deploy(place.bundle())
    server.deploy(gone := place.bundle())
    server.retire(gone.name)
    for process in place.processes.values():
        process.tell("hold-loading")
    bundle = place.bundle()
    with ThreadPoolExecutor(1) as pool:
        deploying = pool.submit(server.deploy, bundle)
        loading = place.slot(awaited(lambda: server.endpoints().get(bundle.name)))
        awaited(lambda: [bundle.version] == [v for v in loading.calls()[-1]["tiny"][0] if v == bundle.version])
        loading.tell("refuse-labels")
        for process in place.processes.values():
            process.tell("go-on")
        with pytest.raises(Conflict, match="Request to assign label"):
            deploying.result(60)
    assert bundle.name not in server.endpoints()
    assert server.ready(server.deploy(bundle).name)


def test_a_server_killed_while_it_loads_is_told_again_when_it_is_back(place: Place) -> None:
    server = place.server()
    serving = server.deploy(place.bundle())
    bundle = place.bundle()
    for process in place.processes.values():
        if process is not place.slot(serving) and process.calls():
            process.tell("hold-loading")
    with ThreadPoolExecutor(1) as pool:
        deploying = pool.submit(server.deploy, bundle)
        slot = place.slot(awaited(lambda: server.endpoints().get(bundle.name)))
        awaited(lambda: slot.calls() and bundle.version in slot.calls()[-1]["tiny"][0])
        slot.kill()
        slot.start()
        endpoint = deploying.result(90)
    assert place.slot(endpoint) is slot
    assert slot.calls()[-1] == {"tiny": [[bundle.version], {"stable": bundle.version}]}
    assert server.ready(bundle.name)


DEPLOY = """
import sys
from pathlib import Path
from tidegate.clients.tfserving import Pool, TfServing
from tidegate.handoff import Bundle
from tidegate.lake import Lake
pool, bundle, lake, targets = sys.argv[1:]
TfServing(Pool.model_validate_json(pool), Lake(lake), Path(targets)).deploy(Bundle.model_validate_json(bundle))
"""


def test_whoever_deploys_may_be_killed_while_a_version_loads_and_a_repeat_finishes(place: Place) -> None:
    server = place.server()
    serving = server.deploy(place.bundle())
    old, bundle = place.bundle(), place.bundle()
    slot = place.slot(server.deploy(old))
    server.retire(old.name)
    slot.tell("hold-loading")
    given = [place.pool().to_json(), bundle.to_json(), place.lake.url, str(place.targets)]
    deployer = subprocess.Popen([sys.executable, "-c", DEPLOY, *given], cwd=ROOT)
    awaited(lambda: bundle.version in slot.calls()[-1]["tiny"][0])
    deployer.kill()
    deployer.wait(20)
    slot.tell("go-on")
    assert place.slot(server.deploy(bundle)) is slot
    assert slot.calls()[-1] == {"tiny": [[bundle.version], {"stable": bundle.version}]}
    assert not (slot.folder / "tiny" / str(old.version)).exists()
    assert server.ready(serving.name)


def test_a_server_that_stays_away_is_given_up_and_a_repeat_converges_once_it_is_back(place: Place) -> None:
    server = place.server()
    serving = server.deploy(place.bundle())
    old, bundle = place.bundle(), place.bundle()
    slot = place.slot(server.deploy(old))
    server.retire(old.name)
    slot.kill()
    with pytest.raises(Unavailable, match=rf"slot {slot.name} .* has not loaded tiny v{bundle.version} in time"):
        place.server(timeout_s=1.0).deploy(bundle)
    assert list(server.endpoints()) == [serving.name]
    slot.start()
    assert place.slot(server.deploy(bundle)) is slot
    assert server.ready(serving.name)


def test_the_version_before_the_last_comes_back_from_its_bundle(place: Place) -> None:
    server, versions = place.server(), [place.bundle() for _ in range(3)]
    server.deploy(place.bundle())  # somebody's champion keeps the other slot
    for bundle in versions:
        endpoint = server.deploy(bundle)
        server.retire(bundle.name)
    assert not (place.slot(endpoint).folder / "tiny" / str(versions[0].version)).exists()
    restored = server.deploy(versions[0])
    assert ask(restored, "AA", 110.0) == pytest.approx(wanted(versions[0].version, -1.0, 110.0), abs=1e-6)


def test_two_calls_at_once_for_one_version_agree(place: Place) -> None:
    bundle, together = place.bundle(), threading.Barrier(2)

    def deploy() -> Endpoint:
        together.wait(10)
        return place.server().deploy(bundle)

    with ThreadPoolExecutor(2) as pool:
        first, second = (each.result(90) for each in [pool.submit(deploy), pool.submit(deploy)])
    assert first == second
    assert list(place.server().endpoints()) == [bundle.name]


def test_the_gate_holds_a_candidate_and_its_champion_to_the_same_limits(place: Place) -> None:
    champion, candidate = place.bundle(), place.bundle()
    server, quality = place.server(), {"at_least": 0.5, "lose_at_most": 1}
    task = GateTask(
        bundle=candidate, endpoint=server.deploy(candidate), champion=server.deploy(champion), lake=place.lake.url,
        gate=GateSpec.model_validate({"rate": "20/s", "for": "2s", "p99": "2s", "quality": {"auc": quality}}),
    )  # fmt: skip
    report = run(GateTask.model_validate_json(task.to_json()))
    assert report.passed, report.table()
    assert report.requests == 40
    assert "champion_auc" in report.figures


def awaited(found: Callable[[], Any], within_s: float = 60.0) -> Any:
    deadline = time.monotonic() + within_s
    while not (value := found()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)
    return value
