"""Versions of models and their aliases (champion, candidate) in MLflow's registry, by its documented REST API.

MLflow's own client takes 3 s and 170 MB to import and retries a dead server for minutes; six calls of its REST API
(https://mlflow.org/docs/latest/rest-api.html) need neither.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from tidegate.errors import DataError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

CHAMPION, CANDIDATE = "champion", "candidate"
REQUEST_TAG = "request_id"
STATE_TAG, REGISTERING, REGISTERED = "state", "registering", "registered"
"""A version is registering from its creation until its bundle is published and `complete` says so."""
_API = "/api/2.0/mlflow"
_EXISTS, _ABSENT = "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"


@dataclass(frozen=True)
class RegisteredVersion:
    """What the registry knows of one version."""

    delivery: str
    version: int
    run_id: str | None
    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: frozenset[str] = frozenset()


class Registry:
    """The model registry at an MLflow tracking address; a registered model carries its delivery's name.

    Every method raises Unavailable if the server does not answer within `timeout_s` seconds or answers 5xx, and
    DataError if it refuses what it was asked.
    """

    def __init__(self, tracking_uri: str, timeout_s: float = 10.0, transport: httpx.BaseTransport | None = None):
        self.address = tracking_uri.rstrip("/")
        self._timeout_s = timeout_s
        self._transport = transport

    def reserve(
        self,
        delivery: str,
        request_id: str,
        run_id: str | None,
        source_uri: str,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
    ) -> int:
        """Return the version of a request's model, made now unless it is there; `complete` ends its registration.

        Two callers at once return the lower of two versions, and the one who made the other takes it away again.

        Args:
            delivery: the registered model's name.
            request_id: the request that the model answers; one request has one version.
            run_id: MLflow's run of the training, if it logged one.
            source_uri: where the model lies in the lake.
            metrics: held-out figures, kept as tags `metric.<name>`.
            tags: more about the version.
        """
        found = self._versions_of(delivery, request_id)
        if found:
            return min(found)
        self._call("POST", "registered-models/create", {"name": delivery}, allow=_EXISTS)
        kept = {
            **tags,
            **{f"metric.{name}": f"{value:.6g}" for name, value in metrics.items()},
            REQUEST_TAG: request_id,
            STATE_TAG: REGISTERING,
            "source_uri": source_uri,
        }
        body: dict[str, Any] = {
            "name": delivery,
            # MLflow refuses file: and hdfs: sources outside its own artefact store; the true address is in the tag
            "source": f"tidegate-lake://{urlsplit(source_uri).path}",
            "tags": [{"key": key, "value": value} for key, value in sorted(kept.items())],
        }
        if run_id is not None:
            body["run_id"] = run_id
        answer = self._call("POST", "model-versions/create", body) or {}
        own, version = int(answer["model_version"]["version"]), min(self._versions_of(delivery, request_id))
        if own != version:
            self._delete(delivery, own)
        return version

    def complete(self, delivery: str, version: int, tags: Mapping[str, str]) -> None:
        """Write the last tags onto a version and then, as the very last, that it is registered."""
        self.tag(delivery, version, tags)
        self.tag(delivery, version, {STATE_TAG: REGISTERED})

    def sweep(self, delivery: str, before: float) -> list[int]:
        """Remove versions made before a moment (Unix seconds) whose registration never ended; return them.

        Versions of an older Tidegate, which do not say how far they are, stay, and so does one that an alias names.
        """
        aliased = set(self._aliases(delivery).values())
        found = self._search(f"name='{delivery}' and tags.{STATE_TAG} = '{REGISTERING}'")
        old = [int(each["version"]) for each in found if int(each["creation_timestamp"]) < before * 1000]
        swept = sorted(version for version in old if version not in aliased)
        for version in swept:
            self._delete(delivery, version)
        return swept

    def version_of(self, delivery: str, alias: str) -> int | None:
        """Return the version that an alias names, or None if there is no such alias or model."""
        return self._aliases(delivery).get(alias)

    def set_alias(self, delivery: str, alias: str, version: int) -> None:
        """Let an alias name this version, whatever it named before."""
        self._call("POST", "registered-models/alias", {"name": delivery, "alias": alias, "version": str(version)})

    def drop_alias(self, delivery: str, alias: str) -> None:
        """Remove an alias; does nothing if there is none."""
        self._call("DELETE", "registered-models/alias", {"name": delivery, "alias": alias}, allow=_ABSENT)

    def describe(self, delivery: str, version: int) -> RegisteredVersion | None:
        """Return what is known of a version, or None if it is not registered."""
        answer = self._call("GET", "model-versions/get", {"name": delivery, "version": str(version)}, allow=_ABSENT)
        if answer is None:
            return None
        found = answer["model_version"]
        return RegisteredVersion(
            delivery=delivery,
            version=int(found["version"]),
            run_id=found.get("run_id") or None,
            tags={tag["key"]: tag["value"] for tag in found.get("tags", [])},
            aliases=frozenset(found.get("aliases", [])),
        )

    def tag(self, delivery: str, version: int, tags: Mapping[str, str]) -> None:
        """Write tags onto a version, over those of the same names."""
        for key, value in sorted(tags.items()):
            body = {"name": delivery, "version": str(version), "key": key, "value": value}
            self._call("POST", "model-versions/set-tag", body)

    def _versions_of(self, delivery: str, request_id: str) -> list[int]:
        found = self._search(f"name='{delivery}' and tags.{REQUEST_TAG} = '{request_id}'")
        return [int(each["version"]) for each in found]

    def _search(self, wanted: str) -> list[dict[str, Any]]:
        answer = self._call("GET", "model-versions/search", {"filter": wanted}) or {}
        found: list[dict[str, Any]] = answer.get("model_versions", [])
        return found

    def _delete(self, delivery: str, version: int) -> None:
        self._call("DELETE", "model-versions/delete", {"name": delivery, "version": str(version)}, allow=_ABSENT)

    def _aliases(self, delivery: str) -> dict[str, int]:
        answer = self._call("GET", "registered-models/get", {"name": delivery}, allow=_ABSENT)
        found = answer["registered_model"].get("aliases", []) if answer else []
        return {item["alias"]: int(item["version"]) for item in found}

    def _call(self, method: str, path: str, values: Mapping[str, Any], allow: str = "") -> dict[str, Any] | None:
        """Return the answer, or None where the server refused with the error code `allow`."""
        sent: dict[str, Any] = {"params": values} if method == "GET" else {"json": values}
        direct: dict[str, Any] = {"all://127.0.0.1": None, "all://localhost": None}  # never through a proxy
        try:
            with httpx.Client(
                timeout=self._timeout_s, transport=self._transport, mounts=None if self._transport else direct
            ) as client:
                answer = client.request(method, f"{self.address}{_API}/{path}", **sent)
        except httpx.HTTPError as error:
            raise Unavailable(
                f"MLflow at {self.address} did not answer {path} within {self._timeout_s:g} s "
                f"({type(error).__name__}); it is tried again, see whether the server runs"
            ) from error
        if answer.status_code >= 500 or answer.status_code == 429:
            raise Unavailable(f"MLflow at {self.address} answered {path} with status {answer.status_code}; see its log")
        if answer.is_success:
            found: dict[str, Any] = answer.json()
            return found
        code, message = _refusal(answer)
        if allow and code == allow:
            return None
        raise DataError(f"MLflow at {self.address} refused {path}: {code}: {message}; mend what it names")


def _refusal(answer: httpx.Response) -> tuple[str, str]:
    try:
        body = answer.json()
        return str(body["error_code"]), str(body["message"])
    except (ValueError, KeyError, TypeError):
        return str(answer.status_code), answer.text[:200]
