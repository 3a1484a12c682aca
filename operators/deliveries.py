"""The deliveries a DAG file makes DAGs for; those with mistakes are shown as one import error of their own."""

from __future__ import annotations

import logging

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


def refuse_broken_deliveries() -> None:
    """Raise the mistakes of all delivery files; called by the DAG file whose import error shows them in the UI.

    Raises:
        SpecError: at least one delivery file has a mistake.
    """
    _, bad = _read_all()
    if bad:
        raise SpecError("\n".join(str(error) for error in bad))
