"""Whether a slice as a whole may go on: rules that stop it, row counts, freshness, too much in quarantine."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tidegate.validate.reasons import printable, told

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate.contract import Contract
    from tidegate.contract.model import Severity
    from tidegate.validate.stream import Outcome


@dataclass(frozen=True)
class Complaint:
    """One bound of a slice that it broke, in words: what, the value, the limit."""

    rule: str
    severity: Severity
    message: str


def complaints(outcome: Outcome, contract: Contract, as_of: float) -> list[Complaint]:
    """Return the slice's broken bounds; `as_of` is when it should be fresh, seconds since 1970."""
    return list(_all(outcome, contract, as_of))


def refused(found: list[Complaint]) -> bool:
    """Whether one of them stops the slice."""
    return any(complaint.severity == "stop" for complaint in found)


def _all(outcome: Outcome, contract: Contract, as_of: float) -> Iterator[Complaint]:
    rules = contract.slice_rules
    for reason, found in outcome.findings.items():
        if found.severity == "stop":
            such = f"such as {found.position}: {printable(found.value)}"
            message = f"{found.rows} rows break {reason}, which stops a slice, {such}"
            yield Complaint(reason, "stop", message)
    least, most = rules.rows
    if least is not None and outcome.rows < least:
        yield Complaint("row_count", rules.rows_severity, f"{outcome.rows} rows, at least {least:g} are asked for")
    if most is not None and outcome.rows > most:
        yield Complaint("row_count", rules.rows_severity, f"{outcome.rows} rows, at most {most:g} are allowed")
    if rules.quarantined_rows is not None and outcome.quarantined > rules.quarantined_rows:
        limit = f"at most {rules.quarantined_rows} are allowed"
        message = f"{outcome.quarantined} rows in quarantine, {limit} ({told(outcome.reasons, outcome.examples)})"
        yield Complaint("quarantined", "stop", message)
    share = outcome.quarantined / outcome.rows if outcome.rows else 0.0
    if rules.quarantined_share is not None and share > rules.quarantined_share:
        limit = f"at most {rules.quarantined_share:.2%} are allowed"
        message = f"{share:.2%} of the rows in quarantine, {limit} ({told(outcome.reasons, outcome.examples)})"
        yield Complaint("quarantined", "stop", message)
    yield from _freshness(outcome, contract, as_of)


def _freshness(outcome: Outcome, contract: Contract, as_of: float) -> Iterator[Complaint]:
    rules = contract.slice_rules
    if rules.freshness is None:
        return
    if outcome.newest is None:
        yield Complaint("freshness", rules.freshness_severity, "no clean row says how fresh the slice is")
    elif as_of - outcome.newest > rules.freshness:
        newest, then = (datetime.fromtimestamp(moment, UTC).isoformat() for moment in (outcome.newest, as_of))
        age = as_of - outcome.newest
        message = (
            f"the newest event is of {newest}, {age:.0f} s before {then}; at most {rules.freshness:.0f} s are allowed"
        )
        yield Complaint("freshness", rules.freshness_severity, message)
