"""One slot: a TensorFlow Serving process that serves one version, and the order in which it gets another one.

A server replaces its whole configuration, says OK before anything is loaded, refuses labels on versions that are not
available, and must never be left without a version. So: {old, new} -> wait for AVAILABLE -> label canary -> try it ->
label stable -> drop the old. The slot's folder has a folder per model and version, and models.config, which the server
reads when it starts; that has no labels, since a starting server has nothing available and would refuse them.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from tidegate.clients.tfserving_api import (
    AVAILABLE,
    END,
    ModelConfig,
    ModelService,
    VersionStatus,
    config_text,
    parse_config,
)
from tidegate.errors import Conflict, DataError, SetupError, TidegateError, Unavailable
from tidegate.handoff import Handoff
from tidegate.localfiles import replace_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

STABLE, CANARY = "stable", "canary"
CONFIG = "models.config"
_TICK = 0.1  # seconds between two looks at a loading server
_STALE_S = 5.0  # how long an error that stood before a reload may be what is left of an earlier try
_log = logging.getLogger(__name__)


class Slot(Handoff):
    """Where one TensorFlow Serving process listens and what it calls its folder."""

    name: str
    """The slot's folder below the pool's."""
    grpc: str
    """host:port of `--port`."""
    rest: str
    """host:port of `--rest_api_port`; host is an IP address, since Envoy looks up no names."""
    base: str | None = None
    """The slot's folder as the server sees it; None: by the same path as here."""


class Loaded(NamedTuple):
    """A version of a model in a slot."""

    model: str
    version: int


class SlotServer:
    """Loads versions into one slot.

    Args:
        slot: the server's addresses.
        folder: its folder as this process sees it.
    """

    def __init__(self, slot: Slot, folder: Path):
        self.slot = slot
        self.folder = folder

    def path(self, of: Loaded) -> Path:
        """Return the folder of a version's files."""
        return self.folder / of.model / str(of.version)

    def configured(self) -> list[Loaded]:
        """Return what the server loads when it starts; nothing before its first version.

        Raises:
            SetupError: models.config was damaged.
        """
        file = self.folder / CONFIG
        try:
            models = parse_config(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        except ValueError as error:
            raise SetupError(
                f"{file} is no ModelServerConfig ({error}). Remedy: stop the server of slot {self.slot.name}, remove "
                f"{self.folder}, start it again and deploy its version again"
            ) from error
        return [Loaded(model.name, version) for model in models for version in model.versions]

    def load(self, new: Loaded, rehearse: Callable[[], None], timeout_s: float) -> None:
        """Have a version served by this slot alone of all; a repeated call finishes what one before began.

        Its files must be in place and whole. `rehearse` tries the version once it is available, before it is stable.

        Raises:
            DataError: it cannot be loaded, with the server's own words; whatever `rehearse` raises.
            Unavailable: the server does not answer, or has not loaded it in time.
            Conflict: the server was started again meanwhile.
        """
        until = time.monotonic() + timeout_s
        old = self._others(new)
        self._write([*old, new])
        with ModelService(self.slot.grpc) as service:
            if not old and _is_available(service, new):  # as it shall be, but for a label that a restart lost
                rehearse()
                self._label(service, [new], {STABLE: new}, until)
                return
            self._bring(service, old, new, until)
            self._label(service, [*old, new], {**self._stable(service, old), CANARY: new}, until)
            rehearse()
            self._label(service, [*old, new], {STABLE: new, CANARY: new}, until)
            self._label(service, [new], {STABLE: new}, until)
        self._write([new])
        for each in old:
            shutil.rmtree(self.path(each), ignore_errors=True)

    def give_up(self, new: Loaded, timeout_s: float = 2.0) -> None:
        """Go back to what was loaded before a version that must not be served; its files go too.

        A server that had nothing else keeps it, since it must not be emptied, but does not load it at its next start.
        """
        old = self._others(new)
        if old and new in self.configured():
            self._write(old)
            try:
                with ModelService(self.slot.grpc) as service:
                    self._label(service, old, self._stable(service, old), time.monotonic() + timeout_s)
            except TidegateError as error:
                _log.warning("slot %s could not be told to drop %s v%d: %s", self.slot.name, *new, error)
        elif not old:
            (self.folder / CONFIG).unlink(missing_ok=True)
        shutil.rmtree(self.path(new), ignore_errors=True)

    @contextmanager
    def held(self, timeout_s: float) -> Iterator[None]:
        """Keep every other process from loading into this slot.

        Raises:
            Unavailable: another one has not finished in time.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + timeout_s
        with (self.folder / ".lock").open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise Unavailable(
                            f"slot {self.slot.name} has been loaded into by another process for {timeout_s:g} s; "
                            "see what it waits for, then try again"
                        ) from None
                    time.sleep(_TICK)  # flock has no time-out
            yield

    def _others(self, new: Loaded) -> list[Loaded]:
        """What is configured beside a version; one whose files are gone could not be loaded at the next start."""
        return [each for each in self.configured() if each != new and self.path(each).is_dir()]

    def _bring(self, service: ModelService, old: Sequence[Loaded], new: Loaded, until: float) -> None:
        """Ask for {old, new} and return once the new version is available.

        A server that is away may be starting, for its first time too: it reads models.config then. It is asked anew
        whenever it was away, because what it was told before that is lost.
        """
        begun, asked, before = time.monotonic(), False, None
        while True:
            try:
                if not asked:
                    before = service.status(new.model).get(new.version)
                    labels = self._stable(service, old)
                    self._ask(service, [*old, new], labels, until)
                    begun, asked = time.monotonic(), True
                found = service.status(new.model).get(new.version)
            except (Unavailable, Conflict) as error:
                asked, problem = False, str(error)
            else:
                if found is not None and found.state == AVAILABLE:
                    return
                is_stale = found == before and time.monotonic() < begun + _STALE_S
                if found is not None and _failed(found) and not is_stale:
                    raise DataError(
                        f"slot {self.slot.name} could not load {new.model} v{new.version}: {found.error}; "
                        "register the model again"
                    )
                problem = f"it says {found.state if found else 'nothing'} of the version"
            if time.monotonic() > until:
                raise Unavailable(
                    f"TensorFlow Serving of slot {self.slot.name} at {self.slot.grpc} has not loaded {new.model} "
                    f"v{new.version} in time: {problem}; see its log"
                )
            time.sleep(_TICK)  # the API has no event to await

    def _ask(self, service: ModelService, loaded: Sequence[Loaded], labels: Mapping[str, Loaded], until: float) -> None:
        """Reload; a refusal that is due to a version which did not load is left to whoever asks for its status."""
        try:
            self._label(service, loaded, labels, until)
        except DataError:
            new = loaded[-1]
            found = service.status(new.model).get(new.version)
            if found is None or not _failed(found):
                raise

    def _label(
        self, service: ModelService, loaded: Sequence[Loaded], labels: Mapping[str, Loaded], until: float
    ) -> None:
        service.reload(self._models(loaded, labels), max(until - time.monotonic(), 1.0))

    def _stable(self, service: ModelService, old: Sequence[Loaded]) -> dict[str, Loaded]:
        """The old version keeps its label while it is available: after a restart it may still be loading."""
        return next(({STABLE: each} for each in reversed(old) if _is_available(service, each)), {})

    def _models(self, loaded: Sequence[Loaded], labels: Mapping[str, Loaded]) -> list[ModelConfig]:
        base = self.slot.base or str(self.folder)
        return [
            ModelConfig(
                name=model,
                base_path=f"{base}/{model}",
                versions=tuple(sorted(each.version for each in loaded if each.model == model)),
                labels={label: of.version for label, of in labels.items() if of.model == model},
            )
            for model in dict.fromkeys(each.model for each in loaded)
        ]

    def _write(self, loaded: Sequence[Loaded]) -> None:
        replace_text(self.folder / CONFIG, config_text(self._models(loaded, {})))


def _is_available(service: ModelService, of: Loaded) -> bool:
    try:
        found = service.status(of.model).get(of.version)
    except Unavailable:
        return False
    return found is not None and found.state == AVAILABLE


def _failed(found: VersionStatus) -> bool:
    return found.state == END and bool(found.error)
