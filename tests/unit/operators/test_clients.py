"""What connections become: addresses and settings of clients, and no secret where it could be read."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from operators.hooks import clients
from tidegate.ingest.kafka_broker import Broker


def test_a_secured_cluster_gets_its_settings_and_nothing_else() -> None:
    extra = {
        "bootstrap.servers": "a:9092,b:9092", "group.id": "theirs", "auto.offset.reset": "latest",
        "security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN", "sasl.password": "secret",
        "ssl.ca.location": "ca.pem",
    }  # fmt: skip
    found = clients.kafka_security(SimpleNamespace(extra_dejson=extra))

    assert found == {name: extra[name] for name in list(extra)[3:]}
    assert "secret" not in repr(Broker("a:9092", 1.0, found))


def test_a_registry_is_found_by_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    held = SimpleNamespace(
        host="http://schemas:8080/apis/ccompat/v7", port=None, schema=None, login="me", password="pw"
    )
    monkeypatch.setattr(clients, "connection", lambda name: held if name == "schemas" else None)
    found = clients.schema_registry("schemas")

    assert found is not None
    assert (found.url, found.login, found.password) == ("http://schemas:8080/apis/ccompat/v7", "me", "pw")
    assert "pw" not in repr(found)
    assert clients.schema_registry(None) is None
