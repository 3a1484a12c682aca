from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidegate.clients.model_server import Endpoint
from tidegate.delivery import GateSpec
from tidegate.errors import DataError
from tidegate.gate import run as module
from tidegate.gate.run import run
from tidegate.gate.task import GateTask
from tidegate.handoff import Bundle, Dataset, Feature, Request, Window
from tidegate.lake import Lake

WINDOW = Window(start="2013-01-01", end="2013-02-01")
SPEC = GateSpec.model_validate(
    {"rate": "100/s", "for": "0.3s", "p99": "5s", "quality": {"auc": {"at_least": 0.9, "lose_at_most": 0.01}}}
)
ROWS = 40


@pytest.fixture(autouse=True)
def _no_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WARM_UP", 0.05)
    monkeypatch.setattr(module, "BATCH", 16)


@pytest.fixture
def served() -> Iterator[Callable[..., Endpoint]]:
    """Make a KServe v2 server whose probability is what `score` says of a row's x; None is a status 500."""
    servers = []

    def make(
        score: Callable[[float], float | None], name: str = "tiny-v2", inputs: tuple[str, ...] = ("x",)
    ) -> Endpoint:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._reply(200, {"inputs": [{"name": n, "datatype": "FP32", "shape": [-1, 1]} for n in inputs]})

            def do_POST(self) -> None:
                rows = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"][0]["data"]
                scores = [score(x) for x in rows]
                if None in scores:
                    self._reply(500, {"error": "no such category"})
                else:
                    self._reply(200, {"outputs": [{"name": "probability", "data": scores}]})

            def _reply(self, status: int, body: Any) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                """Keep quiet."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return Endpoint(name=name, host="127.0.0.1", port=server.server_port, metrics_port=1)

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


def task(folder: Path, endpoint: Endpoint, champion: Endpoint | None = None, rows: int = ROWS) -> GateTask:
    lake = Lake(f"file://{folder}")
    x = [float(i) for i in range(rows)]
    with lake.publish("datasets/tiny") as draft:
        pq.write_table(pa.table({"x": x, "late": [int(v >= rows / 2) for v in x]}), draft.file("test.parquet"))
    dataset = Dataset(
        delivery="tiny", window=WINDOW, key="datasets/tiny", train_rows=1, test_rows=rows, label="late",
        features=[Feature(name="x", encoding="standardise", dtype="FP32", size=1)], digest="d", slices={},
    )  # fmt: skip
    bundle = Bundle(
        delivery="tiny", version=2, key="bundles/tiny/v2", target="onnx", dataset=dataset, metrics={}, digest="d",
        request=Request(request_id="r", delivery="tiny", window=WINDOW),
    )  # fmt: skip
    return GateTask(bundle=bundle, endpoint=endpoint, champion=champion, gate=SPEC, lake=lake.url)


def right(x: float) -> float:
    return x / ROWS


def test_a_good_candidate_passes_and_the_task_survives_its_way_as_json(
    tmp_path: Path, served: Callable[..., Endpoint]
) -> None:
    asked = task(tmp_path, served(right), served(right, "tiny-v1"))
    report = run(GateTask.model_validate_json(asked.to_json()))
    assert report.passed, report.table()
    assert report.requests == 30
    assert report.figures["champion_auc"] == 1.0
    assert report.figures["positive_share"] == 0.5


def test_a_candidate_worse_than_the_champion_is_refused(tmp_path: Path, served: Callable[..., Endpoint]) -> None:
    report = run(task(tmp_path, served(lambda x: 0.3 if x == ROWS - 1 else right(x)), served(right, "tiny-v1")))
    assert [check.name for check in report.checks if not check.ok] == ["auc lost to champion"]


def test_a_row_that_the_candidate_cannot_answer_leaves_it_without_quality(
    tmp_path: Path, served: Callable[..., Endpoint]
) -> None:
    report = run(task(tmp_path, served(lambda x: None if x == 0 else right(x))))
    assert {check.name: check.ok for check in report.checks} == {"p99": True, "errors": False, "auc": False}
    assert next(check for check in report.checks if check.name == "auc").value is None


def test_a_champion_that_is_away_fails_the_comparison(tmp_path: Path, served: Callable[..., Endpoint]) -> None:
    away = Endpoint(name="tiny-v1", host="127.0.0.1", port=1, metrics_port=1)
    report = run(task(tmp_path, served(right), away))
    assert [check.name for check in report.checks if not check.ok] == ["auc lost to champion"]


def test_a_champion_with_inputs_that_the_dataset_lacks_fails_the_comparison(
    tmp_path: Path, served: Callable[..., Endpoint]
) -> None:
    report = run(task(tmp_path, served(right), served(right, "tiny-v1", inputs=("x", "gone"))))
    assert [check.name for check in report.checks if not check.ok] == ["auc lost to champion"]


def test_an_empty_held_out_window_is_refused(tmp_path: Path) -> None:
    nowhere = Endpoint(name="tiny-v2", host="127.0.0.1", port=1, metrics_port=1)
    with pytest.raises(DataError, match="0 held-out rows"):
        run(task(tmp_path, nowhere, rows=0))
