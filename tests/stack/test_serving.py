"""A real Triton, under a real supervisord, from deploy to retire; needs no other service of the stack."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks.tiny import LOCK, RECORDED, TINY, publish
from tidegate.clients.environments import find_uv
from tidegate.clients.model_server import Endpoint
from tidegate.clients.triton import TritonServer
from tidegate.delivery import GateSpec
from tidegate.errors import DataError
from tidegate.gate.run import run
from tidegate.gate.task import GateTask
from tidegate.handoff import Bundle
from tidegate.lake import Lake
from tidegate.served import Served, is_chosen
from tidegate.stack import daemon
from tidegate.stack.config import ROOT, StackConfig
from tidegate.stack.supervision import Supervision

pytestmark = pytest.mark.stack

PYTHON = ROOT / ".envs" / "serve" / "bin" / "python"


@dataclass(frozen=True)
class Place:
    """A lake, a supervisord of its own and a server backend over both."""

    lake: Lake
    supervision: Supervision
    server: TritonServer
    targets: Path
    folder: Path

    def bundle(self, version: int, carriers: list[str], **changes: bytes | str) -> Bundle:
        """Publish a bundle of the tiny model."""
        return publish(self.lake, version, carriers, **changes)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    var = tmp_path_factory.mktemp("serving")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIDEGATE_VAR", str(var))
        cfg = StackConfig.load()
    supervision = daemon.start(cfg)
    try:
        lake, targets, folder = Lake(f"file://{var / 'lake'}"), var / "targets", var / "models"
        yield Place(lake, supervision, TritonServer(supervision, PYTHON, folder, lake, targets), targets, folder)
    finally:
        daemon.stop(cfg)


def infer(endpoint: Endpoint, carrier: str, distance: str) -> httpx.Response:
    tensors = [("carrier", "BYTES", f'"{carrier}"'), ("distance", "FP32", distance)]
    inputs = [f'{{"name":"{n}","datatype":"{t}","shape":[1,1],"data":[{value}]}}' for n, t, value in tensors]
    body = f'{{"inputs":[{",".join(inputs)}]}}'
    return httpx.post(f"{endpoint.model_url}/infer", content=body, timeout=10)


def probability(answer: httpx.Response) -> float:
    assert answer.status_code == 200, answer.text
    return float(answer.json()["outputs"][0]["data"][0])


def other_lock(package: str) -> str:
    """Return the serving lock with the release of a package before the locked one, with its hashes."""
    entry = re.compile(rf"(?ms)^{package}==(\S+) .*?(?=^\S|\Z)")
    wanted = f"{package}<{entry.search(LOCK)[1]}\n"
    command = [find_uv(ROOT), "pip", "compile", "-q", "--generate-hashes", "--no-deps", "--no-header", "--no-annotate",
               "--python-version", "3.11", "-"]  # fmt: skip
    older = subprocess.run(command, input=wanted, capture_output=True, text=True, check=True).stdout
    return entry.sub(lambda _: older, LOCK)


def zipp_of(python: Path) -> str:
    code = "import importlib.metadata as m; print(m.version('zipp'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def processes_of(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(folder) in word for word in process.cmdline()):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def test_a_deployed_bundle_answers_and_keeps_its_address(place: Place) -> None:
    bundle = place.bundle(1, ["AA", "UA"])
    endpoint = place.server.deploy(bundle)
    assert probability(infer(endpoint, "B6", "100")) == pytest.approx(0.5, abs=1e-6)
    assert probability(infer(endpoint, "UA", "120")) == pytest.approx(0.880797, abs=1e-6)
    assert place.server.deploy(bundle) == endpoint
    assert place.server.ready(bundle.name)
    targets = json.loads((place.targets / "tiny-v1.json").read_text())
    metrics = httpx.get(f"http://{targets[0]['targets'][0]}/metrics").text
    assert 'nv_inference_request_success{model="tiny",version="1"}' in metrics
    listening = [c for p in processes_of(place.folder) for c in p.net_connections("tcp") if c.status == "LISTEN"]
    assert {c.laddr.ip for c in listening} == {"127.0.0.1"}


def test_a_missing_number_is_the_mean_and_a_missing_input_is_the_callers_mistake(place: Place) -> None:
    endpoint = place.server.deploy(place.bundle(1, ["AA", "UA"]))
    assert probability(infer(endpoint, "UA", "NaN")) == probability(infer(endpoint, "UA", "100"))
    half = '{"inputs":[{"name":"distance","datatype":"FP32","shape":[1,1],"data":[1]}]}'
    assert httpx.post(f"{endpoint.model_url}/infer", content=half).status_code == 400


def test_what_the_graph_cannot_handle_is_a_500_and_leaves_the_server_well(place: Place) -> None:
    endpoint = place.server.deploy(place.bundle(1, ["AA", "UA"]))
    answer = infer(endpoint, "ZZ", "100")
    assert answer.status_code == 500
    assert "indices element out of data bounds" in answer.text
    assert probability(infer(endpoint, "B6", "100")) == pytest.approx(0.5, abs=1e-6)


def test_a_gate_measures_the_servers_themselves(place: Place) -> None:
    good = place.bundle(2, ["AA", "B6", "UA"] * 20)
    spec = GateSpec.model_validate(
        {"rate": "50/s", "for": "1s", "p99": "2s", "errors": "0%", "quality": {"auc": {"at_least": 0.9}}}
    )
    endpoint = place.server.deploy(good)
    passed = run(GateTask(bundle=good, endpoint=endpoint, champion=endpoint, gate=spec, lake=place.lake.url))
    assert passed.passed, passed.table()
    assert passed.requests == 50
    assert passed.figures["champion_auc"] == 1.0
    bad = place.bundle(3, ["AA", "ZZ", "UA", "B6"] * 20)
    failed = run(GateTask(bundle=bad, endpoint=place.server.deploy(bad), champion=None, gate=spec, lake=place.lake.url))
    assert {check.name: check.ok for check in failed.checks} == {"p99": True, "errors": False, "auc": False}
    assert 20 < (failed.checks[1].value or 0) < 30  # every fourth held-out row
    for name in (good.name, bad.name):
        place.server.retire(name)


def test_a_bundle_with_a_missing_file_starts_nothing(place: Place) -> None:
    bundle = place.bundle(4, ["AA"])
    Path(place.lake.path(bundle.key, "model.onnx")).unlink()
    with pytest.raises(DataError, match=r"bundles/tiny/v4 lists model\.onnx.*lost it"):
        place.server.deploy(bundle)
    assert "triton-tiny-v4" not in place.supervision.states()
    assert place.server.endpoint("tiny-v4") is None
    assert not (place.targets / "tiny-v4.json").exists()


def test_a_graph_that_does_not_load_fails_with_the_servers_own_words(place: Place) -> None:
    with pytest.raises(DataError, match=r"(?s)tiny-v5.*Protobuf parsing failed"):
        place.server.deploy(place.bundle(5, ["AA"], model=b"not a graph"))
    assert "triton-tiny-v5" not in place.supervision.states()


def test_a_server_that_answers_otherwise_than_the_trained_model_never_gets_traffic(place: Place) -> None:
    wrong = replace(RECORDED, probabilities=(0.5, 0.75, 0.268941))
    with pytest.raises(
        DataError, match=r"tiny-v7 answered recorded row 7 with 0\.88079\d*, .*said 0\.75: .*limit 1\.1e-05"
    ):
        place.server.deploy(place.bundle(7, ["AA"], probe=wrong.to_json()))
    assert "triton-tiny-v7" not in place.supervision.states()
    assert place.server.endpoint("tiny-v7") is None
    assert not (place.targets / "tiny-v7.json").exists()


def test_a_recorded_row_that_the_server_refuses_keeps_it_from_traffic(place: Place) -> None:
    unseen = replace(RECORDED, columns={**RECORDED.columns, "carrier": ("B6", "ZZ", "AA")})
    with pytest.raises(DataError, match=r"(?s)tiny-v7 answered recorded row 7 with status 500.*out of data bounds"):
        place.server.deploy(place.bundle(7, ["AA"], probe=unseen.to_json()))
    assert "triton-tiny-v7" not in place.supervision.states()


def test_a_server_is_warmed_up_once_in_its_life(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "tidegate.clients.triton")

    def warmed() -> int:
        return caplog.text.count("tiny-v8 was warmed up by 400 requests")

    bundle = place.bundle(8, ["AA"])
    endpoint = place.server.deploy(bundle)
    counted = httpx.get(f"http://{endpoint.host}:{endpoint.metrics_port}/metrics").text
    assert 'nv_inference_request_success{model="tiny",version="8"} 403' in counted  # 3 recorded rows, then 400
    place.server.deploy(bundle)
    assert warmed() == 1
    first = place.supervision.states()["triton-tiny-v8"].pid
    psutil.Process(first).kill()
    assert daemon.wait_until(lambda: place.supervision.states()["triton-tiny-v8"].pid not in (0, first), 30)
    assert daemon.wait_until(lambda: place.server.ready("tiny-v8"), 30)
    place.server.deploy(bundle)
    assert warmed() == 2
    place.server.retire("tiny-v8")


def test_keeping_a_sample_of_what_is_served_costs_microseconds(place: Place) -> None:
    """One-row requests in turn to servers that keep nothing, a tenth and all; prints p50 and p99 of each."""
    took: dict[float, list[float]] = {0.0: [], 0.1: [], 1.0: []}
    endpoints = {}
    for version, share in zip((31, 32, 33), took, strict=True):
        server = TritonServer(
            place.supervision, PYTHON, place.folder, place.lake, place.targets, sample=lambda _, kept=share: kept
        )
        endpoints[share] = server.deploy(place.bundle(version, ["AA"]))
    with httpx.Client() as client:
        for number in range(1500):
            body = json.dumps({"id": f"r{number}", "inputs": [
                {"name": "carrier", "datatype": "BYTES", "shape": [1, 1], "data": ["B6"]},
                {"name": "distance", "datatype": "FP32", "shape": [1, 1], "data": [number / 10]},
            ]})  # fmt: skip
            order = list(endpoints.items())
            for share, endpoint in order[number % 3 :] + order[: number % 3]:  # who comes first is the slowest
                begun = time.perf_counter()
                answer = client.post(f"{endpoint.model_url}/infer", content=body)
                took[share].append(time.perf_counter() - begun)
                assert answer.status_code == 200
    for share, times in took.items():
        times.sort()
        print(f"{share:.0%} kept: p50 {1e3 * times[750]:.3f} ms, p99 {1e3 * times[1485]:.3f} ms over {len(times)}")
    assert took[1.0][750] < took[0.0][750] + 0.001, "a millisecond would be ten times what it costs"

    def kept(version: int) -> list[Served]:
        files = (place.folder / f"tiny-v{version}" / "served").glob("*.jsonl")
        lines = [line for file in files for line in file.read_bytes().splitlines()]
        return [Served.from_line(line) for line in lines]  # none is of the warm-up

    assert daemon.wait_until(lambda: len(kept(33)) == 1500, 5)
    assert not kept(31)
    tenth = kept(32)
    assert 100 < len(tenth) < 200
    assert {one.id for one in tenth} < {one.id for one in kept(33)}
    assert {one.digest for one in tenth} == {
        one.digest for one in kept(33) if is_chosen(bytes.fromhex(one.digest), 0.1)
    }
    for version in (31, 32, 33):
        place.server.retire(f"tiny-v{version}")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_refuses_the_sample_fails_no_request(place: Place) -> None:
    server = TritonServer(place.supervision, PYTHON, place.folder, place.lake, place.targets, sample=lambda _: 1.0)
    endpoint = server.deploy(place.bundle(34, ["AA"]))
    folder = place.folder / "tiny-v34" / "served"
    assert infer(endpoint, "B6", "100").status_code == 200
    assert daemon.wait_until(lambda: bool(list(folder.glob("*.jsonl"))), 5)
    (file,) = folder.glob("*.jsonl")
    file.unlink()
    file.symlink_to("/dev/full")
    psutil.Process(place.supervision.states()["triton-tiny-v34"].pid).kill()  # the next one opens its file anew
    assert daemon.wait_until(lambda: place.server.ready("tiny-v34"), 30)
    assert {infer(endpoint, "B6", str(at)).status_code for at in range(200)} == {200}
    place.server.retire("tiny-v34")


def test_files_altered_after_the_deploy_are_put_right_and_never_loaded(place: Place) -> None:
    bundle = place.bundle(9, ["AA"])
    endpoint = place.server.deploy(bundle)
    before = place.supervision.states()["triton-tiny-v9"].pid
    served = place.folder / "tiny-v9" / "repository" / "tiny" / "9" / "model.onnx"
    served.write_bytes(TINY.replace(b"Gather", b"Gether"))
    assert place.server.deploy(bundle) == endpoint
    assert served.read_bytes() == TINY
    assert place.supervision.states()["triton-tiny-v9"].pid not in (0, before)
    assert probability(infer(endpoint, "B6", "100")) == pytest.approx(0.5, abs=1e-6)
    place.server.retire("tiny-v9")


def test_an_older_version_is_restored_on_the_environment_of_its_own_lock(place: Place) -> None:
    """Versions 22 and 21 serve on the installed environment; version 20, whose lock has another zipp, comes back."""
    others = {
        name: place.server.deploy(place.bundle(version, ["AA"]))
        for version, name in ((22, "tiny-v22"), (21, "tiny-v21"))
    }
    pids = {name: place.supervision.states()[f"triton-{name}"].pid for name in others}
    lock = other_lock("zipp")
    begun = time.monotonic()
    endpoint = place.server.deploy(place.bundle(20, ["AA"], lock=lock))
    print(f"restored on an environment of its own in {time.monotonic() - begun:.1f} s")
    assert probability(infer(endpoint, "B6", "100")) == pytest.approx(0.5, abs=1e-6)
    home = place.folder / ".environments" / hashlib.sha256(lock.encode()).hexdigest()[:16]
    assert (home / "requirements.txt").read_text() == lock
    server = psutil.Process(place.supervision.states()["triton-tiny-v20"].pid)
    assert Path(server.exe()).is_relative_to(home)
    loaded = {
        m.path for stub in server.children(recursive=True) for m in stub.memory_maps() if "/onnxruntime/capi/" in m.path
    }
    assert loaded
    assert all(Path(path).is_relative_to(home) for path in loaded)
    assert zipp_of(home / "bin" / "python") == re.search(r"(?m)^zipp==(\S+)", lock)[1] != zipp_of(PYTHON)
    for name, pid in pids.items():
        assert place.supervision.states()[f"triton-{name}"].pid == pid, "the others run on, untouched"
        assert Path(psutil.Process(pid).exe()).is_relative_to(PYTHON.parent.parent)
        assert probability(infer(others[name], "B6", "100")) == pytest.approx(0.5, abs=1e-6)
    built = (home / "requirements.txt").stat().st_mtime_ns
    place.server.retire("tiny-v20")
    place.server.deploy(place.bundle(20, ["AA"], lock=lock))
    assert (home / "requirements.txt").stat().st_mtime_ns == built, "an environment is built once"
    for name in ("tiny-v20", *others):
        place.server.retire(name)


def test_a_lock_that_cannot_be_installed_starts_nothing_and_leaves_nothing(place: Place) -> None:
    wrong = re.sub(r"(?ms)^zipp==(\S+) \\$.*?(?=^\S)", rf"zipp==\1 --hash=sha256:{'0' * 64}\n", LOCK)
    assert wrong != LOCK
    before = sorted(path.name for path in (place.folder / ".environments").iterdir())
    with pytest.raises(DataError, match=r"(?s)zipp.*the lock cannot be installed here; register the model again"):
        place.server.deploy(place.bundle(23, ["AA"], lock=wrong))
    assert sorted(path.name for path in (place.folder / ".environments").iterdir()) == before
    assert "triton-tiny-v23" not in place.supervision.states()
    assert place.server.endpoint("tiny-v23") is None


def test_retiring_a_server_that_still_loads_leaves_no_process(place: Place) -> None:
    bundle = place.bundle(6, ["AA"])
    with ThreadPoolExecutor() as pool:
        deploying = pool.submit(place.server.deploy, bundle)
        stubs = f"tidegate-{bundle.name}-"  # Triton names its Python process's memory so on the command line
        assert daemon.wait_until(
            lambda: any(stubs in word for p in processes_of(place.folder) for word in p.cmdline()), 20
        )
        place.server.retire(bundle.name)
        with suppress(DataError):
            deploying.result()
    assert daemon.wait_until(lambda: not processes_of(place.folder / bundle.name), 5)


def test_a_killed_server_comes_back_at_the_same_address(place: Place) -> None:
    bundle = place.bundle(1, ["AA", "UA"])
    endpoint = place.server.deploy(bundle)
    first = place.supervision.states()["triton-tiny-v1"].pid
    psutil.Process(first).kill()
    assert daemon.wait_until(lambda: place.supervision.states()["triton-tiny-v1"].pid not in (0, first), 30)
    assert daemon.wait_until(lambda: place.server.ready("tiny-v1"), 30)
    assert place.server.deploy(bundle) == endpoint


def test_retire_leaves_no_process_and_no_file(place: Place) -> None:
    endpoint = place.server.deploy(place.bundle(1, ["AA", "UA"]))
    assert processes_of(place.folder)
    place.server.retire("tiny-v1")
    place.server.retire("tiny-v1")
    assert daemon.wait_until(lambda: not processes_of(place.folder), 5)
    assert place.server.endpoints() == {}
    assert not (place.targets / "tiny-v1.json").exists()
    assert not list(Path("/dev/shm").glob(f"*tiny-v1-{endpoint.port}*"))
