"""A slice: the same rows make the same bytes, and what is published is not read again."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.contract import Column, Contract
from tidegate.contract.arrow import slice_schema
from tidegate.handoff import Slice, Window
from tidegate.ingest import slices as slices_module
from tidegate.ingest.slices import Target, publish, write
from tidegate.lake import Lake
from tidegate.units import utc

RULES = Contract("things", "1", (Column("a", "int32", "int32"),), "things.yaml", "0" * 64)
WINDOW = Window(start=utc("2013-01-01"), end=utc("2013-02-01"))


def rows(count: int, first: int = 0) -> Any:
    values = [{"a": number, "_position": f"row={number}"} for number in range(first, first + count)]
    return pa.Table.from_pylist(values, schema=slice_schema(RULES))


def ingest(lake: Lake, tables: list[Any], refresh: bool = False) -> tuple[Slice, int]:
    reading = Tables([tables])
    return publish(place(lake), reading, refresh=refresh), reading.freezes


def place(lake: Lake) -> Target:
    return Target("d", "s", RULES, WINDOW, lake)


class Tables:
    """A source in memory: per part its tables."""

    def __init__(self, by_part: list[Iterable[Any]]):
        self.by_part = by_part
        self.freezes = 0

    def freeze(self) -> dict[str, Any]:
        self.freezes += 1
        return {"kind": "test"}

    def parts(self, position: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"number": number} for number in range(len(self.by_part))]

    def rows(self, position: dict[str, Any], part: dict[str, Any]) -> Iterator[Any]:
        assert position == {"kind": "test"}
        yield from self.by_part[part["number"]]


_BIG = rows(150_000)


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 150_000), max_size=5))
def test_how_the_source_cuts_its_rows_into_batches_does_not_change_the_bytes(
    cuts: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("slices")
    table = _BIG
    bounds = [0, *sorted(cuts), table.num_rows]
    parts = [table.slice(a, b - a) for a, b in itertools.pairwise(bounds)]

    assert write(folder / "cut", RULES, iter(parts)) == (table.num_rows, 0, 0)
    write(folder / "whole", RULES, iter([table]))
    assert (folder / "cut").read_bytes() == (folder / "whole").read_bytes()


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=5),
)
def test_row_groups_end_by_the_bytes_of_their_rows_wherever_batches_end(
    sizes: list[int], cuts: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    contract = Contract("c", "1", (Column("v", "string", "string"), Column("b", "bytes", "bytes")), "c", "0" * 64)
    values = [{"v": "x" * size, "b": b"y" * (size // 2) if size % 3 else None} for size in sizes]
    table = pa.Table.from_pylist(values, schema=slice_schema(contract))
    bounds = [0, *sorted(min(cut, len(sizes)) for cut in cuts), len(sizes)]
    folder = tmp_path_factory.mktemp("groups")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slices_module, "_BYTES", 500)
        write(folder / "cut", contract, iter([table.slice(a, b - a) for a, b in itertools.pairwise(bounds)]))
        write(folder / "whole", contract, iter([table]))
    assert (folder / "cut").read_bytes() == (folder / "whole").read_bytes()
    found = pq.ParquetFile(folder / "whole")
    groups = [found.read_row_group(number) for number in range(found.num_row_groups)]
    assert [row for group in groups for row in group.select(["v", "b"]).to_pylist()] == values
    for group in groups:
        texts = [len(row["v"] or "") + len(row["b"] or b"") for row in group.to_pylist()]
        assert sum(texts[:-1]) < 500


def test_two_lakes_get_the_same_bytes_and_the_same_manifest(tmp_path: Path) -> None:
    lakes = [Lake(f"file://{tmp_path}/{name}") for name in "ab"]
    slices = [ingest(lake, [rows(10), rows(5, 10)])[0] for lake in lakes]

    assert slices[0] == slices[1]
    assert lakes[0].read(slices[0].key, "raw.parquet") == lakes[1].read(slices[1].key, "raw.parquet")


def test_a_published_slice_is_not_read_again_unless_asked(tmp_path: Path) -> None:
    lake = Lake(f"file://{tmp_path}")
    first, calls = ingest(lake, [rows(3)])
    assert calls == 1

    again, calls = ingest(lake, [rows(4)])
    assert (again, calls) == (first, 0)

    anew, calls = ingest(lake, [rows(4)], refresh=True)
    assert calls == 1
    assert anew.rows == 4
    assert anew.digest != first.digest


def test_an_empty_window_is_a_slice_with_zero_rows_and_the_right_schema(tmp_path: Path) -> None:
    lake = Lake(f"file://{tmp_path}")
    found, _ = ingest(lake, [])

    assert found.rows == 0
    table = pq.read_table(lake.local(found.key, "raw.parquet"))
    assert table.num_rows == 0
    assert table.schema.equals(slice_schema(RULES))


def test_a_source_that_breaks_off_leaves_nothing_visible(tmp_path: Path) -> None:
    lake = Lake(f"file://{tmp_path}")

    def breaking_off() -> Iterator[Any]:
        yield rows(5)
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        publish(place(lake), Tables([[rows(5)], breaking_off()]))
    assert lake.keys("slices") == []
    assert not list(tmp_path.rglob("*.parquet"))


def test_each_part_is_a_file_of_the_slice_and_by_their_names_the_rows_stand_in_order(tmp_path: Path) -> None:
    lake = Lake(f"file://{tmp_path}")
    found = publish(place(lake), Tables([[rows(3)], [rows(4, 3), rows(2, 7)], []]))

    assert found.rows == 9
    names = sorted(lake.require(found.key)["files"])
    assert names == ["raw-00000.parquet", "raw-00001.parquet", "raw-00002.parquet"]
    values = [n for name in names for n in pq.read_table(lake.local(found.key, name)).column("a").to_pylist()]
    assert values == list(range(9))


def test_late_rows_are_counted_in_the_manifest(tmp_path: Path) -> None:
    lake = Lake(f"file://{tmp_path}")
    late = rows(4).replace_schema_metadata({"late": "3"})
    found = publish(place(lake), Tables([[late, rows(1)], [late]]))

    assert lake.require(found.key)["late"] == 6
