"""A gang's objects: names, digests, the golden manifest, what may be laid over it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tidegate.delivery.pods import PodsSpec
from tidegate.errors import Permanent, SpecError
from tidegate.launch import Workload
from tidegate.launch.manifests import digest_of, job, laid_over, object_name, service

GOLDEN = Path(__file__).parent / "golden"
NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,119}\Z")


def gang(**changes: Any) -> Workload:
    pods = {"image": "registry.example/train:1", **changes.pop("pods", {})}
    fields: dict[str, Any] = {
        "name": "train-flights-Request.1",
        "module": "tidegate.train",
        "environment": "train",
        "handoff": '{"a": 1}',
        "members": 2,
        "pods": PodsSpec(**pods),
        "origin": {"delivery": "flights", "dag": "retrain__flights", "run": "manual__2013-04-01T00:00", "try": "1"},
    }
    return Workload(**{**fields, **changes})


FULL: dict[str, Any] = {
    "python": "/opt/train/bin/python", "cpu": "4", "memory": "16Gi", "gpus": 2, "queue": "team-a",
    "queue_priority": "nightly", "priority_class": "batch", "service_account": "trainer",
    "node_selector": {"pool": "a100"}, "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    "together": "topology.kubernetes.io/zone", "spread": "kubernetes.io/hostname", "env": {"NCCL_DEBUG": "WARN"},
    "pod": {"imagePullSecrets": [{"name": "registry"}]},
    "container": {"envFrom": [{"secretRef": {"name": "lake"}}]},
}  # fmt: skip


@pytest.mark.parametrize(("file", "pods"), [("job.yaml", {}), ("job_full.yaml", FULL)])
def test_the_job_is_the_golden_one(file, pods):
    assert yaml.safe_load((GOLDEN / file).read_text()) == job(gang(pods=pods))


def test_the_service_is_headless_owned_by_the_job_and_names_members_before_they_are_ready():
    made = job(gang())
    found = service({**made, "metadata": {**made["metadata"], "uid": "u1"}})
    assert found["metadata"]["ownerReferences"][0]["uid"] == "u1"
    assert found["spec"]["clusterIP"] == "None"
    assert found["spec"]["publishNotReadyAddresses"]
    assert found["spec"]["selector"] == {"batch.kubernetes.io/job-name": made["metadata"]["name"]}


@given(NAMES)
def test_every_name_becomes_a_short_dns_label_and_stays_the_same(name):
    found = object_name(name)
    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", found)
    assert len(found) <= 50
    assert object_name(name) == found


@given(NAMES, NAMES)
def test_two_names_never_meet(one, other):
    assert (object_name(one) == object_name(other)) == (one == other)


def test_who_asked_does_not_make_another_workload_but_what_is_asked_does():
    assert digest_of(gang()) == digest_of(gang(origin={"try": "2"})) == digest_of(gang(pods={"memory": "8Gi"}))
    assert digest_of(gang()) != digest_of(gang(handoff="{}"))
    assert gang() == gang(origin={"try": "2"})


def test_a_template_adds_to_lists_and_mappings_and_replaces_the_rest():
    assert laid_over({"a": [1], "b": {"c": 1, "d": 2}, "e": 3}, {"a": [2], "b": {"c": 9}, "e": 4, "f": 5}) == {
        "a": [1, 2], "b": {"c": 9, "d": 2}, "e": 4, "f": 5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pod": {"subdomain": "x"}}, "pod sets subdomain, which the gang stands on"),
        ({"container": {"command": ["sh"]}}, "container sets command"),
        ({"queue_priority": "high"}, "name the queue too"),
        ({"memory": "4 GB"}, "String should match pattern"),
        ({"user": 0}, "greater than or equal to 1"),
    ],
)
def test_a_mistake_in_pods_is_explained(changes, words):
    with pytest.raises(ValidationError, match=words):
        PodsSpec(image="train:1", **changes)


def test_a_workload_without_pods_or_with_too_much_to_say_is_refused():
    with pytest.raises(SpecError, match=r"has no pods; write train\.pods"):
        job(Workload("n", "m", "train", "{}"))
    with pytest.raises(Permanent, match="has 200000 bytes; a pod takes 122880"):
        job(gang(handoff="x" * 200_000))
