"""A schema registry (Confluent's API, which Apicurio, Karapace and Redpanda speak too): schemas by their ids."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import httpx

from tidegate.errors import DataError, Unavailable

_JSON = {"Accept": "application/vnd.schemaregistry.v1+json, application/json"}


@dataclass(frozen=True)
class Registry:
    """A registry at its base address; what it said once of an id holds for ever, so each is asked for once."""

    url: str
    login: str = ""
    password: str = field(default="", repr=False)
    timeout: float = 10.0
    _known: dict[int, str | None] = field(default_factory=dict, repr=False, compare=False)

    def schema(self, number: int) -> str | None:
        """Return the Avro schema of an id as JSON text, or None where the registry does not know it.

        A schema that refers to others comes as a list, those it uses first.

        Raises:
            Unavailable: the registry does not answer, or says that it cannot.
            DataError: it refuses the login.
        """
        if number not in self._known:
            found = self._get(f"/schemas/ids/{number}")
            self._known[number] = None if found is None else self._text(found)
        return self._known[number]

    def _text(self, found: dict[str, Any]) -> str:
        kind = found.get("schemaType", "AVRO")
        if kind != "AVRO":
            return json.dumps(f"{kind} is no Avro")  # refused where it is used: the message is put aside
        used = self._used(found)
        return json.dumps([*used, json.loads(found["schema"])]) if used else str(found["schema"])

    def _used(self, found: dict[str, Any]) -> list[Any]:
        listed: list[Any] = []
        for each in found.get("references") or []:
            other = self._get(f"/subjects/{each['subject']}/versions/{each['version']}")
            if other is not None:
                listed += [*self._used(other), json.loads(other["schema"])]
        return [schema for n, schema in enumerate(listed) if schema not in listed[:n]]

    def _get(self, path: str) -> dict[str, Any] | None:
        auth = (self.login, self.password) if self.login else None
        try:
            answer = httpx.get(f"{self.url.rstrip('/')}{path}", headers=_JSON, auth=auth, timeout=self.timeout)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._away(error) from error
        if answer.status_code == httpx.codes.NOT_FOUND and "error_code" in answer.text:
            return None
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise DataError(
                f"the schema registry at {self.url} refuses the login {self.login!r} (status {answer.status_code}); "
                "mend login and password of the source's registry connection"
            )
        try:
            answer.raise_for_status()
            found: dict[str, Any] = answer.json()
        except (httpx.HTTPStatusError, ValueError) as error:
            raise self._away(error) from error
        return found

    def _away(self, why: object) -> Unavailable:
        return Unavailable(
            f"the schema registry at {self.url} did not answer: {why} (time-out {self.timeout:g} s); start it, or mend "
            "the source's registry connection"
        )
