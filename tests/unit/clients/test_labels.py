"""Messages that are labels, those that are none, and a Kafka that is away."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from kafka.errors import OffsetOutOfRangeError

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


class Broker:
    """One partition in a list, in the place of Kafka's consumer; the real one is in tests/stack/test_quality.py."""

    def __init__(self, *messages):
        self.log, self.deleted, self.at = list(messages), 0, 0

    def __call__(self, **settings):
        assert settings["group_id"] is None
        assert not settings["enable_auto_commit"]
        return self

    def partitions_for_topic(self, topic):
        return {0} if topic == "labels" else None

    def assign(self, partitions):
        self.partition = partitions[0]

    def end_offsets(self, partitions):
        return {partitions[0]: len(self.log)}

    def seek(self, partition, offset):
        self.at = offset

    def seek_to_beginning(self, partition):
        self.at = self.deleted

    def poll(self, timeout_ms):
        if self.at < self.deleted:
            raise OffsetOutOfRangeError
        begun, self.at = self.at, len(self.log)
        fresh = [SimpleNamespace(value=self.log[at], offset=at) for at in range(begun, len(self.log))]
        return {self.partition: fresh} if fresh else {}

    def close(self, autocommit):
        assert not autocommit


@pytest.fixture
def broker(monkeypatch):
    found = Broker(label("old"), label("older"))
    monkeypatch.setattr("kafka.KafkaConsumer", found)
    return found


def label(request_id):
    return b'{"id": "%b", "label": 1}' % request_id.encode()


def test_a_topic_is_read_from_its_end_and_by_the_next_process_from_where_this_one_was(broker, tmp_path):
    kept = tmp_path / "position.json"
    first = LabelTopic("k:1", "labels", kept).read()
    assert next(first) == []
    broker.log += [label("a"), b"nonsense"]
    assert next(first) == [("a", 1), None]
    broker.log.append(label("while nobody read"))
    assert next(LabelTopic("k:1", "labels", kept).read()) == [("while nobody read", 1)]
    assert next(LabelTopic("k:1", "labels", kept).read()) == []


def test_labels_deleted_before_they_were_read_are_passed_over(broker, tmp_path):
    reading = LabelTopic("k:1", "labels", tmp_path / "position.json").read()
    assert next(reading) == []
    broker.log += [label("gone"), label("kept")]
    broker.deleted = 3
    assert next(reading) == [("kept", 1)]


def test_a_topic_that_is_not_there_is_unavailable(broker, tmp_path):
    with pytest.raises(Unavailable, match="has no topic 'others'; create it"):
        next(LabelTopic("k:1", "others", tmp_path / "position.json").read())


def test_a_position_that_cannot_be_kept_gives_out_no_label(broker, tmp_path):
    (tmp_path / "state").write_text("a file where the folder should be")
    with pytest.raises(Unavailable, match="labels cannot be read"):
        next(LabelTopic("k:1", "labels", tmp_path / "state" / "position.json").read())
