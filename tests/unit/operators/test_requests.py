"""Requests from Kafka: what is a request, what is refused, and that nothing is committed before it is stored."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from airflow.triggers.shared_stream import AdvanceItem, AdvanceOutcome
from kafka import TopicPartition

from operators.requests import parse_request
from operators.triggers.requests import KafkaRequests, KafkaRequestTrigger
from tidegate.delivery import delivery_named
from tidegate.errors import DataError
from tidegate.handoff import Window

WINDOW = Window.model_validate({"start": "2013-01-01", "end": "2013-04-01"})


def message(body):
    value = body if isinstance(body, str) else json.dumps(body)
    return {"topic": "retrain", "partition": 0, "offset": 7, "value": value}


def test_a_message_without_a_window_gets_the_newest_published_one():
    found = parse_request(delivery_named("flights"), message({"request_id": "a"}), WINDOW)
    assert found.window == WINDOW
    assert found.source == "kafka"


def test_a_message_without_an_id_is_named_by_its_position():
    assert parse_request(delivery_named("flights"), message({}), WINDOW).request_id == "retrain-0-7"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("{not json", "Expecting property name"),
        ("[1]", "a request is a JSON object"),
        ({"request_id": "a", "model": "os:system"}, "not declared"),
        ({"request_id": "a/b"}, "pattern"),
        ({"request_id": "a", "surprise": 1}, "Extra inputs"),
    ],
)
def test_what_is_no_request_is_refused_with_its_reason(body, why):
    with pytest.raises(ValueError, match=why):
        parse_request(delivery_named("flights"), message(body), WINDOW)


class Consumer:
    def __init__(self):
        self.commits = []

    def commit(self, offsets):
        self.commits += [(tp.topic, tp.partition, meta.offset) for tp, meta in offsets.items()]


def item(offset, acked=1, failed=0):
    return AdvanceItem(("retrain", 0, offset), AdvanceOutcome(acked=acked, failed=failed))


async def test_an_offset_is_committed_only_for_events_that_airflow_has_stored():
    requests = KafkaRequests("events", "retrain", "group")
    requests._consumer = consumer = Consumer()
    await requests.advance([item(3, acked=0, failed=1)])
    assert consumer.commits == []
    await requests.advance([item(4), item(5)])
    assert consumer.commits == [("retrain", 0, 6)]


async def test_a_failed_event_holds_the_commit_before_it_so_that_the_broker_sends_it_again():
    requests = KafkaRequests("events", "retrain", "group")
    requests._consumer = consumer = Consumer()
    await requests.advance([item(3), item(4, acked=0, failed=1), item(5)])
    assert consumer.commits == [("retrain", 0, 4)]


async def test_the_watcher_says_where_each_message_stood():
    trigger = KafkaRequestTrigger("events", "retrain", "group")

    async def stream():
        yield message({"request_id": "a"})

    (event,) = [event async for event in trigger.filter_shared_stream(stream())]
    assert (event.payload["partition"], event.payload["offset"]) == (0, 7)


async def test_a_broker_that_is_away_is_waited_for_and_not_raised(monkeypatch, caplog):
    from operators.triggers import requests as module

    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.01)
    record = SimpleNamespace(offset=0, value=b"{}")
    answers = [ConnectionError("refused"), None]

    class Requests(KafkaRequests):
        async def _connect(self):
            if error := answers.pop(0):
                raise error
            partition = TopicPartition("retrain", 0)
            self._consumer = SimpleNamespace(poll=lambda timeout_ms: {partition: [record]}, close=lambda: None)

    requests = Requests("events", "retrain", "group")
    stream = requests.open_stream()
    found, position = await anext(stream)
    assert position == ("retrain", 0, 0)
    assert found["value"] == "{}"
    assert "refused" in caplog.text
    await stream.aclose()
    await requests.aclose()


def test_a_topic_that_does_not_exist_is_named_and_never_subscribed_to(monkeypatch):
    calls = []

    class Consumer:
        def __init__(self, **settings):
            assert settings["enable_auto_commit"] is False

        def topics(self):
            return {"weather"}

        def subscribe(self, topics):
            calls.append(topics)

        def close(self):
            calls.append("closed")

    monkeypatch.setattr("kafka.KafkaConsumer", Consumer)
    with pytest.raises(DataError, match=r"topic 'retrain' is not on 127\.0\.0\.1:9092; create it"):
        KafkaRequests("events", "retrain", "group")._open("127.0.0.1:9092")
    assert calls == ["closed"]
