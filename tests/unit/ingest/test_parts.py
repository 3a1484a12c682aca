"""A large slice by parts: the digest that one process gives it, parts found done, and nothing sealed by halves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidegate.contract import Column, Contract
from tidegate.contract.arrow import slice_schema
from tidegate.errors import DataError
from tidegate.handoff import Part, Slice, Window
from tidegate.ingest.parts import begin, read_part, seal
from tidegate.ingest.slices import Target, publish
from tidegate.lake import Lake
from tidegate.units import utc
from tidegate.validate import validate

RULES = Contract("things", "1", (Column("a", "int32", "int32"),), "things.yaml", "0" * 64)
WINDOW = Window(start=utc("2013-01-01"), end=utc("2013-02-01"))


class Numbers:
    """A source of the numbers from 0, cut into parts of a size; it counts what is read of it."""

    def __init__(self, count: int, size: int, name: str = "numbers"):
        self.count, self.size, self.name = count, size, name
        self.reads: list[int] = []

    def freeze(self) -> dict[str, Any]:
        return {"kind": "test", "count": self.count, "name": self.name}

    def parts(self, position: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"first": first} for first in range(0, position["count"], self.size)]

    def rows(self, position: dict[str, Any], part: dict[str, Any]) -> Iterator[Any]:
        first = part["first"]
        self.reads.append(first // self.size)
        values = range(first, min(first + self.size, position["count"]))
        rows = [{"a": value, "_position": f"{position['name']}/{value}"} for value in values]
        yield pa.Table.from_pylist(rows, schema=slice_schema(RULES)).replace_schema_metadata({"late": "1"})


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return Target("d", "s", RULES, WINDOW, Lake(f"file://{tmp_path}/lake"))


def planned(target: Target, source: Numbers, refresh: bool = False) -> list[Part]:
    parts = begin(target, source, refresh=refresh)
    assert isinstance(parts, list)
    return [Part.model_validate_json(part.to_json()) for part in parts]


def read_all(target: Target, source: Numbers, parts: Iterable[Part]) -> None:
    for part in parts:
        read_part(target, source, part)


def values(target: Target, found: Slice) -> list[int]:
    names = sorted(target.lake.require(found.key, found.digest)["files"])
    paths = [target.lake.local(found.key, name, found.digest) for name in names]
    return [value for path in paths for value in pq.read_table(path).column("a").to_pylist()]


def test_a_small_slice_is_read_at_once_and_a_published_one_is_returned(target: Target) -> None:
    source = Numbers(5, 10)
    found = begin(target, source, refresh=False)
    assert isinstance(found, Slice)
    assert found.rows == 5
    assert begin(target, Numbers(50, 10), refresh=False) == found
    assert [key for key in target.lake.keys("slices") if key != found.key] == []


def test_parts_read_in_any_order_by_others_are_sealed_to_what_one_process_would_have_published(
    target: Target, tmp_path: Path
) -> None:
    source = Numbers(25, 10)
    parts = planned(target, source)
    assert [part.number for part in parts] == [0, 1, 2]
    assert target.published() is None
    read_all(target, Numbers(25, 10), reversed(parts))
    assert target.published() is None
    sealed = seal(target, parts[0].plan)

    alone = Lake(f"file://{tmp_path}/alone")
    assert publish(Target("d", "s", RULES, WINDOW, alone), Numbers(25, 10)) == sealed
    assert values(target, sealed) == list(range(25))
    manifest = target.lake.require(sealed.key)
    assert (manifest["rows"], manifest["late"]) == (25, 3)
    assert manifest["position"] == source.freeze()
    assert source.reads == []
    checked = validate(sealed, RULES, target.lake)
    assert (checked.clean, checked.quarantined) == (25, 0)


def test_the_files_of_the_parts_are_not_copied(target: Target) -> None:
    source = Numbers(25, 10)
    parts = planned(target, source)
    read_all(target, source, parts)
    sealed = seal(target, parts[0].plan)
    own = Path(target.lake.url.removeprefix("file://")) / sealed.key
    assert list(own.rglob("*.parquet")) == []


def test_a_second_attempt_finds_a_part_done_and_reads_one_anew_that_was_altered(target: Target) -> None:
    source = Numbers(25, 10)
    parts = planned(target, source)
    read_all(target, source, [*parts, parts[1]])
    assert source.reads == [0, 1, 2]
    (altered,) = [key for key in target.lake.keys("slices") if key.endswith("00001")]
    Path(target.lake.path(altered, "raw.parquet")).write_bytes(b"")
    with pytest.raises(DataError, match=r"00001/.*is gone or was altered; publish it again"):
        seal(target, parts[0].plan)
    read_all(target, source, parts)
    assert source.reads == [0, 1, 2, 1]
    assert values(target, seal(target, parts[0].plan)) == list(range(25))


def test_a_missing_part_is_named_and_nothing_is_published(target: Target) -> None:
    source = Numbers(25, 10)
    parts = planned(target, source)
    read_all(target, source, [parts[1]])
    with pytest.raises(DataError, match=r"of 3 parts these are not there: 0, 2; clear .*`read`"):
        seal(target, parts[0].plan)
    assert target.published() is None


def test_the_same_source_again_leaves_the_manifest_as_it_was(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    def ingest(code: str) -> bytes:
        for module in ("parts", "slices"):
            monkeypatch.setattr(f"tidegate.ingest.{module}.code_version", lambda: code)
        source = Numbers(25, 10)
        parts = planned(target, source, refresh=True)
        read_all(target, source, parts)
        seal(target, parts[0].plan)
        return Path(target.lake.url.removeprefix("file://"), target.key, "manifest.json").read_bytes()

    first = ingest("1")
    assert b'"code": "1"' in first
    assert ingest("2") == first


def test_a_changed_source_is_a_new_revision_and_the_parts_of_the_old_one_stay(target: Target) -> None:
    for name in ("old", "new"):
        source = Numbers(25, 10, name)
        parts = planned(target, source, refresh=True)
        read_all(target, source, parts)
        seal(target, parts[0].plan)
    revisions = target.lake.revisions(target.key)
    assert [each["position"]["name"] for each in revisions] == ["new", "old"]
    for manifest in revisions:
        assert values(target, Slice.of_manifest(manifest)) == list(range(25))


def test_parts_that_a_dead_run_left_are_removed_by_the_next_seal(target: Target) -> None:
    dead = Numbers(25, 10, "dead")
    read_all(target, dead, planned(target, dead)[:2])
    left = set(target.lake.keys("slices"))
    source = Numbers(25, 10, "live")
    parts = planned(target, source)
    read_all(target, source, parts)
    seal(target, parts[0].plan)
    gone = {key for key in left if "/parts/" in key}
    assert len(gone) == 2
    assert not gone & set(target.lake.keys("slices"))
    assert list(Path(target.lake.url.removeprefix("file://")).rglob("*.parquet")) != []


def test_a_contract_that_changes_between_plan_and_part_is_refused(target: Target) -> None:
    source = Numbers(25, 10)
    parts = planned(target, source)
    other = replace(target, contract=replace(RULES, digest="1" * 64))
    with pytest.raises(DataError, match="the contract things was changed after the slice was planned; clear"):
        read_part(other, source, parts[0])


def test_a_slice_says_by_what_it_was_made(target: Target) -> None:
    begin(target, Numbers(5, 10), refresh=False)
    manifest = target.lake.require(target.key)
    assert (manifest["contract"], manifest["contract_version"], manifest["contract_digest"]) == (
        "things", "1", "0" * 64,
    )  # fmt: skip
    assert manifest["code"].startswith("0.1.0")
    assert manifest["window"] == {"start": "2013-01-01T00:00:00Z", "end": "2013-02-01T00:00:00Z"}
