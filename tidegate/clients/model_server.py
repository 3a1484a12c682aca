"""The interface to whatever serves model versions, each on a server of its own, with a fake that lives in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tidegate.errors import DataError
from tidegate.handoff import Handoff
from tidegate.wire import Name, Wire, wire

if TYPE_CHECKING:
    from tidegate.handoff import Bundle


class Endpoint(Handoff):
    """Where one version's server listens."""

    name: str
    """The version's name, such as flights-v3."""
    host: str
    port: int
    """Predictions over HTTP."""
    metrics_port: int
    protocol: Name = "kserve"
    """What it speaks there."""

    @property
    def model(self) -> str:
        """The model's name on that server, which is the delivery's."""
        return self.name.rpartition("-v")[0]

    @property
    def version(self) -> int:
        """The version's number."""
        return int(self.name.rpartition("-v")[2])

    @property
    def wire(self) -> Wire:
        """How requests and answers are written."""
        return wire(self.protocol)

    @property
    def address(self) -> str:
        """host:port of the HTTP server."""
        return f"{self.host}:{self.port}"

    @property
    def model_url(self) -> str:
        """The model's address on its own server, by which no other version answers."""
        return f"http://{self.address}{self.wire.path(self.model, self.version)}"

    @property
    def predict_url(self) -> str:
        """Where this version is asked for predictions."""
        return self.model_url + self.wire.PREDICT

    @property
    def describe_url(self) -> str:
        """Where this version is asked for its inputs."""
        return self.model_url + self.wire.DESCRIBE


class ModelServer(Protocol):
    """Starts and stops the servers of model versions; traffic is somebody else's business."""

    def deploy(self, bundle: Bundle) -> Endpoint:
        """Serve a bundle and return once its server may have traffic; a repeated call finds the running server.

        Before it returns, every file of the bundle was checked against its manifest, the server runs on the
        environment of the bundle's own serving lock (where it runs on Python at all), gave its recorded answers within
        their limit, and is warm.

        Raises:
            DataError: the bundle is incomplete or differs from its manifest, or its serving lock cannot be installed
                (nothing was started); its server ends, or answers otherwise than recorded.
            NeedsGpu: the bundle holds an artefact that this server cannot run.
            SetupError: the machine lacks what serving, or building an environment, needs.
            Unavailable: the server was not ready in time, or a package index did not answer.
        """

    def ready(self, name: str) -> bool:
        """Whether a version's server answers that it is ready to serve."""

    def retire(self, name: str) -> None:
        """Stop a version's server and forget its files; does nothing if there is none."""

    def endpoints(self) -> dict[str, Endpoint]:
        """Return where each deployed version listens, by name."""


class FakeModelServer:
    """A ModelServer that serves nothing: it remembers what it was asked, and refuses the names in `broken`."""

    def __init__(self, broken: frozenset[str] = frozenset()):
        self.deployed: dict[str, Endpoint] = {}
        self.calls: list[tuple[str, str]] = []
        self.broken = broken

    def deploy(self, bundle: Bundle) -> Endpoint:
        """See ModelServer.deploy."""
        self.calls.append(("deploy", bundle.name))
        if bundle.name in self.broken:
            raise DataError(f"{bundle.name} cannot be served; register it again")
        port = 20000 + 2 * bundle.version
        where = Endpoint(name=bundle.name, host="127.0.0.1", port=port, metrics_port=port + 1)
        return self.deployed.setdefault(bundle.name, where)

    def ready(self, name: str) -> bool:
        """See ModelServer.ready."""
        return name in self.deployed

    def retire(self, name: str) -> None:
        """See ModelServer.retire."""
        self.calls.append(("retire", name))
        self.deployed.pop(name, None)

    def endpoints(self) -> dict[str, Endpoint]:
        """See ModelServer.endpoints."""
        return dict(self.deployed)
