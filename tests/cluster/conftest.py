"""One real Kubernetes for the session, a namespace of it for each test, and an Airflow beside it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.bed import Bed, pods_here, started
from tests.cluster.installation import Installation, installed
from tidegate.delivery.pods import PodsSpec


@pytest.fixture(scope="session")
def kube() -> Iterator[Bed]:
    """The cluster, in its namespace `default`."""
    with started() as found:
        yield found


@pytest.fixture
def bed(kube: Bed) -> Iterator[Bed]:
    """The cluster with a namespace of the test's own, which goes with the test."""
    namespace = f"t-{uuid.uuid4().hex[:8]}"
    kube.kubectl("create", "namespace", namespace)
    try:
        yield replace(kube, access=replace(kube.access, namespace=namespace))
    finally:
        kube.kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.fixture
def pods(tmp_path: Path) -> PodsSpec:
    """Pods that run this checkout's training environment, and may write into the test's folder."""
    return pods_here(tmp_path)


@pytest.fixture(scope="session")
def installation(kube: Bed) -> Iterator[Installation]:
    """An Airflow whose gangs run in the cluster."""
    with installed(kube) as found:
        yield found
