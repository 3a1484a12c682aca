"""A stand-in for TensorFlow Serving's binary, which is in no package registry: real TensorFlow, real API definitions.

    .envs/train/bin/python tests/stack/tfserving/stand_in.py --port 8500 --rest_api_port 8501 --model_config_file f

It is not TensorFlow Serving. It has what the backend relies on, read from model_servers/server_core.cc and the
documents of TensorFlow Serving: versions named by a configuration are loaded from their base path in the background,
after a reload was answered (when it starts: before it answers at all, and it ends if one cannot be loaded); a reload
replaces the whole configuration; labels are checked before anything is loaded, also at the start; a version that
cannot be loaded ends with its error; the warm-up requests of assets.extra are replayed before a version is available.
It says nothing about TensorFlow Serving's speed, memory or threads.

Tests reach into it by POST /test/<what>: `refuse-labels` (once), `hold-loading`, `go-on`, and GET /test/calls.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import grpc
import tensorflow as tf
from google.protobuf import json_format, text_format
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_log_pb2,
)
from tensorflow_serving.config import model_server_config_pb2

POLL_S = 0.2  # the file system is looked at that often; the real one does so every second
State = get_model_status_pb2.ModelVersionStatus.State
NOT_FOUND, FAILED, INVALID = 5, 9, 3


class Refused(Exception):
    """A status other than OK."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


class Core:
    """The models of one server."""

    def __init__(self, config):
        self.calls = []
        self.refuse_labels = False
        self.go_on = threading.Event()
        self.go_on.set()
        self._lock = threading.RLock()
        self._loaded, self._states, self._labels = {}, {}, {}
        self._wanted, self._tried, self._paths = set(), set(), {}
        self.reload(config)
        threading.Thread(target=self._follow, daemon=True).start()

    def reload(self, config):
        """Take over a configuration; whoever calls it for the first time has nothing available to label."""
        if not config.model_config_list.config:
            raise Refused(INVALID, "the stand-in takes no empty configuration: what the real one does then is a trap")
        shown = {
            entry.name: [sorted(entry.model_version_policy.specific.versions), dict(entry.version_labels)]
            for entry in config.model_config_list.config
        }
        with self._lock:
            self.calls.append(shown)
            for entry in config.model_config_list.config:
                self._check_labels(entry)
            self._labels = {entry.name: dict(entry.version_labels) for entry in config.model_config_list.config}
            self._paths = {entry.name: entry.base_path for entry in config.model_config_list.config}
            self._wanted = {
                (entry.name, version)
                for entry in config.model_config_list.config
                for version in entry.model_version_policy.specific.versions
            }

    def refuse(self):
        """Refuse the next label."""
        self.refuse_labels = True

    def await_first(self):
        """Return when what it was started with is available."""
        while True:
            with self._lock:
                states = [self._states.get(key, (None, "")) for key in self._wanted]
            failed = [error for state, error in states if state == State.END]
            if failed:
                raise SystemExit(f"Failed to start server. Error: {failed[0]}")
            if all(state == State.AVAILABLE for state, _ in states):
                return
            time.sleep(POLL_S)

    def _check_labels(self, entry):
        for label, version in entry.version_labels.items():
            state = self._states.get((entry.name, version), (None, ""))[0]
            if state != State.AVAILABLE or self.refuse_labels:
                self.refuse_labels = False
                raise Refused(
                    FAILED,
                    f"Request to assign label to version {version} of model {entry.name}, which is not currently "
                    f"available for inference ({label})",
                )

    def _follow(self):
        while True:
            time.sleep(POLL_S)
            with self._lock:
                gone = [key for key in self._loaded if key not in self._wanted]
                for key in gone:
                    del self._loaded[key]
                    self._states[key] = (State.END, "")
                for key, (state, _) in list(self._states.items()):
                    if key not in self._wanted and state != State.END:
                        self._states[key] = (State.END, "")
                new = [key for key in sorted(self._wanted) if key not in self._tried]
                self._tried = {key for key in self._tried if key in self._wanted}
            for key in new:
                self._load(key)

    def _load(self, key):
        self._tried.add(key)
        self._set(key, State.LOADING)
        self.go_on.wait()
        folder = Path(self._paths[key[0]]) / str(key[1])
        try:
            if not folder.is_dir():
                raise OSError(f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {folder}")
            model = tf.saved_model.load(str(folder))
            warmed = warm_up(model, folder)
        except Exception as error:  # whatever TensorFlow raises is the version's error
            self._set(key, State.END, f"{type(error).__name__}: {error}"[:500])
            return
        with self._lock:
            self._loaded[key] = (model, warmed)
            self._set(key, State.AVAILABLE)

    def _set(self, key, state, error=""):
        with self._lock:
            self._states[key] = (state, error)

    def states(self, model):
        with self._lock:
            found = {version: value for (name, version), value in self._states.items() if name == model}
        if not found:
            raise Refused(NOT_FOUND, f"Could not find any versions of model {model}")
        return found

    def find(self, model, version=None, label=None):
        with self._lock:
            if label is not None:
                version = self._labels.get(model, {}).get(label)
            known = sorted(number for name, number in self._loaded if name == model)
            number = version if version is not None else (known[-1] if known else None)
            if (model, number) not in self._loaded:
                raise Refused(NOT_FOUND, f"Servable not found for request: {model} {version or label or 'latest'}")
            return number, *self._loaded[model, number]


def warm_up(model, folder):
    """Replay the recorded requests; return how many there were."""
    file = folder / "assets.extra" / "tf_serving_warmup_requests"
    if not file.exists():
        return 0
    count = 0
    for record in tf.data.TFRecordDataset(str(file)):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        signature = model.signatures[request.model_spec.signature_name]
        signature(**{name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()})
        count += 1
    return count


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, core):
        self._core = core

    def GetModelStatus(self, request, context):  # noqa: N802  # the API's name
        try:
            states = self._core.states(request.model_spec.name)
        except Refused as error:
            context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        return status_of(states)

    def HandleReloadConfigRequest(self, request, context):  # noqa: N802  # the API's name
        try:
            self._core.reload(request.config)
        except Refused as error:
            codes = {FAILED: grpc.StatusCode.FAILED_PRECONDITION, INVALID: grpc.StatusCode.INVALID_ARGUMENT}
            context.abort(codes[error.code], str(error))
        return model_management_pb2.ReloadConfigResponse()


def status_of(states):
    answer = get_model_status_pb2.GetModelStatusResponse()
    for version, (state, error) in sorted(states.items(), reverse=True):
        entry = answer.model_version_status.add(version=version, state=state)
        if error:
            entry.status.error_code, entry.status.error_message = 2, error
    return answer


def predict(found, body):
    _, model, _ = found
    signature = model.signatures["serving_default"]
    specs = signature.structured_input_signature[1]
    inputs = json.loads(body)["inputs"]
    if set(inputs) != set(specs):
        raise Refused(INVALID, f"Input tensors {sorted(inputs)} are not those of the signature {sorted(specs)}")
    given = {name: tf.constant(value, specs[name].dtype) for name, value in inputs.items()}
    (output,) = signature(**given).values()
    return {"outputs": output.numpy().tolist()}


def metadata(model, found):
    number, loaded, _ = found
    specs = loaded.signatures["serving_default"].structured_input_signature[1]
    kinds = {tf.string: "DT_STRING", tf.int64: "DT_INT64", tf.float32: "DT_FLOAT"}
    inputs = {name: {"dtype": kinds[spec.dtype], "name": f"serving_default_{name}:0"} for name, spec in specs.items()}
    return {
        "model_spec": {"name": model, "signature_name": "", "version": str(number)},
        "metadata": {"signature_def": {"signature_def": {"serving_default": {"inputs": inputs}}}},
    }


ROUTE = re.compile(
    r"/v1/models/(?P<model>\w+)(/versions/(?P<version>\d+)|/labels/(?P<label>\w+))?(?P<verb>:predict|/metadata)?"
)


class Rest(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    core = None

    def do_GET(self):
        if self.path == "/monitoring/prometheus/metrics":
            self.reply(200, "# TYPE :tensorflow:serving:request_count counter\n", "text/plain")
        elif self.path == "/test/calls":
            self.reply(200, self.core.calls)
        else:
            self.answer(b"")

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        orders = {"hold-loading": self.core.go_on.clear, "go-on": self.core.go_on.set}
        orders["refuse-labels"] = self.core.refuse
        order = orders.get(self.path.removeprefix("/test/"))
        if order is None:
            self.answer(body)
        else:
            order()
            self.reply(200, {})

    def answer(self, body):
        match = ROUTE.fullmatch(self.path)
        if not match:
            self.reply(404, {"error": f"Malformed request: {self.command} {self.path}"})
            return
        try:
            self.reply(200, self.made(match, body))
        except Refused as error:
            self.reply(404 if error.code == NOT_FOUND else 400, {"error": str(error)})
        except Exception as error:  # the graph's own errors are answers
            self.reply(400, {"error": f"{type(error).__name__}: {error}"[:500]})

    def made(self, match, body):
        model, version = match["model"], int(match["version"]) if match["version"] else None
        if match["verb"] is None:
            states = self.core.states(model)
            wanted = {each: value for each, value in states.items() if version in (None, each)}
            return json_format.MessageToDict(status_of(wanted), preserving_proto_field_name=True)
        found = self.core.find(model, version, match["label"])
        return metadata(model, found) if match["verb"] == "/metadata" else predict(found, body)

    def reply(self, status, body, kind="application/json"):
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rest_api_port", type=int, required=True)
    parser.add_argument("--model_config_file", type=Path, required=True)
    given = parser.parse_args()
    while not given.model_config_file.exists():  # as the entry point in docker-compose.yaml does
        time.sleep(0.1)
    config = text_format.Parse(given.model_config_file.read_text(), model_server_config_pb2.ModelServerConfig())
    core = Core(config)
    core.await_first()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(core), server)
    server.add_insecure_port(f"127.0.0.1:{given.port}")
    server.start()
    rest = ThreadingHTTPServer(("127.0.0.1", given.rest_api_port), type("Handler", (Rest,), {"core": core}))
    rest.daemon_threads = True
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    rest.serve_forever(0.05)


if __name__ == "__main__":
    main()
