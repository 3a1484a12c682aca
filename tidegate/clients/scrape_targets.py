"""Which servers of model versions Prometheus reads: one file of targets per version, in a folder that it watches."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tidegate.localfiles import replace_text

if TYPE_CHECKING:
    from pathlib import Path

    from tidegate.clients.model_server import Endpoint


class ScrapeTargets:
    """A folder of *.json lists of targets; a version that is in it once passed a deploy."""

    def __init__(self, folder: Path):
        self._folder = folder

    def has(self, name: str) -> bool:
        """Whether a version's server is read."""
        return self._file(name).exists()

    def add(self, endpoint: Endpoint, **labels: str) -> None:
        """Have a version's server read, its figures under its delivery and version and these labels."""
        known = {"delivery": endpoint.model, "version": endpoint.name, **labels}
        targets = [{"targets": [f"{endpoint.host}:{endpoint.metrics_port}"], "labels": known}]
        replace_text(self._file(endpoint.name), json.dumps(targets))

    def remove(self, name: str) -> None:
        """Have a version's server read no more; does nothing if it is not."""
        self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.json"
