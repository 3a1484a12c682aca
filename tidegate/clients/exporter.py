"""Serves Prometheus metrics on loopback to those who know a bearer token."""

from __future__ import annotations

import hmac
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from tidegate.errors import SetupError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from prometheus_client.registry import CollectorRegistry

_STOP_WITHIN_S = 0.1


class Exporter:
    """An HTTP server with one page, /metrics: 401 without `Authorization: Bearer <token>`, 404 elsewhere.

    Args:
        registry: what to show.
        port: on 127.0.0.1; 0 takes a free one.
        token: what callers must know.

    Raises:
        SetupError: the token is empty, or the port is taken.
    """

    def __init__(self, registry: CollectorRegistry, port: int, token: str):
        if not token:
            raise SetupError("the metrics' bearer token is empty; write one into the token file")
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(registry, token))
        except OSError as error:
            raise SetupError(f"port {port} of 127.0.0.1 cannot be listened on ({error}); choose another") from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_STOP_WITHIN_S,), daemon=True)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(registry: CollectorRegistry, token: str) -> type[BaseHTTPRequestHandler]:
    expected = f"Bearer {token}".encode()

    class Handler(BaseHTTPRequestHandler):
        timeout = 5  # seconds for a caller to send its request

        def do_GET(self) -> None:  # the name that http.server calls
            given = self.headers.get("Authorization", "").encode()
            if not hmac.compare_digest(given, expected):
                self._answer(401, b"unauthorised\n", "text/plain")
            elif self.path.partition("?")[0] != "/metrics":
                self._answer(404, b"only /metrics is here\n", "text/plain")
            else:
                self._answer(200, generate_latest(registry), CONTENT_TYPE_LATEST)

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            if status == 401:
                self.send_header("WWW-Authenticate", "Bearer")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # the base class names it
            """Keep quiet: a line per scrape would fill the log."""

    return Handler
