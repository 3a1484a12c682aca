"""The schema registry: each id is asked for once, and what it refuses or cannot do has a name."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tidegate.contract.avro import parsed
from tidegate.errors import DataError, Unavailable
from tidegate.ingest.kafka_registry import Registry

PLAIN = {"type": "record", "name": "r", "fields": [{"name": "n", "type": "long"}]}
USING = {"type": "record", "name": "u", "fields": [{"name": "r", "type": "r"}]}


class StandIn:
    """A server with the answers of a registry as its API documents them."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.status = 200
        self.answers: dict[str, Any] = {
            "/schemas/ids/1": {"schema": json.dumps(PLAIN)},
            "/schemas/ids/2": {
                "schema": json.dumps(USING), "references": [{"name": "r", "subject": "r-value", "version": 3}],
            },
            "/subjects/r-value/versions/3": {"schema": json.dumps(PLAIN), "id": 1},
            "/schemas/ids/3": {"schemaType": "PROTOBUF", "schema": 'syntax = "proto3";'},
        }  # fmt: skip


@pytest.fixture
def server() -> Iterator[tuple[StandIn, str]]:
    stand_in = StandIn()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            stand_in.asked.append(self.path)
            wanted = "Basic " + base64.b64encode(b"me:secret").decode()
            status, answer = stand_in.status, stand_in.answers.get(self.path)
            if self.headers.get("Authorization") != wanted:
                status, answer = 401, {"error_code": 401, "message": "Unauthorized"}
            elif answer is None:
                status, answer = 404, {"error_code": 40403, "message": "Schema not found"}
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield stand_in, f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


def test_each_id_is_asked_for_once_and_an_unknown_one_is_nobodys(server: tuple[StandIn, str]) -> None:
    stand_in, url = server
    registry = Registry(url, "me", "secret")
    for _ in range(2):
        assert json.loads(str(registry.schema(1))) == PLAIN
        assert registry.schema(9) is None
    assert stand_in.asked == ["/schemas/ids/1", "/schemas/ids/9"]


def test_what_a_schema_uses_comes_before_it(server: tuple[StandIn, str]) -> None:
    text = Registry(server[1], "me", "secret").schema(2)
    assert text is not None
    assert json.loads(text) == [PLAIN, USING]
    parsed(text)


def test_what_is_no_avro_is_refused_where_it_is_used(server: tuple[StandIn, str]) -> None:
    text = Registry(server[1], "me", "secret").schema(3)
    assert text is not None
    with pytest.raises(ValueError, match="schema_is_no_avro"):
        parsed(text)


def test_a_refused_login_is_permanent_and_the_password_is_not_told(server: tuple[StandIn, str]) -> None:
    registry = Registry(server[1], "me", "wrong-one")
    with pytest.raises(DataError, match="refuses the login 'me'") as caught:
        registry.schema(1)
    assert "wrong-one" not in str(caught.value) + repr(registry)


def test_a_registry_that_cannot_or_is_away_is_retried(server: tuple[StandIn, str]) -> None:
    stand_in, url = server
    stand_in.status = 503
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:\d+ did not answer: .*503"):
        Registry(url, "me", "secret").schema(1)
    with pytest.raises(Unavailable, match=r"did not answer.*time-out 1 s"):
        Registry("http://127.0.0.1:1", timeout=1.0).schema(1)
