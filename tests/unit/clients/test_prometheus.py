"""Raw samples from Prometheus: the query to the letter, scrapes put together, and every way of not answering."""

from __future__ import annotations

import math

import httpx
import pytest

from tidegate.clients.prometheus import PrometheusMetrics, counters, quality_of, said, scrapes_of
from tidegate.errors import Unavailable
from tidegate.judge import Sample, Scrape

INF = math.inf
REQUESTS, CLASSES = "envoy_cluster_upstream_rq_completed", "envoy_cluster_upstream_rq_xx"
BUCKETS = "envoy_cluster_upstream_rq_time_bucket"


def row(name, cluster, values, **labels):
    metric = {"__name__": name, "envoy_cluster_name": cluster, **labels}
    return {"metric": metric, "values": [[at, str(value)] for at, value in values]}


def test_the_query_is_exactly_this():
    assert counters(["flights-v2", "flights-v1"], 15.25) == (
        '{__name__=~"envoy_cluster_upstream_rq_completed|envoy_cluster_upstream_rq_xx|'
        'envoy_cluster_upstream_rq_time_bucket",envoy_cluster_name=~"flights-v1|flights-v2"}[15250ms]'
    )


def test_scrapes_are_put_together_by_their_times():
    rows = [
        row(REQUESTS, "a", [(10.0, 7), (11.0, 9)]),
        row(REQUESTS, "b", [(11.0, 2)]),
        row(CLASSES, "a", [(10.0, 6), (11.0, 8)], envoy_response_code_class="2"),
        row(CLASSES, "a", [(11.0, 1)], envoy_response_code_class="5"),
        row(BUCKETS, "a", [(10.0, 6), (11.0, 7)], le="5"),
        row(BUCKETS, "a", [(10.0, 7), (11.0, 9)], le="+Inf"),
    ]
    assert scrapes_of(rows) == [
        Scrape(10.0, {"a": Sample(7.0, 0.0, {6.0: 6.0, INF: 7.0})}),
        Scrape(11.0, {"a": Sample(9.0, 1.0, {6.0: 7.0, INF: 9.0}), "b": Sample(2.0, 0.0, {})}),
    ]


def test_series_of_several_proxies_are_summed():
    rows = [row(REQUESTS, "a", [(10.0, 7)], instance=name) for name in ("one", "two")]
    assert scrapes_of(rows) == [Scrape(10.0, {"a": Sample(14.0)})]


def test_not_a_number_stays_one():
    (scrape,) = scrapes_of([row(REQUESTS, "a", [(10.0, "NaN")])])
    assert not scrape.versions["a"].usable


def test_nothing_is_no_scrape():
    assert scrapes_of([]) == []


def test_the_query_of_what_was_said_is_exactly_this():
    assert said("flights-v2", "flights-v1", 15.25) == (
        '{__name__=~"tidegate_predictions_bucket|tidegate_pairs_total|tidegate_disagreements_total|'
        'tidegate_labelled_total|tidegate_wrong_total",version=~"flights-v1|flights-v2"}[15250ms]'
    )


def told(name, version, values, **labels):
    metric = {"__name__": name, "delivery": "d", "version": version, **labels}
    return {"metric": metric, "values": [[at, str(value)] for at, value in values]}


def test_what_was_said_is_put_together_by_signal_and_time():
    rows = [
        told("tidegate_predictions_bucket", "a", [(10.2, 3), (11.2, 4)], le="0.5"),
        told("tidegate_predictions_bucket", "a", [(10.2, 5), (11.2, 9)], le="+Inf"),
        told("tidegate_predictions_bucket", "b", [(11.2, 1)], le="0.5"),
        told("tidegate_predictions_bucket", "b", [(11.2, 2)], le="+Inf"),
        told("tidegate_labelled_total", "a", [(11.2, 7)]),
        told("tidegate_wrong_total", "a", [(11.2, 2)]),
        told("tidegate_pairs_total", "b", [(11.2, 5)], champion="a"),
        told("tidegate_disagreements_total", "b", [(11.2, 1)], champion="a"),
        told("tidegate_pairs_total", "a", [(11.2, 5)], champion="b"),
        told("tidegate_disagreements_total", "a", [(11.2, 1)], champion="b"),
        told("tidegate_pairs_total", "b", [(11.2, 80)], champion="an older one"),
    ]
    seen = quality_of(rows, "b", "a")
    assert seen.predictions == [
        Scrape(10.2, {"a": Sample(5.0, 0.0, {0.5: 3.0, INF: 5.0})}),
        Scrape(11.2, {"a": Sample(9.0, 0.0, {0.5: 4.0, INF: 9.0}), "b": Sample(2.0, 0.0, {0.5: 1.0, INF: 2.0})}),
    ]
    assert seen.labels == [Scrape(11.2, {"a": Sample(7.0, 2.0)})]
    assert seen.disagreement == [Scrape(11.2, {"b": Sample(5.0, 1.0)})]


def test_half_of_what_was_said_is_nothing_that_can_be_used():
    rows = [
        told("tidegate_predictions_bucket", "b", [(11.2, 1)], le="0.5"),
        told("tidegate_labelled_total", "b", [(11.2, 7)]),
    ]
    seen = quality_of(rows, "b", "a")
    assert not seen.predictions[0].versions["b"].usable
    assert not seen.labels[0].versions["b"].usable


def answering(answer):
    def handle(request):
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(200, **answer(request.url.params))

    return PrometheusMetrics("http://127.0.0.1:9090", transport=httpx.MockTransport(handle))


def test_the_present_time_is_prometheus_own():
    def answer(params):
        assert "time" not in params, "our own clock must not choose the samples"
        if params["query"] == "time()":
            return {"json": {"status": "success", "data": {"resultType": "scalar", "result": [1010.4, "1010.4"]}}}
        return {"json": {"status": "success", "data": {"result": [row(REQUESTS, "a", [(1010.0, 5)])]}}}

    seen = answering(answer).scrapes(["a", "b"], 30.0)
    assert seen.now == 1010.4
    assert seen.scrapes == [Scrape(1010.0, {"a": Sample(5.0)})]


def test_a_recorded_interval_is_asked_for_by_its_end():
    def answer(params):
        assert (params["time"], params["query"][-9:]) == ("200.000", "[100000ms]"[-9:])
        return {"json": {"status": "success", "data": {"result": []}}}

    assert answering(answer).between(["a"], 100.0, 200.0) == []


@pytest.mark.parametrize(
    "answer",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        lambda _: {"text": "<html>"},
        lambda _: {"json": {"status": "error"}},
    ],
)
def test_a_prometheus_that_is_away_or_talks_nonsense_is_unavailable_and_named(answer):
    with pytest.raises(Unavailable, match=r"Prometheus at http://127\.0\.0\.1:9090 did not answer within 2 s"):
        answering(answer).scrapes(["a"], 1.0)
