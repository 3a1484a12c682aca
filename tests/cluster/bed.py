"""A real Kubernetes: one that $TIDEGATE_KUBE starts (see .ci/run), or the one $KUBECONFIG names.

Pods mount this checkout and its environments from the host, so that they run the code under test: a cluster that
$KUBECONFIG names must run on this machine too.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from tidegate.clients.kubernetes import Access, Cluster, open_cluster
from tidegate.delivery import project_root
from tidegate.delivery.pods import PodsSpec
from tidegate.launch.kubernetes import KubernetesLauncher

T = TypeVar("T")
PYTHON = project_root() / ".envs" / "train" / "bin" / "python"
_ID = 40 + os.getpid() % 200  # of the cluster: its networks; the test beds of several checkouts may run side by side


@dataclass(frozen=True)
class Bed:
    """A cluster and one namespace of it."""

    access: Access
    kubectl_program: str
    folder: Path | None  # of the cluster's scripts, where it may be broken and mended
    environment: dict[str, str]

    @property
    def launcher(self) -> KubernetesLauncher:
        return KubernetesLauncher(self.access)

    @property
    def host(self) -> str:
        """The address at which pods reach this machine."""
        if self.folder is None:
            pytest.skip("pods are to reach this machine: needs the cluster that $TIDEGATE_KUBE starts")
        return f"10.200.{self.environment['KUBE_ID']}.1"

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """Run kubectl in the bed's namespace and return what it prints."""
        command = [self.kubectl_program, "--kubeconfig", str(self.access.kubeconfig), "-n", self.access.namespace]
        done = subprocess.run(
            [*command, *arguments], input=given, capture_output=True, text=True, timeout=120, env=self.environment
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def answers(self) -> bool:
        """Whether the API server takes calls."""
        command = [self.kubectl_program, "--kubeconfig", str(self.access.kubeconfig), "get", "--raw", "/readyz"]
        return subprocess.run(command, capture_output=True, timeout=60, env=self.environment).returncode == 0

    def ctl(self, *arguments: str, **variables: str) -> str:
        """Stop, kill or start a part of the cluster."""
        return self.script("ctl.sh", *arguments, **variables)

    def script(self, name: str, *arguments: str, **variables: str) -> str:
        """Run one of the cluster's scripts."""
        if self.folder is None:
            pytest.skip("breaks a cluster's parts: needs the cluster that $TIDEGATE_KUBE starts")
        done = subprocess.run(
            [str(self.folder / name), *arguments],
            capture_output=True, text=True, timeout=180, env={**self.environment, **variables},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ask(self, work: Callable[[Cluster], Awaitable[T]]) -> T:
        """Do something with a client of the cluster."""

        async def connected() -> T:
            async with open_cluster(self.access) as cluster:
                return await work(cluster)

        return asyncio.run(connected())

    def kill(self, pod: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the first process of a pod's member, from outside: its own namespace could not kill it."""
        if self.folder is None:
            pytest.skip("kills a pod's process from its host: needs the cluster that $TIDEGATE_KUBE starts")
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("HOSTNAME") == pod.rpartition("-")[0] and process.name().startswith("python"):
                    process.send_signal(number)
                    return
        raise AssertionError(f"no process of {pod}")

    def as_account(self, name: str, folder: Path) -> Bed:
        """Return this bed as a service account of its namespace sees it."""
        token = self.kubectl("create", "token", name).strip()
        config = json.loads(self.kubectl("config", "view", "--raw", "--minify", "-o", "json"))
        config["users"][0]["user"] = {"token": token}
        path = folder / f"{name}.kubeconfig"
        path.write_text(json.dumps(config))
        return replace(self, access=replace(self.access, kubeconfig=path))

    def left(self) -> list[str]:
        """Return what the namespace holds of gangs: Jobs, pods, Services."""
        return self.kubectl("get", "jobs,pods,services", "-o", "name").split()


@contextmanager
def started() -> Iterator[Bed]:
    """Start the cluster of $TIDEGATE_KUBE, or take that of $KUBECONFIG; skip, and say why, where there is neither."""
    given, scripts = os.environ.get("KUBECONFIG"), os.environ.get("TIDEGATE_KUBE")
    if given and not scripts:
        yield Bed(Access(kubeconfig=Path(given)), "kubectl", None, dict(os.environ))
        return
    if not scripts:
        pytest.skip("needs a Kubernetes: set TIDEGATE_KUBE to the folder that starts one, or KUBECONFIG")
    if os.geteuid() != 0:
        pytest.skip("the Kubernetes of $TIDEGATE_KUBE needs root")
    folder, state = Path(scripts), Path(tempfile.mkdtemp(prefix="k", dir="/tmp"))
    setup = subprocess.run([str(folder / "setup.sh")], capture_output=True, text=True, timeout=300)
    assert setup.returncode == 0, setup.stderr
    binaries = setup.stdout.strip().splitlines()[-1]
    environment = {
        **os.environ, "KUBE_BIN": binaries, "KUBE_ID": str(_ID), "KUBE_STATE": str(state),
        "KUBECACHEDIR": str(state / "cache"),
    }  # fmt: skip
    up = subprocess.run([str(folder / "up.sh")], capture_output=True, text=True, timeout=180, env=environment)
    assert up.returncode == 0, up.stdout + up.stderr
    try:
        yield Bed(Access(kubeconfig=state / "kubeconfig"), f"{binaries}/kubectl", folder, environment)
    finally:
        down = {**environment, "KUBE_PURGE": "1"}
        subprocess.run([str(folder / "down.sh")], env=down, timeout=120, check=True, capture_output=True)


def pods_here(shared: Path, **changes: Any) -> PodsSpec:
    """Return pods that see the host's Python, this checkout (both read-only) and `shared`, each at its own path."""
    shared.chmod(0o777)
    for parent in shared.parents:
        if parent.owner() == "root" and str(parent).startswith(tempfile.gettempdir() + "/"):
            parent.chmod(0o755)  # pytest keeps its folders from other users, and a member is one
    paths = {"usr": (Path("/usr"), True), "code": (project_root(), True), "shared": (shared, False)}
    interpreter = PYTHON.resolve().parents[1]
    if interpreter != Path("/usr"):
        paths = {"python": (interpreter, True), **paths}
    fields: dict[str, Any] = {
        "image": "local/host:1",
        "python": str(PYTHON),
        "cpu": "100m",
        "memory": "2Gi",
        "within": 60.0,
        "grace": 5.0,
        "env": {"PYTHONPATH": str(Path(__file__).parent), "PYTHONDONTWRITEBYTECODE": "1"},
        "pod": {
            "volumes": [{"name": name, "hostPath": {"path": str(path)}} for name, (path, _) in paths.items()],
        },
        "container": {
            "imagePullPolicy": "Never",
            "volumeMounts": [
                {"name": name, "mountPath": str(path), "readOnly": is_fixed} for name, (path, is_fixed) in paths.items()
            ],
        },
    }
    return PodsSpec(**{**fields, **changes})
