"""A slice: the same rows make the same bytes, and what is published is not read again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
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
from tidegate.ingest.slices import publish, write
from tidegate.lake import Lake
from tidegate.units import utc

RULES = Contract("things", "1", (Column("a", "int32", "int32"),), "things.yaml", "0" * 64)
WINDOW = Window(start=utc("2013-01-01"), end=utc("2013-02-01"))


def rows(count: int, first: int = 0) -> Any:
    values = [{"a": number, "_position": f"row={number}"} for number in range(first, first + count)]
    return pa.Table.from_pylist(values, schema=slice_schema(RULES))


def ingest(lake: Lake, tables: list[Any], refresh: bool = False) -> tuple[Slice, int]:
    calls = 0

    def read(position: dict[str, Any]) -> Iterator[Any]:
        nonlocal calls
        calls += 1
        position["kind"] = "test"
        yield from tables

    found = publish(delivery="d", source="s", contract=RULES, window=WINDOW, lake=lake, refresh=refresh, read=read)
    return found, calls


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

    assert write(folder / "cut", RULES, iter(parts)) == table.num_rows
    write(folder / "whole", RULES, iter([table]))
    assert (folder / "cut").read_bytes() == (folder / "whole").read_bytes()


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

    def read(position: dict[str, Any]) -> Iterator[Any]:
        yield rows(5)
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        publish(delivery="d", source="s", contract=RULES, window=WINDOW, lake=lake, refresh=False, read=read)
    assert lake.keys("slices") == []
    assert not list(tmp_path.rglob("*.parquet"))
