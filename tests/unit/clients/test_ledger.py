import socket

import pytest

from tidegate.clients.ledger import Ledger
from tidegate.errors import SpecError, Unavailable


@pytest.fixture
def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    "call",
    [
        lambda ledger: ledger.acquire("flights", "me", 60),
        lambda ledger: ledger.lease("flights"),
        lambda ledger: ledger.log("flights", "begun", "me"),
        lambda ledger: ledger.claim_request("flights", "r", {}),
    ],
)
def test_a_postgres_that_is_away_is_named_by_address_and_timeout_and_never_by_password(closed_port, call):
    ledger = Ledger(f"postgresql://tide:very-secret@127.0.0.1:{closed_port}/tidegate", timeout_s=2)
    with pytest.raises(Unavailable) as caught:
        call(ledger)
    said = str(caught.value)
    assert f"127.0.0.1:{closed_port} did not answer within 2 s" in said
    assert "very-secret" not in said


def test_an_address_that_is_none_is_refused_without_repeating_it():
    with pytest.raises(SpecError) as caught:
        Ledger("host=127.0.0.1 very-secret")
    assert "very-secret" not in str(caught.value)
    assert caught.value.__cause__ is None
