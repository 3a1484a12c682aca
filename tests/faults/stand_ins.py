"""Small servers that take a part's place on its port and answer as a faulty one would."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from tidegate.clients.prometheus import counters

PAST_S = 60.0


@contextmanager
def serving(port: int, handler: type[BaseHTTPRequestHandler]) -> Iterator[None]:
    """Serve on a loopback port from a thread, once that port is free."""
    server = _bound(port, handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def samples(url: str, versions: list[str]) -> list[dict[str, Any]]:
    """Return what a real Prometheus has of the versions' counters in the last minute."""
    answer = httpx.get(f"{url}/api/v1/query", params={"query": counters(versions, PAST_S)}, timeout=5)
    found: list[dict[str, Any]] = answer.raise_for_status().json()["data"]["result"]
    return found


def prometheus(kind: str, kept: list[dict[str, Any]]) -> type[BaseHTTPRequestHandler]:
    """Return a Prometheus that answers stale (always the same samples), nan (no number in any), or 500."""

    class Handler(_Quiet):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query).get("query", [""])[0]
            if kind == "500":
                self.answer(500, {"status": "error", "errorType": "internal", "error": "a fault"})
            elif query == "time()":
                self.answer(200, _vector("scalar", [time.time(), str(time.time())]))
            elif kind == "nan":
                self.answer(200, _vector("matrix", [_without_numbers(row) for row in kept]))
            else:
                self.answer(200, _vector("matrix", kept))

    return Handler


def model_server(kind: str) -> type[BaseHTTPRequestHandler]:
    """Return a version's server that is always ready, and answers requests slow (2 s), with 500, or closes on them."""

    class Handler(_Quiet):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer(200, {})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if kind == "closing":
                self.close_connection = True
                return
            if kind == "slow":
                time.sleep(2.0)
            self.answer(500 if kind == "500" else 200, {"outputs": [{"name": "probability", "data": [0.5]}]})

    return Handler


class _Quiet(BaseHTTPRequestHandler):
    def answer(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        return


def _bound(port: int, handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    deadline = time.monotonic() + 10
    while True:
        try:
            return ThreadingHTTPServer(("127.0.0.1", port), handler)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _vector(kind: str, result: Any) -> dict[str, Any]:
    return {"status": "success", "data": {"resultType": kind, "result": result}}


def _without_numbers(row: dict[str, Any]) -> dict[str, Any]:
    now = time.time()
    return {**row, "values": [[now - age, "NaN"] for age in (3.0, 2.0, 1.0, 0.0)]}
