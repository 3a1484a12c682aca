"""Serves Prometheus metrics on loopback to those who know a bearer token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from tidegate.clients.loopback import Answer, LoopbackServer

if TYPE_CHECKING:
    from prometheus_client.registry import CollectorRegistry


class Exporter(LoopbackServer):
    """An HTTP server with one page, /metrics: 401 without `Authorization: Bearer <token>`, 404 elsewhere.

    Args:
        registry: what to show.
        port: on 127.0.0.1; 0 takes a free one.
        token: what callers must know.

    Raises:
        SetupError: the token is empty, or the port is taken.
    """

    def __init__(self, registry: CollectorRegistry, port: int, token: str):
        def answer(method: str, path: str, body: bytes) -> Answer:
            if (method, path) != ("GET", "/metrics"):
                return Answer(404, b"only GET /metrics is here\n")
            return Answer(200, generate_latest(registry), CONTENT_TYPE_LATEST)

        super().__init__(port, token, answer)
