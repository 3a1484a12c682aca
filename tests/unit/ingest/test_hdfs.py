"""What of a listing is data, what the next work is done ahead of, and what HDFS' errors become."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tidegate.errors import Conflict, DataError, Unavailable
from tidegate.ingest.ahead import Ahead, in_order
from tidegate.ingest.hdfs import _left_out, _may_grow
from tidegate.ingest.hdfs_client import File, Flowing, Hdfs


@pytest.mark.parametrize(
    ("path", "pattern", "reason"),
    [
        ("/r/a.parquet", "/r", None),
        ("/r/_x/b.csv", "/r/_x", None),
        ("/r/2026/b.csv.gz", "/r/*", None),
        ("/_r/b.jsonl", "/_r/*.jsonl", None),
        ("/r/_SUCCESS", "/r", "begins with . or _"),
        ("/r/.tmp/c.csv", "/r", "begins with . or _"),
        ("/r/_temporary/c.csv", "/r/*", "begins with . or _"),
        ("/r/c.csv._COPYING_", "/r", "being written"),
        ("/r/d.parquet.inprogress", "/r", "being written"),
        ("/r/d.parquet.crc", "/r", "being written"),
        ("/r/notes.txt", "/r", "no format"),
    ],
)
def test_hidden_unfinished_and_strange_files_are_left_out(path: str, pattern: str, reason: str | None) -> None:
    found = _left_out(File(path, 1, 0), pattern)
    assert (found is None) if reason is None else reason in str(found)


def test_an_empty_file_is_left_out() -> None:
    assert _left_out(File("/r/a.csv", 0, 0), "/r") == "it is empty: 0 bytes"


class Listed:
    """Stands for HDFS: of an open file fewer bytes can be read than are listed."""

    def __init__(self, readable: int):
        self._readable = readable

    def readable(self, path: str) -> int:
        return self._readable


@pytest.mark.parametrize(
    ("readable", "file", "grows"),
    [
        (10, File("/a", 10, 0, 128), False),
        (0, File("/a", 10, 0, 128), True),
        (128, File("/a", 128, 0, 128), False),
        (128, File("/a", 128, 9_999_999_999_999, 128), True),
    ],
)
def test_a_file_that_may_grow_is_told_without_webhdfs(readable: int, file: File, grows: bool) -> None:
    assert _may_grow(Listed(readable), file) is grows  # type: ignore[arg-type]  # stands for Hdfs


def test_jobs_run_side_by_side_and_give_their_items_in_order() -> None:
    both = threading.Barrier(2, timeout=20)

    def job(number: int) -> Iterator[tuple[int, int]]:
        if number < 2:
            both.wait()  # passes only if the first two run at once
        for item in range(3):
            yield number, item

    found = list(in_order([partial(job, number) for number in range(4)], 2))
    assert found == [(number, item) for number in range(4) for item in range(3)]


def test_an_error_comes_where_the_items_are_read_and_ends_the_rest() -> None:
    def job() -> Iterator[int]:
        yield 1
        raise DataError("bad")

    found = in_order([job, job], 2)
    assert next(found) == 1
    with pytest.raises(DataError, match="bad"):
        next(found)


def test_one_who_leaves_ends_the_thread_and_one_who_is_late_is_told() -> None:
    ended, stop = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            ended.set()

    left = Ahead(items, 1)
    next(left)
    left.close()
    assert ended.wait(20)

    def never() -> Iterator[int]:
        stop.wait()
        yield 1

    with pytest.raises(Unavailable, match="late"):
        next(Ahead(never, 1, 0.05, lambda: Unavailable("late")))
    stop.set()


def test_a_flow_has_its_digest_only_at_its_end() -> None:
    flow = Flowing(Ahead(lambda: iter([b"ab", b"c"]), 2))
    assert [flow.read(1), flow.read(5), flow.sha256] == [b"a", b"b", None]
    assert [flow.read(), flow.read(), flow.tell()] == [b"c", b"", 3]
    assert flow.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (FileNotFoundError("/a"), Conflict, "is not there, although it was"),
        (
            RuntimeError('RPCError("org.apache.hadoop.security.AccessControlException", "Permission denied: user=x")'),
            DataError,
            "may not be read.*grant the right",
        ),
        (OSError("connection reset\nby peer"), Unavailable, r"h:1 did not answer: connection reset \(time-out 2 s\)"),
        (RuntimeError(""), Unavailable, "RuntimeError"),
    ],
)
def test_errors_of_hdfs_are_told_in_our_words(error: Exception, kind: Any, words: str) -> None:
    hdfs = Hdfs.__new__(Hdfs)
    hdfs.address, hdfs.timeout = "h:1", 2.0
    found = hdfs.told(error, "/a")
    assert type(found) is kind
    with pytest.raises(kind, match=words):
        raise found
