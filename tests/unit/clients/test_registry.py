from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tidegate.clients.registry import Registry
from tidegate.errors import DataError, Unavailable


class Mlflow:
    """The part of MLflow's REST API that the registry uses, answering as MLflow 3.17 does."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, int]] = {}
        self.versions: list[dict[str, Any]] = []
        self.clock = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/api/2.0/mlflow/")
        body = json.loads(request.content) if request.content else dict(request.url.params)
        name = f"{request.method} {path}".replace("/", "_").replace("-", "_").replace(" ", "_").lower()
        answer: httpx.Response = getattr(self, name)(body)
        return answer

    def post_registered_models_create(self, body: dict[str, Any]) -> httpx.Response:
        if body["name"] in self.models:
            return refusal(400, "RESOURCE_ALREADY_EXISTS")
        self.models[body["name"]] = {}
        return httpx.Response(200, json={})

    def get_registered_models_get(self, body: dict[str, Any]) -> httpx.Response:
        if body["name"] not in self.models:
            return refusal(404, "RESOURCE_DOES_NOT_EXIST")
        aliases = [{"alias": a, "version": str(v)} for a, v in self.models[body["name"]].items()]
        return httpx.Response(200, json={"registered_model": {"name": body["name"], "aliases": aliases}})

    def post_model_versions_create(self, body: dict[str, Any]) -> httpx.Response:
        if body["source"].startswith(("file:", "hdfs:")):
            return refusal(400, "INVALID_PARAMETER_VALUE")
        made = {"version": str(len(self.versions) + 1), "creation_timestamp": self.clock * 1000}
        self.versions.append({**body, **made})
        return httpx.Response(200, json={"model_version": self.versions[-1]})

    def get_model_versions_search(self, body: dict[str, Any]) -> httpx.Response:
        wanted = [
            found
            for found in self.versions
            for tag in found["tags"]
            if body["filter"] == f"name='{found['name']}' and tags.{tag['key']} = '{tag['value']}'"
        ]
        return httpx.Response(200, json={"model_versions": wanted} if wanted else {})

    def delete_model_versions_delete(self, body: dict[str, Any]) -> httpx.Response:
        self.versions[int(body["version"]) - 1]["tags"] = []  # its number is never given again
        return httpx.Response(200, json={})

    def get_model_versions_get(self, body: dict[str, Any]) -> httpx.Response:
        for found in self.versions:
            if (found["name"], found["version"]) == (body["name"], body["version"]):
                aliases = [a for a, v in self.models[body["name"]].items() if str(v) == found["version"]]
                return httpx.Response(200, json={"model_version": {**found, "aliases": aliases}})
        return refusal(404, "RESOURCE_DOES_NOT_EXIST")

    def post_model_versions_set_tag(self, body: dict[str, Any]) -> httpx.Response:
        tags = self.versions[int(body["version"]) - 1]["tags"]
        tags[:] = [tag for tag in tags if tag["key"] != body["key"]] + [{"key": body["key"], "value": body["value"]}]
        return httpx.Response(200, json={})

    def post_registered_models_alias(self, body: dict[str, Any]) -> httpx.Response:
        if int(body["version"]) > len(self.versions):
            return refusal(404, "RESOURCE_DOES_NOT_EXIST")
        self.models[body["name"]][body["alias"]] = int(body["version"])
        return httpx.Response(200, json={})

    def delete_registered_models_alias(self, body: dict[str, Any]) -> httpx.Response:
        if body["name"] not in self.models:
            return refusal(404, "RESOURCE_DOES_NOT_EXIST")
        self.models[body["name"]].pop(body["alias"], None)
        return httpx.Response(200, json={})


def refusal(status: int, code: str) -> httpx.Response:
    return httpx.Response(status, json={"error_code": code, "message": "said MLflow"})


@pytest.fixture
def mlflow() -> Mlflow:
    return Mlflow()


@pytest.fixture
def registry(mlflow: Mlflow) -> Registry:
    return Registry("http://registry:5000/", transport=httpx.MockTransport(mlflow))


def reserve(registry: Registry, request_id: str = "r1") -> int:
    return registry.reserve(
        delivery="flights", request_id=request_id, run_id=None, source_uri="file:///lake/models/flights/r1",
        metrics={"auc": 0.75}, tags={"window": "w"},
    )  # fmt: skip


def test_a_request_is_registered_once_however_often_it_is_asked(registry: Registry, mlflow: Mlflow) -> None:
    assert [reserve(registry), reserve(registry), reserve(registry, "r2"), reserve(registry)] == [1, 1, 2, 1]
    assert len(mlflow.versions) == 2


def test_two_registrations_at_once_agree_on_the_lower_version_and_leave_no_other(
    registry: Registry, mlflow: Mlflow
) -> None:
    real = mlflow.post_model_versions_create

    def raced(body: dict[str, Any]) -> httpx.Response:
        real(body)  # the other caller's, between our search and our create
        return real(body)

    mlflow.post_model_versions_create = raced  # type: ignore[method-assign]
    assert reserve(registry) == 1
    mlflow.post_model_versions_create = real  # type: ignore[method-assign]
    assert reserve(registry) == 1
    assert [version["version"] for version in mlflow.versions if version["tags"]] == ["1"]


def test_a_version_says_how_far_its_registration_is(registry: Registry) -> None:
    version = reserve(registry)
    assert registry.describe("flights", version).tags["state"] == "registering"  # type: ignore[union-attr]
    registry.complete("flights", version, {"bundle_digest": "d"})
    tags = registry.describe("flights", version).tags  # type: ignore[union-attr]
    assert (tags["state"], tags["bundle_digest"]) == ("registered", "d")


def test_only_old_versions_that_never_became_whole_and_that_nobody_names_are_swept(
    registry: Registry, mlflow: Mlflow
) -> None:
    whole, left, named = reserve(registry), reserve(registry, "r2"), reserve(registry, "r3")
    mlflow.clock = 100
    young = reserve(registry, "r4")
    registry.complete("flights", whole, {})
    registry.set_alias("flights", "champion", named)
    assert registry.sweep("flights", before=50) == [left]
    assert registry.sweep("flights", before=50) == []
    assert [int(version["version"]) for version in mlflow.versions if version["tags"]] == [whole, named, young]
    assert Registry("http://registry:5000", transport=httpx.MockTransport(Mlflow())).sweep("unheard_of", 50) == []


def test_a_version_carries_its_figures_its_source_and_its_request(registry: Registry) -> None:
    found = registry.describe("flights", reserve(registry))
    assert found is not None
    assert found.tags == {
        "metric.auc": "0.75", "request_id": "r1", "source_uri": "file:///lake/models/flights/r1",
        "state": "registering", "window": "w",
    }  # fmt: skip
    assert found.run_id is None
    assert registry.describe("flights", 9) is None


def test_an_alias_moves_and_goes(registry: Registry) -> None:
    assert registry.version_of("flights", "champion") is None
    reserve(registry)
    reserve(registry, "r2")
    registry.set_alias("flights", "champion", 1)
    registry.set_alias("flights", "champion", 2)
    assert registry.version_of("flights", "champion") == 2
    assert registry.describe("flights", 2).aliases == {"champion"}  # type: ignore[union-attr]
    registry.drop_alias("flights", "champion")
    registry.drop_alias("flights", "champion")
    registry.drop_alias("unheard_of", "champion")
    assert registry.version_of("flights", "champion") is None


def test_tags_are_written_over(registry: Registry) -> None:
    version = reserve(registry)
    registry.tag("flights", version, {"gate": "failed"})
    registry.tag("flights", version, {"gate": "passed"})
    assert registry.describe("flights", version).tags["gate"] == "passed"  # type: ignore[union-attr]


def test_a_refusal_is_permanent_and_names_what_mlflow_said(registry: Registry) -> None:
    reserve(registry)
    with pytest.raises(DataError, match=r"registered-models/alias: RESOURCE_DOES_NOT_EXIST: said MLflow"):
        registry.set_alias("flights", "champion", 7)


def test_a_server_that_is_away_is_retryable_and_named_with_the_time_out() -> None:
    def away(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    registry = Registry("http://registry:5000", timeout_s=3, transport=httpx.MockTransport(away))
    with pytest.raises(Unavailable, match=r"http://registry:5000 did not answer .* within 3 s"):
        registry.version_of("flights", "champion")


def test_a_server_in_trouble_is_retryable() -> None:
    registry = Registry("http://registry:5000", transport=httpx.MockTransport(lambda _: httpx.Response(503)))
    with pytest.raises(Unavailable, match="status 503"):
        registry.version_of("flights", "champion")
