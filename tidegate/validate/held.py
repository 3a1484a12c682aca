"""What the lake holds in quarantine, slice by slice, and what judging a slice again changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tidegate import keys
from tidegate.errors import DataError
from tidegate.handoff import Slice
from tidegate.units import utc
from tidegate.validate.reasons import top

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from tidegate.handoff import Window
    from tidegate.lake import Lake

State = Literal["clean", "quarantined", "refused", "not validated"]


@dataclass(frozen=True)
class Held:
    """One slice and what its contract said of it.

    `judged` is the manifest of what was last said, refused or validated; `in_use` that of the validated revision which
    datasets take, and None where there is none. `state` is `not validated` where the slice was read anew since.
    """

    slice: Slice
    judged: Mapping[str, Any] | None
    in_use: Mapping[str, Any] | None
    state: State

    @property
    def quarantined(self) -> int:
        """Rows in quarantine."""
        return int(self.judged["quarantined"]) if self.judged else 0

    @property
    def share(self) -> float:
        """Rows in quarantine of the rows judged, from 0 to 1."""
        judged = self.quarantined + int(self.judged["clean"]) if self.judged else 0
        return self.quarantined / judged if judged else 0.0

    @property
    def reasons(self) -> list[tuple[str, int]]:
        """All first reasons with their rows, those of most rows first."""
        return top(self.judged["reasons"], len(self.judged["reasons"])) if self.judged else []

    @property
    def contract(self) -> str:
        """The name of the contract that judged it, or else of that under which it was read."""
        return str(self.judged.get("contract", self.slice.contract)) if self.judged else self.slice.contract

    @property
    def contract_version(self) -> str | None:
        """The version that judged it; None where an older Tidegate kept no record of it."""
        return self.judged.get("contract_version") if self.judged else None

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON data."""
        reason = self.reasons[0][0] if self.reasons else None
        return {
            "delivery": self.slice.delivery, "source": self.slice.source, "window": self.slice.window.id,
            "state": self.state, "rows": self.slice.rows, "quarantined": self.quarantined,
            "share": self.share, "top_reason": reason, "reasons": dict(self.reasons),
            "contract": self.contract, "contract_version": self.contract_version,
            "revision": self.in_use["digest"] if self.in_use else None,
        }  # fmt: skip


def held(
    lake: Lake, delivery: str | None = None, source: str | None = None, since: datetime | None = None
) -> list[Held]:
    """Return the lake's slices by delivery, source and window; `since` leaves out windows that ended by then."""
    found = []
    for key in lake.keys(f"slices/{delivery}" if delivery else "slices"):
        if not key.endswith("/raw") or (since is not None and keys.window_of(key).end <= since):
            continue
        if source is None or key.split("/")[-3] == source:
            found.append(_held(lake, Slice.of_manifest(lake.require(key))))
    return found


def one(lake: Lake, delivery: str, source: str, window: str) -> Held:
    """Return one slice; its window is given by its id, or by the moment at which it starts.

    Raises:
        DataError: there is no such slice; the message says which there are.
    """
    there = held(lake, delivery)
    mine = [each for each in there if each.slice.source == source]
    found = [each for each in mine if _is(each.slice.window, window)]
    if len(found) == 1:
        return found[0]
    if mine:
        have = f"its windows: {_some([each.slice.window.id for each in mine])}"
    elif there:
        have = f"sources of {delivery}: {_some(sorted({each.slice.source for each in there}))}"
    else:
        have = f"deliveries with slices: {_some(sorted({key.split('/')[1] for key in lake.keys('slices')}))}"
    raise DataError(f"{lake.url} has no slice {delivery}/{source} of {window!r}; {have}")


def outcome(before: Held, after: Held) -> str:
    """Say in a sentence what a replay changed."""
    assert after.in_use is not None  # noqa: S101 - a replay that publishes nothing raises
    new, old = after.in_use, before.in_use
    by = f"{after.contract} {new.get('contract_version', '')}".strip()
    left = f"{new['clean']:,} rows clean, {new['quarantined']:,} in quarantine"
    if old is None:
        return f"validated for the first time, by {by}: {left}"
    if old == new:
        return f"nothing changed: it is judged by {by} already: {left}"
    changed = new.get("changed")
    if changed is None:
        return f"validated anew by {by}, because the slice was read anew: {left}"
    was = changed["from_contract_version"] or "an older version"
    was += " with another content" if was == new["contract_version"] else ""
    same_rows = old["files"].get("clean.parquet") == new["files"].get("clean.parquet")
    if same_rows and not changed["now_clean"] and not changed["newly_quarantined"]:
        return f"no row changed: {by} (before: {was}) says the same of all: {left}"
    return (
        f"by {by} (before: {was}): {changed['now_clean']:,} rows now clean, {changed['still_quarantined']:,} still in "
        f"quarantine, {changed['newly_quarantined']:,} newly in quarantine; {left}. "
        f"Revision {new['digest'][:16]}, before: {old['digest'][:16]}, which stays readable"
    )


def _held(lake: Lake, slice: Slice) -> Held:
    place = (slice.delivery, slice.source, slice.window)
    in_use, refused = lake.manifest(keys.validated(*place)), lake.manifest(keys.refused(*place))
    judged = refused or in_use
    state: State = "not validated"
    if judged is not None and judged["slice_digest"] == slice.digest:
        state = "refused" if refused else "quarantined" if judged["quarantined"] else "clean"
    return Held(slice, judged, in_use, state)


def _is(window: Window, text: str) -> bool:
    if window.id == text:
        return True
    try:
        return window.start == utc(text)
    except ValueError:
        return False


def _some(names: list[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) + more) or "none"
