"""The interface to whatever splits live traffic between versions, with a fake that lives in memory."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, TypeVar

from tidegate.errors import Conflict, DataError, LeaseLost
from tidegate.wire import Name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


_Value = TypeVar("_Value")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2: what a header or cookie may be called


@dataclass(frozen=True)
class Routing:
    """What a delivery's callers speak, and how they are told apart; None turns each of the latter off.

    Raises:
        DataError: a name that no header or cookie can have.
    """

    sticky_header: str | None = None
    """Callers with the same value of this header get the same version, as long as the weights allow it."""
    sticky_cookie: str | None = None
    """The same by the value of a cookie; it is read, never set. With both, the header decides where it is present."""
    pin_header: str | None = None
    """A request in which this header names a routed version goes to that version only."""
    protocol: Name = "kserve"
    """The protocol of all its versions' servers: callers cannot be moved between versions that speak otherwise."""

    def __post_init__(self) -> None:
        for use, name in (("header", self.sticky_header), ("cookie", self.sticky_cookie), ("header", self.pin_header)):
            if name is not None and not _TOKEN.fullmatch(name):
                raise DataError(f"{name!r} cannot be the name of a {use}: use letters, digits and hyphens")
            if name is not None and name.lower().startswith("x-envoy-"):
                raise DataError(
                    f"{name!r} cannot be used: the proxy removes x-envoy-* from requests; take another name"
                )


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
    routing: Routing = Routing()
    """How callers are told apart."""
    mirrors: Mapping[str, int] = field(default_factory=dict)
    """Percent of live requests that are also sent to a version, whose answers are thrown away."""
    draining: Mapping[str, str] = field(default_factory=dict)
    """host:port of versions whose routes are gone while their last requests are being answered."""

    @property
    def candidates(self) -> dict[str, int]:
        """Versions that get traffic without being the champion, with their weights."""
        return {name: weight for name, weight in self.weights.items() if weight > 0 and name != self.champion}

    @property
    def on_trial(self) -> dict[str, int]:
        """Versions that see live requests without being the champion: their weights, else their mirrors' percent."""
        seen = {name: share for name, share in self.mirrors.items() if name != self.champion}
        return {**seen, **self.candidates}

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
        mirrors: Mapping[str, int] | None = None,
    ) -> Split:
        """Share the traffic anew; versions left out of `weights` get 0%, and mirrors left out end.

        Args:
            delivery: the delivery's name.
            weights: percent by version name; they sum to 100.
            champion: the version that is in production from now on.
            expected: the revision that the caller decided on.
            fence: the caller's fencing number.
            cause: who does this, and why.
            mirrors: percent of live requests, 1 to 100, to send to a version as well, by its name.

        Raises:
            Conflict: the revision is another one.
            LeaseLost: the fence is lower than the one of the last change.
            DataError: the weights do not sum to 100, a mirror is not within 1 to 100 or is the champion's, or a
                version has no route.
        """

    def route(self, delivery: str, name: str, address: str, routing: Routing | None = None) -> Split:
        """Make a version's server at host:port known, at 0%; does nothing if all is known already.

        Args:
            delivery: the delivery's name.
            name: the version's name.
            address: host:port of its server.
            routing: how the delivery's callers are told apart from now on; None leaves that as it is.

        Raises:
            DataError: other versions of the delivery speak another protocol.
        """

    def unroute(self, delivery: str, name: str) -> Split:
        """Forget a version's server once no request is on its way there; does nothing if it is not known.

        Raises:
            Conflict: the version still has traffic, is mirrored to or is the champion; or its last requests do not
                end. The same call may be repeated.
        """


class Proxy(Protocol):
    """Asks the proxy itself what it serves, and tells it again."""

    def confirm(self, delivery: str, weights: Mapping[str, int], mirrors: Mapping[str, int] | None = None) -> None:
        """Return once the proxy serves exactly these weights and, unless None, exactly these mirrors.

        Raises:
            Conflict: it still serves others after a few seconds.
            Unavailable: it does not answer.
        """

    def reapply(self) -> None:
        """Write the proxy's whole configuration again from the recorded splits."""


def reweighed(
    delivery: str,
    split: Split,
    weights: Mapping[str, int],
    champion: str | None,
    expected: int,
    fence: int,
    cause: str,
    mirrors: Mapping[str, int] | None = None,
) -> Split:
    """Return the split after a change of weights, or raise as `Traffic.write` says; pure, shared by every backend."""
    if split.revision != expected:
        raise Conflict(f"traffic of {delivery} is at revision {split.revision}, not {expected}: read it again")
    if fence < split.fence:
        raise LeaseLost(f"traffic of {delivery} was last moved under fence {split.fence}, yours is {fence}: stop")
    mirrors = dict(mirrors or {})
    named = {*(name for name, weight in weights.items() if weight > 0), *mirrors}
    unknown = sorted(named - set(split.endpoints))
    if unknown:
        have = ", ".join(sorted(split.endpoints)) or "none"
        raise DataError(f"{', '.join(unknown)} of {delivery} has no route; routed: {have}; deploy it first")
    if any(weight < 0 for weight in weights.values()) or sum(weights.values()) != 100:
        raise DataError(f"weights {dict(weights)} of {delivery} sum to {sum(weights.values())}, not 100")
    if champion not in split.endpoints:
        raise DataError(f"champion {champion} of {delivery} has no route; deploy it first")
    _check_mirrors(delivery, mirrors, champion)
    shared = {name: weights.get(name, 0) for name in split.endpoints}
    return replace(
        split,
        weights=shared,
        champion=champion,
        revision=split.revision + 1,
        fence=fence,
        cause=cause,
        mirrors=mirrors,
    )


def routed(split: Split, name: str, address: str, routing: Routing | None = None) -> Split:
    """Return the split with a version known at host:port, or raise as `Traffic.route` says; the same if known. Pure."""
    routing = split.routing if routing is None else routing
    others = sorted(set(split.endpoints) - {name})
    if others and routing.protocol != split.routing.protocol:
        raise DataError(
            f"{name} speaks {routing.protocol}, {', '.join(others)} {split.routing.protocol}: callers cannot be shared "
            "between them; keep serve.server, or declare a delivery of another name for the other protocol"
        )
    if split.endpoints.get(name) == address and routing == split.routing:
        return split
    return replace(
        split,
        weights={name: 0, **split.weights},
        endpoints={**split.endpoints, name: address},
        revision=split.revision + 1,
        cause=f"route to {name} at {address}",
        routing=routing,
        draining=_without(split.draining, name),
    )


def unrouted(delivery: str, split: Split, name: str, drains: bool = False) -> Split:
    """Return the split without a version, or raise as `Traffic.unroute` says; pure.

    With `drains` the version is kept among those that still answer their last requests, until `drained`.
    """
    if name not in split.endpoints:
        return split
    weight = split.weights.get(name, 0)
    if weight > 0 or name == split.champion:
        role = "the champion" if name == split.champion else "a candidate"
        raise Conflict(f"{name} is {role} of {delivery} at {weight}%: move its traffic away first")
    if name in split.mirrors:
        raise Conflict(f"{split.mirrors[name]}% of {delivery} is mirrored to {name}: write without this mirror first")
    return replace(
        split,
        weights=_without(split.weights, name),
        endpoints=_without(split.endpoints, name),
        revision=split.revision + 1,
        cause=f"no route to {name}",
        draining={**split.draining, name: split.endpoints[name]} if drains else split.draining,
    )


def drained(split: Split, name: str) -> Split:
    """Return the split after a version's last request was answered; its revision stays, for no share changes. Pure."""
    return replace(split, draining=_without(split.draining, name)) if name in split.draining else split


def _check_mirrors(delivery: str, mirrors: Mapping[str, int], champion: str | None) -> None:
    for name, share in mirrors.items():
        if not 1 <= share <= 100:
            raise DataError(f"mirror of {share}% to {name} of {delivery} is not within 1 to 100: leave it out for none")
        if name == champion:
            raise DataError(f"{name} is the champion of {delivery} and cannot be mirrored to: mirror to a candidate")


def _without(mapping: Mapping[str, _Value], name: str) -> dict[str, _Value]:
    return {other: value for other, value in mapping.items() if other != name}


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
        mirrors: Mapping[str, int] | None = None,
    ) -> Split:
        """See Traffic.write."""
        return self._change(
            delivery, lambda old: reweighed(delivery, old, weights, champion, expected, fence, cause, mirrors)
        )

    def route(self, delivery: str, name: str, address: str, routing: Routing | None = None) -> Split:
        """See Traffic.route."""
        return self._change(delivery, lambda old: routed(old, name, address, routing))

    def unroute(self, delivery: str, name: str) -> Split:
        """See Traffic.unroute."""
        return self._change(delivery, lambda old: unrouted(delivery, old, name))

    def confirm(self, delivery: str, weights: Mapping[str, int], mirrors: Mapping[str, int] | None = None) -> None:
        """See Proxy.confirm."""
        split = self.drift.get(delivery, self.read(delivery))
        served = {name: weight for name, weight in split.weights.items() if weight}
        if served != {name: weight for name, weight in weights.items() if weight}:
            raise Conflict(f"{delivery} is served as {served}, not {dict(weights)}")
        if mirrors is not None and dict(split.mirrors) != dict(mirrors):
            raise Conflict(f"{delivery} is mirrored as {dict(split.mirrors)}, not {dict(mirrors)}")

    def reapply(self) -> None:
        """See Proxy.reapply."""
        self.drift.clear()

    def _change(self, delivery: str, change: Callable[[Split], Split]) -> Split:
        self.splits[delivery] = change(self.read(delivery))
        self.history.append((delivery, self.splits[delivery]))
        return self.splits[delivery]
