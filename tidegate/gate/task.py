"""What a gate is asked to do."""

from __future__ import annotations

from pydantic import Field

from tidegate.clients.model_server import Endpoint
from tidegate.delivery import GateSpec
from tidegate.handoff import Bundle, Handoff


class GateTask(Handoff):
    """One candidate on its own server, beside the champion on its own."""

    bundle: Bundle
    endpoint: Endpoint
    champion: Endpoint | None = Field(default=None, description="the champion's server; None: there is no champion")
    gate: GateSpec
    lake: str = Field(description="fsspec URL of the lake")
