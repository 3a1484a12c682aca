"""Serves each model version by a TensorFlow Serving process of its own, out of a pool of slots that somebody else runs.

Loading in the process that serves the champion spoils its p99, and the server's metrics have no version label; so a
version gets a slot in which nothing has traffic. A slot keeps its last version loaded after that was retired, because
a server must not be emptied, until the slot gets another one.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from pydantic import Field, ValidationError

from tidegate import bundle as bundles
from tidegate.clients import probe as probes
from tidegate.clients.model_server import Endpoint
from tidegate.clients.scrape_targets import ScrapeTargets
from tidegate.clients.tfserving_api import AVAILABLE
from tidegate.clients.tfserving_slot import Loaded, Slot, SlotServer
from tidegate.errors import DataError, SetupError, TidegateError, Unavailable
from tidegate.handoff import Handoff
from tidegate.lake import difference
from tidegate.localfiles import locked, replace_text
from tidegate.recorded import PROBE, RecordedAnswers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from typing import Any

    from tidegate.handoff import Bundle
    from tidegate.lake import Lake

METRICS_PATH = "/monitoring/prometheus/metrics"
_PLACED = "placed.json"
_BELOW = f"{bundles.SERVABLE}/"
_ALTERED = "altered files of this version; stop that server, remove the slot's folder, start it again"
_PROBE_TIMEOUT = 2.0  # seconds
_log = logging.getLogger(__name__)


class Pool(Handoff):
    """The slots of an installation, as its connection or file names them."""

    folder: str = Field(pattern="^/")
    """Has a folder for each slot, which its server reads."""
    slots: list[Slot] = Field(min_length=1)


def pool_of(found: Mapping[str, Any] | None, where: str) -> Pool:
    """Read the slots from where an installation names them.

    Raises:
        SetupError: there are none, or they are written wrongly; says how to write them.
    """
    shape = '{"folder": "/srv/tfserving", "slots": [{"name": "a", "grpc": "10.0.0.1:8500", "rest": "10.0.0.1:8501"}]}'
    remedy = f"Remedy: write {shape}, two slots or more for a delivery, or set serve.server to triton"
    if found is None:
        raise SetupError(
            f"serve.server is tfserving and {where} names no slots: no package registry has TensorFlow Serving's "
            f"binary, so its processes run elsewhere, as docker-compose.yaml has them. {remedy}"
        )
    try:
        pool = Pool.model_validate(found)
    except ValidationError as error:
        raise SetupError(f"the slots in {where} are written wrongly: {error}. {remedy}") from error
    for field in ("name", "grpc", "rest"):
        values = [getattr(slot, field) for slot in pool.slots]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise SetupError(f"the slots in {where} have {field} {', '.join(twice)} twice. Remedy: keep one of them")
    return pool


class Placed(Handoff):
    """What a slot serves, or is about to: written to its folder before its files are."""

    name: str
    """The version's name."""
    digest: str
    """Of its bundle."""
    files: dict[str, str]
    """SHA-256 by path below the version's folder."""
    recorded: str
    """The bundle's recorded answers."""
    serving: bool
    """Whether it ever passed a deploy, so that it may have traffic."""

    @property
    def loaded(self) -> Loaded:
        """The model and version in the server's terms."""
        model, _, version = self.name.rpartition("-v")
        return Loaded(model, int(version))


class TfServing:
    """The ModelServer backend `tfserving`.

    Args:
        pool: the slots.
        lake: where bundles are.
        prometheus_targets: folder that Prometheus reads *.json lists of targets from.
        timeout_s: for a server to load a version.
    """

    def __init__(self, pool: Pool, lake: Lake, prometheus_targets: Path, timeout_s: float = 60.0):
        self._folder = Path(pool.folder)
        self._slots = [SlotServer(slot, self._folder / slot.name) for slot in pool.slots]
        self._lake = lake
        self._targets = ScrapeTargets(prometheus_targets)
        self._timeout_s = timeout_s

    def deploy(self, bundle: Bundle) -> Endpoint:
        """See ModelServer.deploy; the server's environment is its own image, not the bundle's serving lock.

        Raises:
            Unavailable: moreover, no slot is free.
        """
        if bundle.target != "savedmodel":
            raise DataError(
                f"{bundle.name} holds a {bundle.target} artefact, and TensorFlow Serving serves a savedmodel; set "
                "optimise.target to savedmodel and register the model again, or set serve.server to triton"
            )
        server, placed = self._place(bundle)
        try:
            with server.held(self._timeout_s):
                self._publish(server, placed, bundle)
                server.load(placed.loaded, lambda: self._rehearse(server, placed, bundle), self._timeout_s)
            return self._announce(server, placed)
        except TidegateError:
            if not placed.serving:  # the next try begins anew; one that may have traffic is left alone
                self._withdraw(server, placed)
            raise

    def ready(self, name: str) -> bool:
        """See ModelServer.ready."""
        endpoint = self.endpoints().get(name)
        if endpoint is None:
            return False
        try:
            answer = httpx.get(endpoint.model_url, timeout=_PROBE_TIMEOUT, trust_env=False)
            found = answer.json()["model_version_status"]
        except (httpx.HTTPError, ValueError, KeyError):
            return False
        return any(each["state"] == AVAILABLE for each in found)

    def retire(self, name: str) -> None:
        """See ModelServer.retire; frees its slot, which keeps the version loaded until it gets another."""
        with self._locked():
            self._targets.remove(name)
            for server in self._slots:
                placed = self._placed(server)
                if placed is not None and placed.name == name:
                    (server.folder / _PLACED).unlink(missing_ok=True)

    def endpoints(self) -> dict[str, Endpoint]:
        """See ModelServer.endpoints."""
        found = [(placed, server) for server in self._slots if (placed := self._placed(server)) is not None]
        found.sort(key=lambda each: each[0].serving)  # a version that moves to another slot is still where it serves
        return {placed.name: _endpoint(server.slot, placed.name) for placed, server in found}

    def _place(self, bundle: Bundle) -> tuple[SlotServer, Placed]:
        """Return the slot of a version, and what is written down there of it."""
        with self._locked():
            own = [(server, placed) for server in self._slots if (placed := self._placed(server)) is not None]
            own = [(server, placed) for server, placed in own if placed.name == bundle.name]
            for server, placed in own:
                problem = self._problem(server, placed, bundle)
                if problem is None:
                    return server, placed
                _log.warning("%s is not as its bundle in slot %s: %s", bundle.name, server.slot.name, problem)
            wanted = self._wanted(bundle)
            unfinished = [server for server, placed in own if placed.digest == bundle.digest and not placed.serving]
            server = unfinished[0] if unfinished else self._free_slot(wanted)
            self._write(server, wanted)
            return server, wanted

    def _free_slot(self, wanted: Placed) -> SlotServer:
        """Return a slot without a version that may have traffic, best one that has these very files loaded.

        One that loaded altered files of this version cannot load the right ones, as a server loads a version once.
        """
        free = [server for server in self._slots if self._placed(server) is None]
        for server in free:
            if wanted.loaded in server.configured() and difference(server.path(wanted.loaded), wanted.files) is None:
                return server
        usable = [server for server in free if wanted.loaded not in server.configured()]
        if not usable:
            holders = {server.slot.name: self._placed(server) for server in self._slots}
            shown = ", ".join(f"{slot}: {held.name if held else _ALTERED}" for slot, held in holders.items())
            raise Unavailable(
                f"none of {len(self._slots)} slots is free for {wanted.name} ({shown}); retire a version or add a slot"
            )
        return min(usable, key=lambda server: bool(server.configured()))

    def _problem(self, server: SlotServer, placed: Placed, bundle: Bundle) -> str | None:
        if placed.digest != bundle.digest:
            return f"it is of bundle {placed.digest[:16]}, not {bundle.digest[:16]}"
        return difference(server.path(placed.loaded), placed.files) if placed.serving else "it was not finished"

    def _wanted(self, bundle: Bundle) -> Placed:
        files = bundles.check(self._lake, bundle)["files"]
        return Placed(
            name=bundle.name,
            digest=bundle.digest,
            files={
                name.removeprefix(_BELOW): file["sha256"] for name, file in files.items() if name.startswith(_BELOW)
            },
            recorded=self._recorded(bundle, files[PROBE]["sha256"]),
            serving=False,
        )

    def _recorded(self, bundle: Bundle, digest: str) -> str:
        text = self._lake.read(bundle.key, PROBE)
        if hashlib.sha256(text).hexdigest() != digest:
            raise DataError(
                f"{self._lake.url}/{bundle.key}/{PROBE} differs from its manifest; register the model again"
            )
        return text.decode()

    def _publish(self, server: SlotServer, placed: Placed, bundle: Bundle) -> None:
        """See that the version's files are in the slot's folder: complete, unaltered, and at once."""
        target = server.path(placed.loaded)
        if difference(target, placed.files) is None:
            return
        aside = server.folder / f".{placed.name}.{uuid.uuid4().hex}"
        try:
            self._lake.fetch(bundle.key, aside, [f"{_BELOW}{name}" for name in placed.files])
            wrong = difference(aside / bundles.SERVABLE, placed.files)
            if wrong is not None:
                raise DataError(f"bundle {bundle.key} was published anew while it was copied: {wrong}; try again")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)  # half of it, from a call that was killed; nothing loads it
            os.replace(aside / bundles.SERVABLE, target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _rehearse(self, server: SlotServer, placed: Placed, bundle: Bundle) -> None:
        """Hold the server to the bundle's recorded answers, and warm it up unless it has served before.

        A server that is started again replays the bundle's own requests before the version is available.
        """
        recorded, begun = RecordedAnswers.from_json(placed.recorded), time.monotonic()
        endpoint, features = _endpoint(server.slot, placed.name), bundle.dataset.features
        with probes.client() as ask:
            largest = probes.probe(ask, endpoint, bundle.version, features, recorded)
            _log.info(
                "%s answered %d recorded rows, largest difference %.2e (limit %.2e)",
                placed.name, len(recorded.rows), largest, recorded.limit,
            )  # fmt: skip
            if not placed.serving:
                sent = probes.warm_up(ask, endpoint, bundle.version, features, recorded)
                _log.info("%s was warmed up by %d requests in %.2f s", placed.name, sent, time.monotonic() - begun)

    def _announce(self, server: SlotServer, placed: Placed) -> Endpoint:
        """Have Prometheus read the version's server; from now on it may have traffic."""
        endpoint = _endpoint(server.slot, placed.name)
        with self._locked():
            if self._placed(server) not in (placed, _passed(placed)):
                raise DataError(f"{placed.name} was retired while it was deployed; deploy it again")
            self._write(server, _passed(placed))
            self._targets.add(endpoint, __metrics_path__=METRICS_PATH)
            for other in self._slots:  # a version whose files were altered has moved here
                left = self._placed(other)
                if other is not server and left is not None and left.name == placed.name:
                    (other.folder / _PLACED).unlink()
        return endpoint

    def _withdraw(self, server: SlotServer, placed: Placed) -> None:
        """Free a slot of a version that did not pass, unless another call has brought it through meanwhile."""
        with suppress(Unavailable), server.held(self._timeout_s), self._locked():
            if self._placed(server) == placed:
                (server.folder / _PLACED).unlink()
                server.give_up(placed.loaded)

    def _placed(self, server: SlotServer) -> Placed | None:
        try:
            return Placed.model_validate_json((server.folder / _PLACED).read_bytes())
        except FileNotFoundError:
            return None

    def _write(self, server: SlotServer, placed: Placed) -> None:
        replace_text(server.folder / _PLACED, placed.to_json())

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self._folder / ".lock")


def _passed(placed: Placed) -> Placed:
    return placed.model_copy(update={"serving": True})


def _endpoint(slot: Slot, name: str) -> Endpoint:
    host, _, port = slot.rest.rpartition(":")
    return Endpoint(name=name, host=host, port=int(port), metrics_port=int(port), protocol="tfserving")
