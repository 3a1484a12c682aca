"""The base of all settings, and what several sections name."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """The base of all settings: frozen, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class KafkaTopic(Spec):
    """A topic by its connection: of requests to retrain, or of labels that come later."""

    connection: str
    topic: str
