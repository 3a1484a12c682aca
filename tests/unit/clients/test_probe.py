"""The recorded rows sent to a server that is a function."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import httpx
import pytest

from tidegate.clients.model_server import Endpoint
from tidegate.clients.probe import probe, warm_up
from tidegate.errors import DataError, Unavailable
from tidegate.handoff import Feature
from tidegate.recorded import RecordedAnswers
from tidegate.wire import MISSING_INT

WHERE = Endpoint(name="tiny-v3", host="127.0.0.1", port=1, metrics_port=2)
FEATURES = [
    Feature(name="carrier", encoding="vocabulary", dtype="BYTES", size=2),
    Feature(name="hour", encoding="vocabulary", dtype="INT64", size=2),
    Feature(name="distance", encoding="standardise", dtype="FP32", size=1),
]
RECORDED = RecordedAnswers(
    rows=(3, 9),
    columns={"carrier": ("AA", None), "hour": (7, None), "distance": (10.5, None)},
    probabilities=(0.25, 0.75),
    tolerance=1e-4,
)


def a_server(answer: Callable[[httpx.Request], httpx.Response]) -> httpx.Client:
    return httpx.Client(transport=httpx.MockTransport(answer))


def prediction(value: object, version: str = "3") -> httpx.Response:
    return httpx.Response(200, json={"model_version": version, "outputs": [{"data": [value]}]})


def test_each_recorded_row_is_sent_by_itself_as_callers_send_it() -> None:
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append((str(request.url), json.loads(request.content)["inputs"]))
        return prediction(RECORDED.probabilities[len(sent) - 1])

    assert probe(a_server(answer), WHERE, 3, FEATURES, RECORDED) == 0.0
    assert {url for url, _ in sent} == {"http://127.0.0.1:1/v2/models/tiny/infer"}
    assert [[tensor["data"][0] for tensor in inputs][:2] for _, inputs in sent] == [["AA", 7], ["", MISSING_INT]]
    assert all(tensor["shape"] == [1, 1] for _, inputs in sent for tensor in inputs)


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (prediction(0.25, "4"), "row 3 by version 4, not 3"),
        (httpx.Response(400, text="no such input"), "row 3 with status 400, not 200: no such input"),
        (prediction(None), "row 3 with no prediction"),
        (httpx.Response(200, text="hello"), "row 3 with no prediction: hello"),
        (httpx.Response(200, json={"model_version": "3", "outputs": []}), "row 3 with no prediction"),
    ],
)
def test_an_answer_that_is_no_prediction_of_this_version_is_refused(response: httpx.Response, said: str) -> None:
    with pytest.raises(DataError, match=said):
        probe(a_server(lambda _: response), WHERE, 3, FEATURES, RECORDED)


def test_a_server_that_does_not_answer_is_unavailable() -> None:
    def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("too slow", request=request)

    with pytest.raises(Unavailable, match=r"infer gave no answer to recorded row 3 within 5 s"):
        probe(a_server(away), WHERE, 3, FEATURES, RECORDED)


def test_a_feature_without_a_recorded_column_is_refused() -> None:
    strange = [*FEATURES, Feature(name="wind", encoding="standardise", dtype="FP32", size=1)]
    with pytest.raises(DataError, match="no column 'wind'"):
        probe(a_server(lambda _: prediction(0.25)), WHERE, 3, strange, RECORDED)


def test_warming_up_sends_the_count_asked_for_and_several_at_once() -> None:
    together = threading.Barrier(4, timeout=5)  # breaks, and fails the request, if four are never under way at once

    def answer(_: httpx.Request) -> httpx.Response:
        together.wait()
        return prediction(0.5)

    assert warm_up(a_server(answer), WHERE, 3, FEATURES, RECORDED, requests=40, at_once=4) == 40


def test_warming_up_ends_when_its_time_is_over() -> None:
    assert warm_up(a_server(lambda _: prediction(0.5)), WHERE, 3, FEATURES, RECORDED, at_most_s=0.0) == 0


def test_a_server_that_fails_under_the_warm_up_is_refused() -> None:
    with pytest.raises(DataError, match="status 500"):
        warm_up(a_server(lambda _: httpx.Response(500, text="x")), WHERE, 3, FEATURES, RECORDED, requests=8)
