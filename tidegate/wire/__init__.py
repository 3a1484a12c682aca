"""What callers and model servers say to each other over HTTP: pure, one module per protocol, raw values in both.

Every feature is a column [n, 1] of its own type. A missing value is NaN for FP32 (JSON's bare `NaN`), an empty string
for BYTES, and the smallest 64-bit integer for INT64.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tidegate.handoff import Feature

    Columns = Mapping[str, Sequence[Any]]

Name = Literal["kserve", "tfserving"]
MISSING_INT = -(2**63)


@dataclass(frozen=True)
class Predictions:
    """What a server answered to a request."""

    probabilities: list[float]
    """One per row."""
    version: str | None
    """The version that answered; None where the protocol does not say, so that a request must name its version."""


class Wire(Protocol):
    """One protocol."""

    PREDICT: str
    """What is added to a model's path to ask for a prediction."""
    DESCRIBE: str
    """What is added to a model's path to ask for its inputs."""

    def prefix(self, model: str) -> str:
        """Return how the path of every prediction of a model begins, and that of no other model's."""

    def path(self, model: str, version: int | None = None) -> str:
        """Return a model's path, by which one version alone answers if `version` is given."""

    def bodies(self, features: Sequence[Feature], columns: Columns, request_id: str = "") -> list[bytes]:
        """Return one request body per row of the columns (None is a missing value), in their order.

        A `request_id` goes into each where the protocol has one.

        Raises:
            KeyError: a feature has no column.
        """

    def batch(self, features: Sequence[Feature], columns: Columns, start: int, end: int, request_id: str = "") -> bytes:
        """Return one request body for the rows [start, end).

        Raises:
            KeyError: a feature has no column.
        """

    def predictions(self, answer: Any) -> Predictions:
        """Read the JSON of an answer.

        Raises:
            ValueError, KeyError, IndexError, TypeError: it holds no prediction.
        """

    def inputs(self, answer: Any) -> list[Feature]:
        """Read a server's description of a model's inputs; how they are encoded is the server's own business.

        Raises:
            ValueError, KeyError, TypeError: it is no such description.
        """


def wire(name: Name) -> Wire:
    """Return the protocol of this name."""
    from tidegate.wire import kserve, tfserving  # which need what is above

    protocols: dict[str, Wire] = {"kserve": kserve, "tfserving": tfserving}
    return protocols[name]


def prefixes(model: str) -> set[str]:
    """Return how the paths of a model's predictions begin, in any protocol."""
    return {wire(name).prefix(model) for name in get_args(Name)}


def columns_of(features: Sequence[Feature], columns: Columns) -> list[list[str]]:
    """Return each feature's values as JSON.

    Raises:
        KeyError: a feature has no column.
    """
    return [[_value(feature, value) for value in columns[feature.name]] for feature in features]


def _value(feature: Feature, value: Any) -> str:
    if feature.dtype == "BYTES":
        return json.dumps("" if value is None else str(value))
    if feature.dtype == "INT64":
        return str(MISSING_INT if value is None else int(value))
    return json.dumps(float("nan") if value is None else float(value))  # NaN as both servers' parsers read it
