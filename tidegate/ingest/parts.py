"""Reads a large slice by several processes: planned by one, read part by part, sealed without copying.

The plan is frozen in the lake before anything is read: position, parts, contract and code. A part is a key of its own
below the plan's revision, so that a second attempt finds it done, and parts of two plans never mix. The slice's
manifest lists the parts' files where they lie: it has the digest that one process would have given it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tidegate import keys
from tidegate.errors import DataError
from tidegate.handoff import Part, Slice
from tidegate.ingest.slices import RAW, Counts, counted, file_name, write
from tidegate.version import code_version

if TYPE_CHECKING:
    from tidegate.ingest.slices import Reading, Target

_PLAN = "plan.json"
_REVISION = 16


def begin(target: Target, reading: Reading, *, refresh: bool) -> Slice | list[Part]:
    """Return the slice where it is published, or small enough to be read at once; else the parts to be read."""
    found = None if refresh else target.published()
    if found is not None:
        return found
    position = reading.freeze()
    parts = reading.parts(position)
    if len(parts) == 1:
        return target.read(reading, position, parts)
    plan = {
        "position": position, "parts": parts, "contract": [target.contract.name, target.contract.digest],
        "code": code_version(),
    }  # fmt: skip
    key = keys.plan(target.delivery, target.source, target.window)
    with target.lake.publish(key) as draft:
        draft.file(_PLAN).write_text(json.dumps(plan, sort_keys=True, indent=1))
    digest = str(target.lake.require(key)["digest"])
    return [Part(plan=digest, number=number, of=len(parts)) for number in range(len(parts))]


def read_part(target: Target, reading: Reading, part: Part) -> int:
    """Read and publish one part of a plan, unless it is there whole; return its rows.

    Raises:
        DataError: the plan is gone, or asked for by another contract.
    """
    key, lake = _part_key(target, part.plan, part.number), target.lake
    if not lake.is_whole(key):
        plan = _plan(target, part.plan)
        if plan["contract"] != [target.contract.name, target.contract.digest]:
            raise DataError(
                f"{target.key}: the contract {target.contract.name} was changed after the slice was planned; clear the "
                "source's `ingest` task, which plans it anew"
            )
        with lake.publish(key) as draft:
            rows = reading.rows(plan["position"], plan["parts"][part.number])
            draft.fields.update(counted([write(draft.file(RAW), target.contract, rows)]))
    return int(lake.require(key)["rows"])


def seal(target: Target, plan: str) -> Slice:
    """Publish the slice whose plan has this digest: its manifest lists the files of the parts, all checked once more.

    Parts that no revision of the slice lists, and that are not of the newest plan, are removed afterwards.

    Raises:
        DataError: a part is missing, or its file was altered.
    """
    planned, lake = _plan(target, plan), target.lake
    count = len(planned["parts"])
    manifests = [lake.manifest(_part_key(target, plan, number)) for number in range(count)]
    missing = [str(number) for number, manifest in enumerate(manifests) if manifest is None]
    if missing:
        raise DataError(
            f"{target.key}: of {count} parts these are not there: {', '.join(missing[:10])}; clear the source's `read` "
            "tasks of these numbers, or its `ingest`, which plans the slice anew"
        )
    whole = [manifest for manifest in manifests if manifest is not None]
    with target.draft(planned["position"]) as draft:
        draft.about["code"] = planned["code"]
        draft.fields.update(counted([Counts(*(each[name] for name in Counts._fields)) for each in whole]))
        for number, each in enumerate(whole):
            draft.list(file_name(number, count), each, RAW)
    _sweep(target, plan)
    return Slice.of_manifest(lake.require(target.key))


def _plan(target: Target, digest: str) -> dict[str, Any]:
    key = keys.plan(target.delivery, target.source, target.window)
    plan: dict[str, Any] = json.loads(target.lake.read(key, _PLAN, digest))
    return plan


def _part_key(target: Target, plan: str, number: int) -> str:
    return f"{keys.parts(target.delivery, target.source, target.window)}/{plan[:_REVISION]}/{number:05}"


def _sweep(target: Target, plan: str) -> None:
    lake, start = target.lake, keys.parts(target.delivery, target.source, target.window)
    newest = lake.require(keys.plan(target.delivery, target.source, target.window))["digest"]
    listed = {
        file["at"].removeprefix(f"{start}/").partition("/")[0]
        for manifest in lake.revisions(target.key)
        for file in manifest["files"].values()
        if "at" in file
    }
    kept = {*listed, plan[:_REVISION], str(newest)[:_REVISION]}
    for key in lake.keys(start):
        if key.removeprefix(f"{start}/").partition("/")[0] not in kept:
            lake.delete(key)
