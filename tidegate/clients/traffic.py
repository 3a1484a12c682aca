"""The interface to whatever splits live traffic between versions, with a fake that lives in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from tidegate.errors import Conflict, DataError, LeaseLost

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True)
class Split:
    """How one delivery's traffic is shared between its routed versions."""

    weights: Mapping[str, int] = field(default_factory=dict)
    """Percent by version name, of every routed version; they sum to 100, or to 0 before the first installation."""
    champion: str | None = None
    """The version in production; every other version with a weight above 0 is a candidate."""
    revision: int = 0
    """Rises with every change of any kind."""
    fence: int = 0
    """The fencing number of the last change of weights; lower ones are refused."""
    endpoints: Mapping[str, str] = field(default_factory=dict)
    """host:port by version name."""
    cause: str = ""
    """Who made the last change, and why."""

    @property
    def candidates(self) -> dict[str, int]:
        """Versions that get traffic without being the champion, with their weights."""
        return {name: weight for name, weight in self.weights.items() if weight > 0 and name != self.champion}

    def all_to(self, name: str) -> dict[str, int]:
        """Return the weights that give one version everything."""
        return {**dict.fromkeys(self.weights, 0), name: 100}


class Traffic(Protocol):
    """Moves traffic by compare-and-set under a fencing number."""

    def read(self, delivery: str) -> Split:
        """Return the split as last written; an empty one for a delivery without routes."""

    def write(
        self,
        delivery: str,
        weights: Mapping[str, int],
        *,
        champion: str | None,
        expected: int,
        fence: int,
        cause: str = "",
    ) -> Split:
        """Share the traffic anew; versions left out of `weights` get 0%.

        Args:
            delivery: the delivery's name.
            weights: percent by version name; they sum to 100.
            champion: the version that is in production from now on.
            expected: the revision that the caller decided on.
            fence: the caller's fencing number.
            cause: who does this, and why.

        Raises:
            Conflict: the revision is another one.
            LeaseLost: the fence is lower than the one of the last change.
            DataError: the weights do not sum to 100, or name a version without a route.
        """

    def route(self, delivery: str, name: str, address: str) -> Split:
        """Make a version's server at host:port known, at 0%; does nothing if it is known there already."""

    def unroute(self, delivery: str, name: str) -> Split:
        """Forget a version's server; does nothing if it is not known.

        Raises:
            Conflict: the version still has traffic, or is the champion.
        """


class Proxy(Protocol):
    """Asks the proxy itself what it serves, and tells it again."""

    def confirm(self, delivery: str, weights: Mapping[str, int]) -> None:
        """Return once the proxy serves exactly these weights.

        Raises:
            Conflict: it still serves others after a few seconds.
            Unavailable: it does not answer.
        """

    def reapply(self) -> None:
        """Write the proxy's whole configuration again from the recorded splits."""


def reweighed(
    delivery: str, split: Split, weights: Mapping[str, int], champion: str | None, expected: int, fence: int, cause: str
) -> Split:
    """Return the split after a change of weights, or raise as `Traffic.write` says; pure, shared by every backend."""
    if split.revision != expected:
        raise Conflict(f"traffic of {delivery} is at revision {split.revision}, not {expected}: read it again")
    if fence < split.fence:
        raise LeaseLost(f"traffic of {delivery} was last moved under fence {split.fence}, yours is {fence}: stop")
    unknown = sorted(name for name, weight in weights.items() if name not in split.endpoints and weight > 0)
    if unknown:
        have = ", ".join(sorted(split.endpoints)) or "none"
        raise DataError(f"{', '.join(unknown)} of {delivery} has no route; routed: {have}; deploy it first")
    if any(weight < 0 for weight in weights.values()) or sum(weights.values()) != 100:
        raise DataError(f"weights {dict(weights)} of {delivery} sum to {sum(weights.values())}, not 100")
    if champion not in split.endpoints:
        raise DataError(f"champion {champion} of {delivery} has no route; deploy it first")
    shared = {name: weights.get(name, 0) for name in split.endpoints}
    return replace(split, weights=shared, champion=champion, revision=split.revision + 1, fence=fence, cause=cause)


def routed(split: Split, name: str, address: str) -> Split:
    """Return the split with a version known at host:port; the same split if nothing changes. Pure."""
    if split.endpoints.get(name) == address:
        return split
    return replace(
        split,
        weights={name: 0, **split.weights},
        endpoints={**split.endpoints, name: address},
        revision=split.revision + 1,
        cause=f"route to {name} at {address}",
    )


def unrouted(delivery: str, split: Split, name: str) -> Split:
    """Return the split without a version, or raise as `Traffic.unroute` says; pure."""
    if name not in split.endpoints:
        return split
    weight = split.weights.get(name, 0)
    if weight > 0 or name == split.champion:
        role = "the champion" if name == split.champion else "a candidate"
        raise Conflict(f"{name} is {role} of {delivery} at {weight}%: move its traffic away first")
    return replace(
        split,
        weights={other: share for other, share in split.weights.items() if other != name},
        endpoints={other: where for other, where in split.endpoints.items() if other != name},
        revision=split.revision + 1,
        cause=f"no route to {name}",
    )


class FakeTraffic:
    """Traffic and Proxy in memory, with the rules of the real ones; keeps every split it was given."""

    def __init__(self, splits: Mapping[str, Split] | None = None):
        self.splits: dict[str, Split] = dict(splits or {})
        self.history: list[tuple[str, Split]] = []
        self.drift: dict[str, Split] = {}
        """What the proxy serves instead, until told again."""

    def deliveries(self) -> list[str]:
        """Return the names of deliveries with a split."""
        return sorted(self.splits)

    def read(self, delivery: str) -> Split:
        """See Traffic.read."""
        return self.splits.get(delivery, Split())

    def write(
        self,
        delivery: str,
        weights: Mapping[str, int],
        *,
        champion: str | None,
        expected: int,
        fence: int,
        cause: str = "",
    ) -> Split:
        """See Traffic.write."""
        return self._change(delivery, lambda old: reweighed(delivery, old, weights, champion, expected, fence, cause))

    def route(self, delivery: str, name: str, address: str) -> Split:
        """See Traffic.route."""
        return self._change(delivery, lambda old: routed(old, name, address))

    def unroute(self, delivery: str, name: str) -> Split:
        """See Traffic.unroute."""
        return self._change(delivery, lambda old: unrouted(delivery, old, name))

    def confirm(self, delivery: str, weights: Mapping[str, int]) -> None:
        """See Proxy.confirm."""
        split = self.drift.get(delivery, self.read(delivery))
        served = {name: weight for name, weight in split.weights.items() if weight}
        if served != {name: weight for name, weight in weights.items() if weight}:
            raise Conflict(f"{delivery} is served as {served}, not {dict(weights)}")

    def reapply(self) -> None:
        """See Proxy.reapply."""
        self.drift.clear()

    def _change(self, delivery: str, change: Callable[[Split], Split]) -> Split:
        self.splits[delivery] = change(self.read(delivery))
        self.history.append((delivery, self.splits[delivery]))
        return self.splits[delivery]
