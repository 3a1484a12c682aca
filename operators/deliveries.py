"""The deliveries a DAG file makes DAGs for; those with mistakes are shown as one import error of their own."""

from __future__ import annotations

import logging
from typing import Any

from tidegate.contract import contracts_folder
from tidegate.delivery import Delivery, deliveries_folder, read_delivery
from tidegate.errors import SpecError

log = logging.getLogger(__name__)


def _read_all() -> tuple[list[Delivery], list[SpecError]]:
    good: list[Delivery] = []
    bad: list[SpecError] = []
    for path in sorted(deliveries_folder().glob("*.yaml")):
        try:
            good.append(read_delivery(path))
        except SpecError as error:
            bad.append(error)
    return good, bad


def valid_deliveries() -> list[Delivery]:
    """Return the deliveries without mistakes, so that one bad file never takes the others' DAGs away."""
    good, bad = _read_all()
    for error in bad:
        log.error("%s", error)
    return good


def stops_on_drift(delivery: Delivery) -> bool:
    """Whether a contract of this delivery has a limit of drift that stops a window.

    Read from the files alone, since a DAG file must not wait for the whole contract; one with mistakes stops nothing
    here, and says so where it is used.
    """
    import yaml

    found = False
    for name in {source.contract for source in delivery.sources.values()}:
        try:
            text = (contracts_folder() / f"{name}.yaml").read_text(encoding="utf-8")
            found |= "stop" in text and _stops(yaml.safe_load(text))
        except (OSError, yaml.YAMLError, AttributeError, TypeError, KeyError, IndexError):
            continue
    return found


def _stops(contract: Any) -> bool:
    customs = [
        custom
        for item in contract["schema"][0]["properties"]
        for custom in item.get("customProperties", [])
        if custom["property"] == "drift"
    ]
    return any(isinstance(each, dict) and "stop" in each for custom in customs for each in custom["value"].values())


def refuse_broken_deliveries() -> None:
    """Raise the mistakes of all delivery files; called by the DAG file whose import error shows them in the UI.

    Raises:
        SpecError: at least one delivery file has a mistake.
    """
    _, bad = _read_all()
    if bad:
        raise SpecError("\n".join(str(error) for error in bad))
