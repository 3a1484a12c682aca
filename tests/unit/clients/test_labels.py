"""Messages that are labels, those that are none, and a Kafka that is away."""

from __future__ import annotations

import pytest

from tidegate.clients.labels import LabelTopic, decode
from tidegate.errors import Unavailable
from tidegate.stack import ports


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (b'{"id": "r1", "label": 1}', ("r1", 1)),
        (b'{"id": "r1", "label": 0, "more": []}', ("r1", 0)),
        (b'{"id": "r1", "label": true}', ("r1", 1)),
        (b'{"id": "", "label": 1}', None),
        (b'{"id": 7, "label": 1}', None),
        (b'{"id": "r1", "label": 0.5}', None),
        (b'{"id": "r1", "label": [1]}', None),
        (b'{"id": "r1"}', None),
        (b'["r1", 1]', None),
        (b"nonsense", None),
        (b"\xff\xfe", None),
        (b"[" * 100_000, None),
        (b'{"id": "%b", "label": 1}' % (b"x" * 1001), None),
        (None, None),
    ],
)
def test_a_message_is_a_label_or_counted_as_none(value, found):
    assert decode(value) == found


def test_kafka_away_is_unavailable_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr("tidegate.clients.labels._TIMEOUT_MS", 300)
    address = f"127.0.0.1:{ports.choose(['kafka'], [])['kafka']}"
    with pytest.raises(Unavailable, match=f"topic 'labels' of Kafka at {address}"):
        next(LabelTopic(address, "labels", tmp_path / "position.json").read())


def test_the_position_is_kept_beside_what_was_known_and_a_broken_file_is_no_position(tmp_path):
    kept = tmp_path / "state" / "position.json"
    topic = LabelTopic("127.0.0.1:1", "labels", kept)
    assert topic._position() == {}
    topic._keep({0: 5, 1: 7})
    topic._keep({1: 9})
    assert LabelTopic("127.0.0.1:1", "labels", kept)._position() == {0: 5, 1: 9}
    kept.write_text("[]")
    assert topic._position() == {}
