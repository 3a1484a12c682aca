"""A small HTTP server on loopback for those who know a bearer token."""

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from tidegate.errors import SetupError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_STOP_WITHIN_S = 0.1
_CALLER_S = 5  # for a caller to send its request
_MOST_BYTES = 1_000_000  # of a body that is read; twice as much is thrown away so that the caller sees the answer


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    body: bytes
    kind: str = "text/plain; charset=utf-8"


class LoopbackServer:
    """Answers on 127.0.0.1: 401 without `Authorization: Bearer <token>`, 411 or 413 for a body without or beyond limit.

    Args:
        port: on 127.0.0.1; 0 takes a free one.
        token: what callers must know.
        answer: gives the answer to (method, path without its query, body), for GET and POST; called in a thread per
            request.

    Raises:
        SetupError: the token is empty, or the port is taken.
    """

    def __init__(self, port: int, token: str, answer: Callable[[str, str, bytes], Answer]):
        if not token:
            raise SetupError("the bearer token is empty; write one into the token file")
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(token, answer))
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


def _handler(token: str, answer: Callable[[str, str, bytes], Answer]) -> type[BaseHTTPRequestHandler]:
    expected = f"Bearer {token}".encode()

    class Handler(BaseHTTPRequestHandler):
        timeout = _CALLER_S

        def do_GET(self) -> None:  # the name that http.server calls
            self._give(self._refused() or answer("GET", self._page, b""))

        def do_POST(self) -> None:  # the name that http.server calls
            length = self.headers.get("Content-Length", "")
            size = int(length) if length.isascii() and length.isdigit() and len(length) < 19 else None
            refused = self._refused() or _too_big(size)
            if refused is None and size is not None:
                self._give(answer("POST", self._page, self.rfile.read(size)))
            elif refused is not None:
                self.rfile.read(min(size or 0, 2 * _MOST_BYTES))  # a reset would hide the answer from the caller
                self._give(refused)

        @property
        def _page(self) -> str:
            return self.path.partition("?")[0]

        def _refused(self) -> Answer | None:
            given = self.headers.get("Authorization", "").encode()
            return None if hmac.compare_digest(given, expected) else Answer(401, b"unauthorised\n")

        def _give(self, given: Answer) -> None:
            self.send_response(given.status)
            if given.status == 401:
                self.send_header("WWW-Authenticate", "Bearer")
            self.send_header("Content-Type", given.kind)
            self.send_header("Content-Length", str(len(given.body)))
            self.end_headers()
            self.wfile.write(given.body)

        def log_message(self, format: str, *args: object) -> None:  # the base class names it
            """Keep quiet: a line per request would fill the log."""

    return Handler


def _too_big(size: int | None) -> Answer | None:
    if size is None:
        return Answer(411, b"Content-Length is missing or no number\n")
    if size > _MOST_BYTES:
        return Answer(413, f"{size} bytes are more than {_MOST_BYTES}\n".encode())
    return None
