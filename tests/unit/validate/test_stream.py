"""Rows judged as they stream by: what one pass cannot know is found all the same, in memory or beyond it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.contract import Column, Contract
from tidegate.contract.arrow import slice_schema
from tidegate.contract.masks import judge
from tidegate.handoff import Example
from tidegate.validate import stream

RULES = Contract(
    "t",
    "1",
    (
        Column("k", "int64", "int64", required=True, key=1),
        Column("u", "string", "string", unique=True),
        Column("v", "int32", "int32", minimum=0),
    ),
    "t.yaml",
    "0" * 64,
)


class Kept:
    """A sink that keeps what it was given."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, table: Any) -> None:
        self.rows += table.to_pylist()

    def again(self) -> None:
        self.rows = []


def table(rows: list[tuple[int, str | None, int]]) -> Any:
    listed = [{"k": k, "u": u, "v": v, "_position": f"p/{k}/{u}/{v}"} for k, u, v in rows]
    return pa.Table.from_pylist(listed, schema=slice_schema(RULES))


def streamed(rows: list[tuple[int, str | None, int]], size: int) -> tuple[stream.Outcome, Kept, Kept]:
    def read() -> Iterator[Any]:
        for at in range(0, len(rows), size):
            yield table(rows[at : at + size])

    clean, bad = Kept(), Kept()
    return stream.run(read, RULES, clean, bad), clean, bad


ROWS = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from([None, "a", "b", "c", "d"]), st.integers(-1, 2)), max_size=25
)


@given(ROWS, st.integers(1, 9))
def test_a_stream_is_judged_as_the_whole_would_be(rows: list[tuple[int, str | None, int]], size: int) -> None:
    whole = judge(table(rows), RULES)
    outcome, clean, bad = streamed(rows, size)

    assert clean.rows == whole.clean.to_pylist()
    assert [row["reasons"] for row in bad.rows] == whole.reasons
    assert outcome.rows == len(rows) == outcome.clean + outcome.quarantined
    assert {reason: found.rows for reason, found in outcome.findings.items()} == {
        f.reason: f.rows for f in whole.findings
    }


@pytest.mark.parametrize("held", [0, 1 << 30])
def test_keys_beyond_memory_are_found_too(monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    monkeypatch.setattr(stream, "_HELD", held)
    rows = [(n % 300, None, 0) for n in range(400)]
    rows[5] = (5, None, -1)
    outcome, clean, bad = streamed(rows, 50)

    assert outcome.reasons == {"k:duplicate": 99, "v:minimum": 1}
    assert sorted(row["k"] for row in clean.rows) == list(range(300))
    assert bad.rows[0]["reason"] == "v:minimum"
    assert outcome.examples["k:duplicate"] == Example(position="p/0/None/0", value="0")


def test_null_repeats_nothing() -> None:
    outcome, clean, _ = streamed([(1, None, 0), (2, None, 0), (3, "a", 0), (4, "a", 0)], 2)
    assert outcome.reasons == {"u:unique": 1}
    assert [row["k"] for row in clean.rows] == [1, 2, 3]
