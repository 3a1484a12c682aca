"""Kills a process that publishes a slice at each of its steps, and looks at what readers and the next run find.

A step is whatever the process does to the lake's folder (open, make a folder, rename, remove), as Python's audit hooks
see it, and the middle of each file that is copied. Prints how often each scenario was killed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tidegate.contract import Column, Contract
from tidegate.contract.arrow import slice_schema
from tidegate.handoff import Slice, Window
from tidegate.ingest.parts import begin, read_part, seal
from tidegate.ingest.slices import Target
from tidegate.lake import Lake
from tidegate.units import utc
from tidegate.validate import validate

RULES = Contract("things", "1", (Column("a", "int32", "int32"),), "things.yaml", "0" * 64)
WINDOW = Window(start=utc("2013-01-01"), end=utc("2013-02-01"))
OLD, NEW = range(7), range(100, 125)
_EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")


class Numbers:
    """A source of numbers in parts of a size."""

    def __init__(self, values: range, size: int):
        self.values, self.size = values, size

    def freeze(self) -> dict[str, Any]:
        return {"kind": "test", "first": self.values.start}

    def parts(self, position: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"at": at} for at in range(0, len(self.values), self.size)]

    def rows(self, position: dict[str, Any], part: dict[str, Any]) -> Iterator[Any]:
        values = self.values[part["at"] : part["at"] + self.size]
        rows = [{"a": value, "_position": str(value)} for value in values]
        yield pa.Table.from_pylist(rows, schema=slice_schema(RULES))


def target(folder: Path) -> Target:
    return Target("d", "s", RULES, WINDOW, Lake(f"file://{folder}"))


def ingest(folder: Path, values: range, size: int) -> None:
    """Ingest and validate a slice as the tasks of a run do."""
    to, source = target(folder), Numbers(values, size)
    found = begin(to, source, refresh=True)
    if not isinstance(found, Slice):
        for part in found:
            read_part(to, source, part)
        found = seal(to, found[0].plan)
    validate(found, RULES, to.lake)


SCENARIOS: dict[str, tuple[bool, int]] = {
    "the first slice": (False, 100),
    "a new revision": (True, 100),
    "a new revision in three parts": (True, 10),
}


def state(folder: Path) -> tuple[list[int] | None, list[int] | None]:
    """Return what readers find: the numbers of the raw slice and of the validated one, every file checked."""
    lake, found = target(folder).lake, []
    for key, file in ((target(folder).key, "raw"), (target(folder).key.replace("/raw", "/validated"), "clean")):
        manifest = lake.manifest(key)
        if manifest is None:
            found.append(None)
            continue
        names = sorted(name for name in manifest["files"] if name.startswith(file))
        tables = [pq.read_table(lake.local(key, name), use_threads=False) for name in names]
        found.append([value for table in tables for value in table.column("a").to_pylist()])
        assert lake.unlisted(key) == []
        for past in lake.revisions(key):
            for name in past["files"]:
                lake.local(key, name, past["digest"])
    return found[0], found[1]


def in_child(work: Callable[[], None]) -> int:
    """Run something in a process of its own; return how it ended, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(step: int, folder: Path, work: Callable[[], None]) -> None:
    """Run something, and kill the process at its step of this number."""
    left, copy = step, shutil.copyfileobj

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _EVENTS and str(arguments[0]).startswith(str(folder)):
            count()

    def halting(source: Any, out: Any, length: int = 0) -> None:
        whole = source.read()
        out.write(whole[: len(whole) // 2])
        out.flush()
        count()
        out.write(whole[len(whole) // 2 :])

    shutil.copyfileobj = halting  # type: ignore[assignment]
    sys.addaudithook(hook)
    try:
        work()
    finally:
        shutil.copyfileobj = copy


def scenario(name: str, room: Path, every: int) -> int:
    """Kill at every so many steps until none is left; return how often it was killed."""
    has_old, size = SCENARIOS[name]
    before, undisturbed, at = room / "before", room / "undisturbed", room / "lake"
    before.mkdir(parents=True)
    if has_old:
        assert in_child(lambda: ingest(before, OLD, 100)) == 0
    shutil.copytree(before, undisturbed)
    assert in_child(lambda: ingest(undisturbed, NEW, size)) == 0
    wanted, old = manifests(undisturbed), list(OLD) if has_old else None
    assert state(undisturbed) == (list(NEW), list(NEW))
    for kills, step in enumerate(range(1, 1000, every)):
        shutil.copytree(before, at)
        ended = in_child(lambda: killed_at(step, at, lambda: ingest(at, NEW, size)))  # noqa: B023 - called at once
        assert ended in (0, -signal.SIGKILL), f"{name}, step {step}: {ended}"
        raw, clean = state(at)
        # a validated slice never comes before the raw one it is of
        assert (raw, clean) in ((old, old), (list(NEW), old), (list(NEW), list(NEW))), f"{name}, step {step}"
        if ended == 0:
            assert manifests(at) == wanted
            return kills
        assert in_child(lambda: ingest(at, NEW, size)) == 0, f"{name}: the run after step {step}"
        assert state(at) == (list(NEW), list(NEW)), f"{name}: the run after step {step}"
        assert manifests(at) == wanted, f"{name}: the run after step {step}"
        shutil.rmtree(at)
    raise AssertionError("it never ended")


def manifests(folder: Path) -> dict[str, bytes]:
    """Return every published manifest's bytes by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("manifest.json")}


if __name__ == "__main__":
    room, every = Path(sys.argv[1]), int(sys.argv[2])
    print(json.dumps({name: scenario(name, room / name.replace(" ", "-"), every) for name in SCENARIOS}))
