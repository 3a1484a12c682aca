"""A request's model becomes a version with its bundle: safe to be killed anywhere and asked for again.

First a version is reserved in the registry, in one call with all that is known of it; it says `registering`. Then its
bundle is published, whole or not at all. Last the version learns what its bundle is, and that it is `registered`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tidegate import bundle as bundles

if TYPE_CHECKING:
    from pathlib import Path

    from tidegate.clients.registry import Registry
    from tidegate.delivery import Delivery
    from tidegate.handoff import Bundle, Dataset, Evaluated, Optimised, Request, Trained
    from tidegate.lake import Lake

ABANDONED = 86_400.0
"""Seconds after which a version that is still registering was left by a run that nobody tries again."""


@dataclass(frozen=True)
class Parts:
    """What a bundle is made of, as the stages handed it on."""

    delivery: Delivery
    request: Request
    dataset: Dataset
    trained: Trained
    evaluated: Evaluated
    optimised: Optimised


def register(parts: Parts, registry: Registry, lake: Lake, root: Path, now: float) -> tuple[Bundle, list[int]]:
    """Return the bundle of a request's model, and the abandoned versions that were removed on the way.

    The same parts give the same version and the same bundle, however often and from however many places they are given.

    Args:
        parts: what is registered.
        registry: where versions are.
        lake: where bundles are.
        root: the project's folder, where locks and contracts are.
        now: the present time, Unix seconds.

    Raises:
        Unavailable: the registry does not answer; the next try goes on.
        DataError: a part is not published, or another revision took its place.
    """
    name, trained, evaluated = parts.delivery.delivery, parts.trained, parts.evaluated
    swept = registry.sweep(name, now - ABANDONED)
    version = registry.reserve(
        delivery=name,
        request_id=parts.request.request_id,
        run_id=trained.run_id,
        source_uri=f"{lake.url}/{trained.key}",
        metrics=trained.metrics,
        tags={
            "dataset": parts.dataset.digest,
            "window": parts.dataset.window.id,
            "model_digest": trained.digest,
            "evaluation": evaluated.digest,
            "evaluated_against": evaluated.champion or f"none: {evaluated.reason}",
            "signature": json.dumps(bundles.signature(parts.dataset)),
        },
    )
    bundle = bundles.assemble(
        delivery=parts.delivery,
        request=parts.request,
        dataset=parts.dataset,
        trained=trained,
        evaluated=evaluated,
        optimised=parts.optimised,
        version=version,
        lake=lake,
        root=root,
    )
    registry.complete(name, version, {"bundle": f"{lake.url}/{bundle.key}", "bundle_digest": bundle.digest})
    return bundle, swept
