import math

import httpx
import pytest

from tidegate.clients import prometheus
from tidegate.clients.prometheus import PrometheusMetrics, Sample, Scrape, counters, difference, quantile, scrape_of
from tidegate.errors import Unavailable

INF = math.inf


def test_the_counters_query_is_exactly_this():
    assert counters(["flights-v2", "flights-v1"]) == (
        '{__name__="envoy_server_uptime"}'
        ' or {__name__="envoy_cluster_upstream_rq_completed",envoy_cluster_name=~"flights-v1|flights-v2"}'
        ' or {__name__="envoy_cluster_upstream_rq_xx",envoy_cluster_name=~"flights-v1|flights-v2",'
        'envoy_response_code_class="5"}'
        ' or {__name__="envoy_cluster_upstream_rq_time_bucket",envoy_cluster_name=~"flights-v1|flights-v2"}'
    )


def test_the_times_query_is_exactly_this():
    assert prometheus.sample_times(["flights-v1"]) == (
        'max by (envoy_cluster_name) (timestamp(envoy_cluster_upstream_rq_completed{envoy_cluster_name=~"flights-v1"}))'
    )


def row(name, value, cluster=None, **labels):
    metric = {"__name__": name, **labels}
    if cluster:
        metric["envoy_cluster_name"] = cluster
    return {"metric": metric, "value": [0, str(value)]}


def test_a_scrape_without_a_5xx_counter_has_no_errors():
    scrape = scrape_of(
        [
            row("envoy_server_uptime", 100),
            row("envoy_cluster_upstream_rq_completed", 7, "a"),
            row("envoy_cluster_upstream_rq_time_bucket", 6, "a", le="5"),
            row("envoy_cluster_upstream_rq_time_bucket", 7, "a", le="+Inf"),
        ]
    )
    assert scrape == Scrape(100.0, {"a": Sample(7.0, 0.0, {5.0: 6.0, INF: 7.0})})


def test_counts_are_exact_differences():
    before = Scrape(100, {"a": Sample(10, 1, {10.0: 10, INF: 10})})
    after = Scrape(110, {"a": Sample(30, 4, {10.0: 20, INF: 30})})
    found = difference("a", before, after, 10.0, 5.0)
    assert (found.requests, found.errors, found.sampled_at) == (20, 3, 5.0)
    assert found.p50_ms == 10.0


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        # the version was not there at the beginning, Envoy was: everything counts, its first sample too
        (Scrape(100, {}), Scrape(110, {"a": Sample(3, 3)}), (3, 3)),
        # Envoy restarted since: its counters began again
        (Scrape(100, {"a": Sample(50, 5)}), Scrape(4, {"a": Sample(60, 1)}), (60, 1)),
        (Scrape(None, {}), Scrape(4, {"a": Sample(6, 1)}), (6, 1)),
        # the cluster was taken away and added again: its counters began again
        (Scrape(100, {"a": Sample(50, 5)}), Scrape(110, {"a": Sample(2, 0)}), (2, 0)),
        # nothing happened
        (Scrape(100, {"a": Sample(50, 5)}), Scrape(110, {"a": Sample(50, 5)}), (0, 0)),
    ],
)
def test_absent_and_restarted_counters_are_told_apart(before, after, expected):
    found = difference("a", before, after, 10.0, 5.0)
    assert (found.requests, found.errors) == expected


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Scrape(100, {}), Scrape(110, {})),  # never seen, or no longer scraped
        (Scrape(100, {"a": Sample(1)}), Scrape(None, {})),
        (Scrape(None, {}), Scrape(110, {"a": Sample(5000)})),  # not scraped at the beginning: no baseline
    ],
)
def test_what_is_not_known_is_none_and_not_zero(before, after):
    assert difference("a", before, after, 10.0, 5.0) is None


@pytest.mark.parametrize(
    ("q", "buckets", "expected"),
    [
        (0.5, {10.0: 50, 20.0: 100, INF: 100}, 10.0),
        (0.75, {10.0: 50, 20.0: 100, INF: 100}, 15.0),
        (0.99, {10.0: 50, 20.0: 60, INF: 100}, 20.0),
        (0.5, {10.0: 0, 20.0: 10, INF: 10}, 15.0),
        (0.99, {10.0: 0, INF: 0}, None),
        (0.99, {}, None),
        (0.99, {INF: math.nan}, None),
    ],
)
def test_quantiles_are_linear_inside_a_bucket_as_prometheus_reckons_them(q, buckets, expected):
    assert quantile(q, buckets) == pytest.approx(expected)


def answering(answer):
    def handle(request):
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(200, **answer(request.url.params))

    return PrometheusMetrics("http://127.0.0.1:9090", transport=httpx.MockTransport(handle))


def test_both_ends_of_the_interval_are_asked_for():
    asked = []

    def answer(params):
        asked.append((params["query"].split("(")[0][:10], params["time"]))
        if params["query"].startswith("max by"):
            rows = [{"metric": {"envoy_cluster_name": "a"}, "value": [0, "1009.5"]}]
        else:
            late = params["time"] == "1010.000"
            rows = [
                row("envoy_server_uptime", 900 + 10 * late),
                row("envoy_cluster_upstream_rq_completed", 20 if late else 5, "a"),
            ]
        return {"json": {"status": "success", "data": {"result": rows}}}

    found = answering(answer).counts(["a", "b"], 1000.0, 1010.0)
    assert [time for _, time in asked] == ["1000.000", "1010.000", "1010.000"]
    assert found["b"] is None
    assert (found["a"].requests, found["a"].p99_ms, found["a"].sampled_at) == (15, None, 1009.5)


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
        answering(answer).counts(["a"], 0.0, 1.0)
