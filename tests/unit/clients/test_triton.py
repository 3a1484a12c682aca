from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tidegate.clients import probe, triton, triton_repository
from tidegate.clients.model_server import Endpoint, FakeModelServer, ModelServer
from tidegate.clients.triton import TritonServer
from tidegate.clients.triton_repository import Runtime
from tidegate.errors import DataError, NeedsGpu, SetupError, Unavailable
from tidegate.handoff import Bundle, Dataset, Feature, Request, Window
from tidegate.lake import Lake
from tidegate.recorded import RecordedAnswers
from tidegate.served import read_share
from tidegate.stack.supervision import Program, State

WINDOW = Window(start="2013-01-01", end="2013-02-01")
FEATURES = [
    Feature(name="carrier", encoding="vocabulary", dtype="BYTES", size=16),
    Feature(name="hour", encoding="vocabulary", dtype="INT64", size=24),
    Feature(name="distance", encoding="standardise", dtype="FP32", size=1),
]
RECORDED = RecordedAnswers(
    rows=(4, 8),
    columns={"carrier": ("AA", None), "hour": (1, None), "distance": (10.5, None)},
    probabilities=(0.25, 0.25),
    tolerance=1e-4,
)
WARM = 400  # requests


@dataclass
class FakeSupervisor:
    """Programs that are what `state` says, and answer by HTTP once `answers` is true."""

    programs: dict[str, Program] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)
    state: str = "RUNNING"
    answers: bool = True
    pid: int = 7

    def add(self, program: Program) -> None:
        if self.programs.get(program.name) != program:
            self.history.append(f"start {program.name}")
        self.programs[program.name] = program

    def remove(self, name: str) -> None:
        if self.programs.pop(name, None):
            self.history.append(f"stop {name}")

    def states(self) -> dict[str, State]:
        return {name: State(name, self.state, self.pid, 1, "") for name in self.programs}


@dataclass
class Answers:
    """What every server says to a request; counts the requests."""

    probability: float = 0.25
    version: str = "3"
    status: int = 200
    asked: int = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        output = {"name": "probability", "data": [self.probability]}
        return httpx.Response(self.status, text=json.dumps({"model_version": self.version, "outputs": [output]}))


@dataclass
class Place:
    """A server backend over a lake in a folder and supervisor that starts nothing."""

    folder: Path
    supervisor: FakeSupervisor
    lake: Lake
    server: TritonServer
    answers: Answers
    lock: str = "numpy==1\n"

    def bundle(self, version: int = 3, graph: bytes = b"graph", target: str = "onnx") -> Bundle:
        key = f"bundles/tiny/v{version}"
        with self.lake.publish(key) as draft:
            draft.file("model.onnx").write_bytes(graph)
            draft.file("encodings.json").write_text("{}")
            draft.file("probe.json").write_text(RECORDED.to_json())
            draft.file("requirements-serve.txt").write_text(self.lock)
        return Bundle(
            delivery="tiny", version=version, key=key, target=target, metrics={},  # type: ignore[arg-type]
            request=Request(request_id="r", delivery="tiny", window=WINDOW), digest=self.lake.require(key)["digest"],
            dataset=Dataset(delivery="tiny", window=WINDOW, key="d", train_rows=1, test_rows=1, label="late",
                            features=FEATURES, digest="d", slices={}),
        )  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    wheel = tmp_path / "site" / "pytriton" / "tritonserver"
    for name in ("backends/python/libtriton_python.so", "python_backend_stubs/3.11/triton_python_backend_stub"):
        (wheel / name).parent.mkdir(parents=True)
        (wheel / name).touch()
    runtime = Runtime(tmp_path / "site", tmp_path / "base", "3.11", tmp_path / "base" / "lib")
    supervisor = FakeSupervisor()
    monkeypatch.setattr(triton_repository, "find_runtime", lambda _: runtime)
    monkeypatch.setattr(triton, "_answers", lambda _: supervisor.answers)
    answers = Answers()
    monkeypatch.setattr(probe, "client", lambda: httpx.Client(transport=httpx.MockTransport(answers)))
    lake, python = Lake(f"file://{tmp_path / 'lake'}"), tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (tmp_path / "env" / "requirements.txt").write_text(Place.lock)
    server = TritonServer(
        supervisor, python, tmp_path / "models", lake, tmp_path / "targets", timeout_s=0.0, project=tmp_path
    )
    return Place(tmp_path, supervisor, lake, server, answers)


def test_the_configuration_types_each_feature_and_allows_no_batching_delay() -> None:
    assert triton_repository.configuration("tiny", FEATURES) == (
        'name: "tiny"\n'
        'backend: "python"\n'
        "max_batch_size: 4096\n"
        "input [\n"
        '  { name: "carrier", data_type: TYPE_STRING, dims: [ 1 ] },\n'
        '  { name: "hour", data_type: TYPE_INT64, dims: [ 1 ] },\n'
        '  { name: "distance", data_type: TYPE_FP32, dims: [ 1 ] }\n'
        "]\n"
        'output [\n  { name: "probability", data_type: TYPE_FP32, dims: [ 1 ] }\n]\n'
        "instance_group [ { kind: KIND_CPU, count: 1 } ]\n"
        "version_policy: { all { } }\n"
    )


def test_deploying_twice_starts_one_server_at_one_address(place: Place) -> None:
    bundle = place.bundle()
    endpoint = place.server.deploy(bundle)
    assert place.server.deploy(bundle) == endpoint
    assert place.supervisor.history == ["start triton-tiny-v3"]
    assert place.server.endpoints() == {"tiny-v3": endpoint}
    assert len({endpoint.port, endpoint.metrics_port}) == 2


def test_a_server_listens_on_loopback_only_and_without_grpc(place: Place) -> None:
    endpoint = place.server.deploy(place.bundle())
    command = place.supervisor.programs["triton-tiny-v3"].command
    assert endpoint.host == "127.0.0.1"
    assert {"--http-address=127.0.0.1", "--metrics-address=127.0.0.1", "--allow-grpc=false"} <= set(command)


def test_a_model_repository_holds_one_version_named_as_the_bundle(place: Place) -> None:
    place.server.deploy(place.bundle())
    model = place.folder / "models" / "tiny-v3" / "repository" / "tiny"
    found = sorted(path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file())
    assert found == [
        "3/encodings.json", "3/model.onnx", "3/model.py", "3/probe.json", "3/requirements-serve.txt", "config.pbtxt",
    ]  # fmt: skip


def test_the_wheel_is_linked_and_never_written(place: Place) -> None:
    place.server.deploy(place.bundle())
    backend = place.folder / "models" / "tiny-v3" / "backends" / "python"
    assert sorted(path.name for path in backend.iterdir()) == ["libtriton_python.so", "triton_python_backend_stub"]
    assert all(path.is_symlink() for path in backend.iterdir())


def test_prometheus_learns_the_version_when_it_is_ready(place: Place) -> None:
    endpoint = place.server.deploy(place.bundle())
    assert json.loads((place.folder / "targets" / "tiny-v3.json").read_text()) == [
        {"targets": [f"127.0.0.1:{endpoint.metrics_port}"], "labels": {"delivery": "tiny", "version": "tiny-v3"}}
    ]


def test_the_share_to_keep_is_written_before_the_server_starts_and_restarts_none_when_it_changes(place: Place) -> None:
    shares = {"tiny": 0.1}
    place.server._sample = shares.__getitem__
    place.server.deploy(place.bundle())
    home = place.folder / "models" / "tiny-v3"
    assert read_share(home) == 0.1
    shares["tiny"] = 0.5
    place.server.deploy(place.bundle())
    assert read_share(home) == 0.5
    assert place.supervisor.history == ["start triton-tiny-v3"]


def test_two_versions_share_no_port(place: Place) -> None:
    ports = []
    for version in (1, 2, 3):
        place.answers.version = str(version)
        endpoint = place.server.deploy(place.bundle(version))
        ports += [endpoint.port, endpoint.metrics_port]
    assert len(set(ports)) == 6


def test_another_revision_of_a_version_replaces_files_and_server_but_keeps_the_address(place: Place) -> None:
    endpoint = place.server.deploy(place.bundle())
    assert place.server.deploy(place.bundle(graph=b"another")) == endpoint
    assert place.supervisor.history == ["start triton-tiny-v3", "stop triton-tiny-v3", "start triton-tiny-v3"]
    served = place.folder / "models" / "tiny-v3" / "repository" / "tiny" / "3" / "model.onnx"
    assert served.read_bytes() == b"another"


@pytest.mark.parametrize("damage", ["lost", "truncated", "changed", "added", "left out", "replaced"])
def test_a_damaged_bundle_is_refused_before_anything_starts(place: Place, damage: str) -> None:
    bundle = place.bundle()
    stored = Path(place.lake.path(bundle.key, "model.onnx"))
    if damage == "lost":
        stored.unlink()
    elif damage == "truncated":
        stored.write_bytes(b"grap")
    elif damage == "changed":
        stored.write_bytes(b"gr4ph")
    elif damage == "added":
        (stored.parent / "another.onnx").touch()
    elif damage == "replaced":
        place.bundle(graph=b"another")
    else:
        with place.lake.publish(bundle.key) as draft:
            draft.file("encodings.json").write_text("{}")
    with pytest.raises(DataError, match="bundles/tiny/v3"):
        place.server.deploy(bundle)
    assert place.supervisor.history == []
    assert place.server.endpoints() == {}
    assert {path.name for path in (place.folder / "models").glob("*")} <= {".lock", ".logs"}
    assert not (place.folder / "targets").exists()


def test_a_new_server_that_ends_is_withdrawn(place: Place) -> None:
    place.supervisor.answers, place.supervisor.state = False, "BACKOFF"
    with pytest.raises(DataError, match="Triton ended while it loaded tiny-v3"):
        place.server.deploy(place.bundle())
    assert place.supervisor.programs == {}
    assert place.server.endpoints() == {}


def test_a_new_server_that_is_not_ready_in_time_is_withdrawn(place: Place) -> None:
    place.supervisor.answers = False
    with pytest.raises(Unavailable, match=r"/v2/models/tiny/ready did not answer within 0 s"):
        place.server.deploy(place.bundle())
    assert place.supervisor.programs == {}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"probability": 0.26}, r"row 4 with 0\.26, .* said 0\.25: they differ by 0\.01, limit 0\.000101"),
        ({"probability": float("nan")}, "row 4 with nan"),
        ({"version": "2"}, "row 4 by version 2, not 3"),
        ({"status": 500}, "row 4 with status 500, not 200"),
    ],
)
def test_a_new_server_that_fails_its_probe_is_withdrawn(place: Place, wrong: dict[str, object], said: str) -> None:
    vars(place.answers).update(wrong)
    with pytest.raises(DataError, match=said):
        place.server.deploy(place.bundle())
    assert place.supervisor.history == ["start triton-tiny-v3", "stop triton-tiny-v3"]
    assert place.server.endpoints() == {}
    assert not (place.folder / "targets").exists()


def test_a_server_that_may_have_traffic_is_left_alone_when_it_fails_its_probe(place: Place) -> None:
    bundle = place.bundle()
    endpoint = place.server.deploy(bundle)
    place.answers.probability = 0.26
    with pytest.raises(DataError, match="recorded row 4"):
        place.server.deploy(bundle)
    assert place.server.endpoint("tiny-v3") == endpoint
    assert place.supervisor.history == ["start triton-tiny-v3"]


def test_a_server_whose_deploy_died_before_its_probe_counts_as_new(place: Place) -> None:
    bundle = place.bundle()
    place.server.deploy(bundle)
    (place.folder / "targets" / "tiny-v3.json").unlink()  # what the deploy writes last
    place.answers.probability = 0.26
    with pytest.raises(DataError, match="recorded row 4"):
        place.server.deploy(bundle)
    assert place.supervisor.programs == {}


def test_a_process_is_warmed_up_once(place: Place) -> None:
    bundle = place.bundle()
    place.server.deploy(bundle)
    assert place.answers.asked == 2 + WARM
    place.server.deploy(bundle)
    assert place.answers.asked == 2 + WARM + 2
    place.supervisor.pid = 8  # it died and was started again
    place.server.deploy(bundle)
    assert place.answers.asked == 2 + WARM + 2 + 2 + WARM


@pytest.mark.parametrize("damage", ["lost", "truncated", "changed", "added", "version added", "model.py", "manifest"])
def test_installed_files_that_were_altered_are_replaced_from_the_bundle(place: Place, damage: str) -> None:
    bundle = place.bundle()
    endpoint = place.server.deploy(bundle)
    home = place.folder / "models" / "tiny-v3"
    version = home / "repository" / "tiny" / "3"
    if damage == "lost":
        (version / "model.onnx").unlink()
    elif damage == "truncated":
        (version / "model.onnx").write_bytes(b"grap")
    elif damage == "changed":
        (version / "model.onnx").write_bytes(b"gr4ph")
    elif damage == "model.py":
        (version / "model.py").write_text("")
    elif damage == "manifest":
        (home / "manifest.json").write_text('{"files": {}}')
    else:
        added = version / "added" if damage == "added" else version.parent / "4" / "model.py"
        added.parent.mkdir(exist_ok=True)
        added.touch()
    assert place.server.deploy(bundle) == endpoint
    assert place.supervisor.history == ["start triton-tiny-v3", "stop triton-tiny-v3", "start triton-tiny-v3"]
    assert (version / "model.onnx").read_bytes() == b"graph"
    assert sorted(path.name for path in version.parent.iterdir()) == ["3", "config.pbtxt"]
    assert not (version / "added").exists()
    assert place.server.deploy(bundle) == endpoint
    assert len(place.supervisor.history) == 3


def test_altered_files_are_left_alone_where_the_bundle_is_damaged_too(place: Place) -> None:
    bundle = place.bundle()
    place.server.deploy(bundle)
    installed = place.folder / "models" / "tiny-v3" / "repository" / "tiny" / "3" / "model.onnx"
    for path in (installed, Path(place.lake.path(bundle.key, "model.onnx"))):
        path.write_bytes(b"gr4ph")
    with pytest.raises(DataError, match=r"bundles/tiny/v3/model\.onnx differs from its manifest"):
        place.server.deploy(bundle)
    assert place.supervisor.history == ["start triton-tiny-v3"]


def test_a_running_version_is_deployed_again_without_the_lake(place: Place) -> None:
    bundle = place.bundle()
    endpoint = place.server.deploy(bundle)
    place.lake.delete(bundle.key)
    assert place.server.deploy(bundle) == endpoint


def test_what_triton_compiles_beside_its_model_is_no_alteration(place: Place) -> None:
    bundle = place.bundle()
    place.server.deploy(bundle)
    cache = place.folder / "models" / "tiny-v3" / "repository" / "tiny" / "3" / "__pycache__"
    cache.mkdir()
    (cache / "model.cpython-311.pyc").touch()
    place.server.deploy(bundle)
    assert place.supervisor.history == ["start triton-tiny-v3"]


def test_a_bundle_of_another_lock_without_uv_starts_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(place.folder))
    place.lock = "numpy==2\n"
    with pytest.raises(SetupError, match=r"there is no uv at .*\.tools/bin/uv nor on PATH"):
        place.server.deploy(place.bundle())
    assert place.supervisor.history == []


def test_a_server_that_may_have_traffic_is_left_alone_when_it_does_not_answer(place: Place) -> None:
    bundle = place.bundle()
    endpoint = place.server.deploy(bundle)
    place.supervisor.answers = False
    with pytest.raises(Unavailable):
        place.server.deploy(bundle)
    assert place.server.endpoint("tiny-v3") == endpoint
    assert list(place.supervisor.programs) == ["triton-tiny-v3"]


def test_retire_twice_leaves_nothing(place: Place) -> None:
    place.server.deploy(place.bundle())
    place.server.retire("tiny-v3")
    place.server.retire("tiny-v3")
    assert place.supervisor.history == ["start triton-tiny-v3", "stop triton-tiny-v3"]
    assert place.server.endpoints() == {}
    assert not place.server.ready("tiny-v3")
    assert not list((place.folder / "targets").iterdir())


def test_a_tensorrt_engine_is_refused_with_what_it_needs(place: Place) -> None:
    with pytest.raises(NeedsGpu, match=r"tensorrt.*optimise\.target"):
        place.server.deploy(place.bundle(target="tensorrt"))
    assert place.supervisor.history == []


def test_a_missing_serving_environment_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"Remedy: make"):
        triton_repository.find_runtime(tmp_path / "no-python")


def test_the_stub_is_led_to_the_right_python_and_libraries(place: Place) -> None:
    place.server.deploy(place.bundle())
    env = place.supervisor.programs["triton-tiny-v3"].env
    assert env["LD_LIBRARY_PATH"] == f"{place.folder}/site/nvidia_pytriton.libs:{place.folder}/base/lib"
    assert env["PATH"].startswith(f"{place.folder}/base/bin:")


def test_an_endpoint_knows_its_model_address() -> None:
    where = Endpoint(name="late_v2-v12", host="127.0.0.1", port=8000, metrics_port=8002)
    assert where.model_url == "http://127.0.0.1:8000/v2/models/late_v2"
    assert where.address == "127.0.0.1:8000"


def test_the_fake_behaves_as_the_interface_says(place: Place) -> None:
    fake: ModelServer = FakeModelServer(broken=frozenset({"tiny-v4"}))
    assert fake.deploy(place.bundle()) == fake.deploy(place.bundle())
    assert fake.ready("tiny-v3")
    with pytest.raises(DataError):
        fake.deploy(place.bundle(4))
    fake.retire("tiny-v3")
    fake.retire("tiny-v3")
    assert fake.endpoints() == {}
